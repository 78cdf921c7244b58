//! The unembedding on the CPU.

use super::Cpu;
use crate::numbers::bits;
use crate::unembed::{Backend, Case, Chosen, Results, judge};
use farspan_cpu::unembed::{Problem, Samples, ScoreOut, TopOut, greedy, sample, score, top};

impl Backend for Cpu {
    const QUICK: bool = true;

    fn cases(&self) -> u32 {
        match self.name() {
            "portable" => 30,
            _ => 140,
        }
    }

    fn run(&self, case: &Case, variation: u64) -> Results {
        self.alone(variation, || run(case))
    }

    fn allowed(&self, case: &Case, row: usize) -> f64 {
        // Sixteen sums side by side, and a tree over them.
        judge::rounding(case, row, 0.5 * (case.hidden.columns.div_ceil(16) as f64 + 8.0), 1.0)
    }
}

impl Cpu {
    /// One draw of each row, or its largest logit.
    pub fn choose(&self, case: &Case, sampled: bool) -> Chosen {
        self.alone(0, || choose(case, sampled))
    }
}

fn problem(case: &Case) -> Problem<'_> {
    Problem { hidden: case.hidden.matrix(), weight: case.weight.matrix(), rules: case.rules(), shard: None }
}

fn choose(case: &Case, sampled: bool) -> Chosen {
    let mut samples = Samples::new(case.hidden.rows, 1, 0);
    match sampled {
        true => sample(&problem(case), &case.draws(), None, samples.out()).unwrap(),
        false => greedy(&problem(case), samples.out()).unwrap(),
    }
    let Samples { token, flag, logprob, raw_logprob, lse, .. } = samples;
    Chosen { token, flag, numbers: [bits(&logprob), bits(&raw_logprob), bits(&lse)] }
}

fn run(case: &Case) -> Results {
    let rows = case.hidden.rows;
    let mut results = Results { greedy: choose(case, false), sample: choose(case, true), ..Results::default() };
    if case.valid_vocab > 0 {
        let [mut logprob, mut entropy, mut lse] = [(); 3].map(|()| vec![7.0; rows]);
        let mut rank = vec![7; rows];
        let k = case.k.min(128);
        let (mut top_token, mut top_logprob) = (vec![7; rows * k], vec![7.0; rows * k]);
        let out = ScoreOut {
            logprob: &mut logprob,
            rank: &mut rank,
            entropy: &mut entropy,
            lse: &mut lse,
            top_token: &mut top_token,
            top_logprob: &mut top_logprob,
        };
        score(&problem(case), &case.targets, k, out).unwrap();
        results.score = [bits(&logprob), bits(&entropy), bits(&lse)];
        results.rank = rank;
        judge::list_beside_score((&top_token, &top_logprob), top_list(case, k), k);
    }
    let (token, logit, lse) = top_list(case, case.k);
    results.top_token = token;
    results.top = [bits(&logit), bits(&lse)];
    results
}

fn top_list(case: &Case, k: usize) -> (Vec<i64>, Vec<f32>, Vec<f32>) {
    let rows = case.hidden.rows;
    let (mut token, mut logit, mut lse) = (vec![7; rows * k], vec![7.0; rows * k], vec![7.0; rows]);
    let out = TopOut { token: &mut token, logit: &mut logit, lse: &mut lse };
    top(&problem(case), k, out).unwrap();
    (token, logit, lse)
}
