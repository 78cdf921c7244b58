//! The epilogue of `score`: how a given token of each row stands among all.

use super::ScoreOut;
use super::list::offer;
use super::pass::{Checked, Chunk, Epilogue};
use super::sums::{Wanted, extend};
use crate::arch::unembed::Kernels;
use farspan_core::draw::write_list;
use farspan_core::merge::{Mass, TopList};

pub(super) struct Given<'a> {
    targets: &'a [i64],
    /// The targets' own logits, which the pass compares with.
    logits: Vec<f32>,
    /// How many of the most likely tokens are asked for.
    top: usize,
    out: ScoreOut<'a>,
}

impl<'a> Given<'a> {
    /// Computes the targets' logits. `targets` are tokens that exist, one for each row.
    pub(super) fn new(problem: &Checked, targets: &'a [i64], top: usize, out: ScoreOut<'a>) -> Self {
        let mut logits = vec![f32::NAN; targets.len()];
        for (row, (&target, logit)) in targets.iter().zip(&mut logits).enumerate() {
            let token = target as usize..target as usize + 1;
            problem.for_each_chunk(row..row + 1, token, |_, _, logits, _| *logit = logits[0]);
        }
        Given { targets, logits, top, out }
    }
}

/// What the pass keeps of a row.
pub(super) struct Standing {
    /// How many tokens come before the target.
    rank: i64,
    list: TopList,
}

impl Epilogue for Given<'_> {
    type Found = Standing;

    fn nothing(&self, _row: usize) -> Standing {
        Standing { rank: 0, list: TopList::new(self.top, f32::NEG_INFINITY) }
    }

    fn begin(&self, so_far: &Standing) -> Standing {
        Standing { rank: 0, list: TopList::new(self.top, so_far.list.threshold()) }
    }

    fn read(&self, kernels: &Kernels, row: usize, chunk: &Chunk, mass: &mut Mass, found: &mut Standing) {
        extend(kernels, chunk, Wanted::Moment, mass);
        found.rank += tokens_before(kernels, chunk, self.targets[row] as usize, self.logits[row]);
        if self.top > 0 {
            offer(kernels, chunk, &mut found.list);
        }
    }

    fn merge(&self, so_far: &mut Standing, segment: Standing) {
        so_far.rank += segment.rank;
        so_far.list.merge(&segment.list);
    }

    fn finish(&mut self, row: usize, masses: &[Mass], found: Standing) {
        let mass = Mass::fold(masses, 1.0);
        self.out.logprob[row] = mass.logprob(self.logits[row]);
        self.out.rank[row] = if mass.max.is_nan() { -1 } else { found.rank };
        self.out.entropy[row] = mass.entropy();
        self.out.lse[row] = mass.lse();
        let places = row * self.top..(row + 1) * self.top;
        let (tokens, logprobs) = (&mut self.out.top_token[places.clone()], &mut self.out.top_logprob[places]);
        write_list(&found.list.into_sorted(), &mass, tokens, logprobs);
    }
}

/// How many tokens of a chunk come before a token in the order of logits: larger ones, equal ones of a lower id.
pub(super) fn tokens_before(kernels: &Kernels, chunk: &Chunk, token: usize, logit: f32) -> i64 {
    let lower_ids = token.saturating_sub(chunk.tokens.start).min(chunk.tokens.len());
    kernels.count_above(chunk.logits, logit, lower_ids) as i64
}
