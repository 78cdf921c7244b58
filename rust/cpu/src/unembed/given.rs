//! The epilogue of `score`: how a given token of each row stands among all.

use super::ScoreOut;
use super::pass::{Chunk, Epilogue, Problem};
use super::sums::{Wanted, extend};
use crate::arch::unembed::{Kernels, PAIRED};
use crate::product::for_each_chunk;
use farspan_core::merge::Mass;

pub(super) struct Given<'a> {
    targets: &'a [i64],
    /// The targets' own logits, which the pass compares with.
    logits: Vec<f32>,
    out: ScoreOut<'a>,
}

impl<'a> Given<'a> {
    /// Computes the targets' logits. `targets` are tokens that exist, one for each row.
    pub(super) fn new(problem: &Problem, targets: &'a [i64], out: ScoreOut<'a>) -> Self {
        let mut logits = vec![f32::NAN; targets.len()];
        for (row, (&target, logit)) in targets.iter().zip(&mut logits).enumerate() {
            let token = target as usize..target as usize + 1;
            let x = problem.hidden.part(row, 1);
            for_each_chunk(&problem.kernels, x, problem.weight, token, |_, token, products| {
                debug_assert_eq!(products.len(), PAIRED);
                problem.kernels.apply_rule(products, 1, &problem.rule(token));
                *logit = products[0];
            });
        }
        Given { targets, logits, out }
    }
}

impl Epilogue for Given<'_> {
    /// How many tokens come before the target.
    type Found = i64;

    fn nothing(&self, _row: usize) -> i64 {
        0
    }

    fn begin(&self, _so_far: &i64) -> i64 {
        0
    }

    fn read(&self, kernels: &Kernels, row: usize, chunk: &Chunk, mass: &mut Mass, rank: &mut i64) {
        extend(kernels, chunk, Wanted::Moment, mass);
        *rank += tokens_before(kernels, chunk, self.targets[row] as usize, self.logits[row]);
    }

    fn merge(&self, so_far: &mut i64, segment: i64) {
        *so_far += segment;
    }

    fn finish(&mut self, row: usize, mass: Mass, rank: i64) {
        self.out.logprob[row] = mass.logprob(self.logits[row]);
        self.out.rank[row] = if mass.max.is_nan() { -1 } else { rank };
        self.out.entropy[row] = mass.entropy();
        self.out.lse[row] = mass.lse();
    }
}

/// How many tokens of a chunk come before a token in the order of logits: larger ones, equal ones of a lower id.
pub(super) fn tokens_before(kernels: &Kernels, chunk: &Chunk, token: usize, logit: f32) -> i64 {
    let lower_ids = token.saturating_sub(chunk.tokens.start).min(chunk.tokens.len());
    kernels.count_above(chunk.logits, logit, lower_ids) as i64
}
