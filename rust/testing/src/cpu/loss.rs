//! Losses on the CPU.

use super::Cpu;
use crate::loss::{Backend, Case, Found, Loss};
use crate::numbers::{Stored, narrow, widen};
use crate::unembed::Case as Unembedding;
use farspan_core::Dtype;
use farspan_core::loss::{ScoreSlopes, Scored};
use farspan_cpu::loss::{self as losses, Gradients, Lses, Sides};
use farspan_cpu::unembed::{Problem, ScoreOut};
use farspan_cpu::{Typed, map};
use ndarray::ArrayViewMut2;

impl Backend for Cpu {
    fn cases(&self) -> u32 {
        if self.name() == "portable" { 25 } else { 100 }
    }

    /// Three numbers of threads, then the other instruction sets.
    fn variations(&self) -> u64 {
        3 + Cpu::all().count() as u64
    }

    fn run(&self, case: &Case, variation: u64) -> Found {
        match Cpu::all().nth(variation.saturating_sub(3) as usize) {
            Some(other) if variation >= 3 => other.alone(0, || run(case)),
            _ => self.alone(variation, || run(case)),
        }
    }

    /// Slopes are float32.
    fn rounding(&self, _dtype: Dtype) -> f64 {
        0.0
    }
}

/// Loss and gradients, on the instruction set and the threads that are set.
fn run(case: &Case) -> Found {
    let Unembedding { hidden, weight, .. } = &case.unembedding;
    let problem =
        Problem { hidden: hidden.matrix(), weight: weight.matrix(), rules: case.unembedding.rules(), shard: None };
    let rows = case.rows();
    let mut of_hidden = Buffer::new(hidden);
    let mut of_weight = Buffer::new(weight);
    let mut bias = vec![7.0; weight.rows];
    let out = Gradients { hidden: Some(of_hidden.view()), weight: Some(of_weight.view()), bias: Some(&mut bias) };
    let [mut loss, mut max, mut log_sum, mut other_max, mut other_sum] = [(); 5].map(|()| vec![7.0; rows]);
    let targets = case.targets();
    match &case.loss {
        Loss::CrossEntropy { .. } => {
            let settings = case.settings(&targets);
            let lse = Lses { max: &mut max[..], log_sum: &mut log_sum };
            losses::linear_cross_entropy(&problem, &settings, &mut loss, lse).unwrap();
            let lse = Lses { max: &max[..], log_sum: &log_sum };
            losses::linear_cross_entropy_gradient(&problem, &settings, lse, &case.upstream, out).unwrap();
        }
        Loss::Score(by) => {
            let mut rank = vec![0; rows];
            let results = ScoreOut {
                logprob: &mut loss,
                rank: &mut rank,
                entropy: &mut other_max,
                lse: &mut max,
                top_token: &mut [],
                top_logprob: &mut [],
            };
            farspan_cpu::unembed::score(&problem, &targets, 0, results).unwrap();
            let [logprob, entropy, by_lse] = by.map(|by| case.upstream.iter().map(|up| up * by).collect::<Vec<f32>>());
            let scored = Scored { targets: &targets, entropy: &other_max, lse: &max, top_token: &[] };
            let slopes = ScoreSlopes { logprob: &logprob, entropy: &entropy, lse: &by_lse, top_logprob: &[] };
            losses::score_gradient(&problem, &scored, &slopes, out).unwrap();
            loss.clear();
        }
        Loss::Divergence { hidden, weight, bias, temperature } => {
            let mut rules = problem.rules;
            rules.bias = bias.as_deref();
            let target = Problem { hidden: hidden.matrix(), weight: weight.matrix(), rules, shard: None };
            let sides = Sides { model: &problem, target: &target, temperature: *temperature };
            let own = Lses { max: &mut max[..], log_sum: &mut log_sum };
            let other = Lses { max: &mut other_max[..], log_sum: &mut other_sum };
            losses::divergence(&sides, &mut loss, [own, other]).unwrap();
            let own = Lses { max: &max[..], log_sum: &log_sum };
            let other = Lses { max: &other_max[..], log_sum: &other_sum };
            losses::divergence_gradient(&sides, [own, other], &case.upstream, out).unwrap();
        }
    }
    Found { loss, hidden: widen(&of_hidden.0), weight: widen(&of_weight.0), bias }
}

/// A gradient as large as a matrix.
struct Buffer(Typed<Vec<f32>, Vec<u16>>, (usize, usize));

impl Buffer {
    fn new(like: &Stored) -> Buffer {
        Buffer(narrow(&vec![7.0; like.rows * like.columns], like.dtype), (like.rows, like.columns))
    }

    fn view(&mut self) -> Typed<ArrayViewMut2<'_, f32>, ArrayViewMut2<'_, u16>> {
        map!(x in &mut self.0 => ArrayViewMut2::from_shape(self.1, x).unwrap())
    }
}
