//! The epilogue of `score`: where a given token of each row ranks among all.

use super::ScoreOut;
use super::chunk::{Chunk, Sums};
use super::pass::{Checked, Epilogue};
use crate::arch::unembed::Kernels;
use farspan_core::draw::write_list;
use farspan_core::merge::{Mass, TopList};

pub(super) struct Score<'a> {
    targets: &'a [i64],
    /// The targets' own logits, which the pass compares with.
    logits: Vec<f32>,
    /// How many of the most likely tokens are asked for.
    top: usize,
    out: ScoreOut<'a>,
}

impl<'a> Score<'a> {
    /// Computes the targets' logits. `targets` are tokens that exist, one for each row.
    pub(super) fn new(problem: &Checked, targets: &'a [i64], top: usize, out: ScoreOut<'a>) -> Self {
        let mut logits = vec![f32::NAN; targets.len()];
        for (row, (&target, logit)) in targets.iter().zip(&mut logits).enumerate() {
            let token = target as usize..target as usize + 1;
            problem.for_each_chunk(row..row + 1, token, |_, _, logits, _| *logit = logits[0]);
        }
        Score { targets, logits, top, out }
    }
}

/// What the pass keeps of a row.
pub(super) struct ScoreState {
    /// How many tokens come before the target.
    rank: i64,
    list: TopList,
}

impl Epilogue for Score<'_> {
    type State = ScoreState;

    fn nothing(&self, _row: usize) -> ScoreState {
        ScoreState { rank: 0, list: TopList::new(self.top, f32::NEG_INFINITY) }
    }

    fn begin(&self, so_far: &ScoreState) -> ScoreState {
        ScoreState { rank: 0, list: TopList::new(self.top, so_far.list.threshold()) }
    }

    fn read(&self, kernels: &Kernels, row: usize, chunk: &Chunk, mass: &mut Mass, state: &mut ScoreState) {
        chunk.extend(kernels, Sums::Moment, mass);
        state.rank += chunk.tokens_before(kernels, self.targets[row] as usize, self.logits[row]);
        if self.top > 0 {
            chunk.offer(kernels, &mut state.list);
        }
    }

    fn merge(&self, so_far: &mut ScoreState, segment: ScoreState) {
        so_far.rank += segment.rank;
        so_far.list.merge(&segment.list);
    }

    fn finish(&mut self, row: usize, masses: &[Mass], state: ScoreState) {
        let mass = Mass::fold(masses, 1.0);
        self.out.logprob[row] = mass.logprob(self.logits[row]);
        self.out.rank[row] = if mass.max.is_nan() { -1 } else { state.rank };
        self.out.entropy[row] = mass.entropy();
        self.out.lse[row] = mass.lse();
        let places = row * self.top..(row + 1) * self.top;
        let (tokens, logprobs) = (&mut self.out.top_token[places.clone()], &mut self.out.top_logprob[places]);
        write_list(&state.list.into_sorted(), &mass, tokens, logprobs);
    }
}
