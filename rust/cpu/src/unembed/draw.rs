//! The epilogue of `greedy` and `sample`: one pass finds the draws of rows that nothing is cut from, and the largest
//! logits of all rows, which decide nearly every cut.

use super::changes::Changes;
use super::list::offer;
use super::pass::{Chunk, Epilogue};
use super::sums::{Wanted, extend};
use crate::arch::unembed::Kernels;
use farspan_core::draw::{Found, Plan};
use farspan_core::merge::{Best, Mass, Spread, TopList};
use std::ops::Range;

/// How one row is read: its draw, and what happens to single logits.
pub(super) struct Row<'a> {
    pub plan: Plan,
    pub changes: Option<Changes<'a>>,
}

impl Row<'_> {
    /// As [`Epilogue::change`].
    pub(super) fn change(&self, kernels: &Kernels, tokens: &Range<usize>, logits: &mut [f32], max: f32) -> f32 {
        self.changes.as_ref().map_or(max, |changes| changes.apply(kernels, tokens, logits, max))
    }

    /// Adds a chunk to the row's softmax sums. At temperature 1 those at the temperature are the plain ones.
    pub(super) fn extend(&self, kernels: &Kernels, chunk: &Chunk, mass: &mut Mass) {
        let inverse = self.plan.inverse_temperature();
        extend(kernels, chunk, if inverse == 1.0 { Wanted::Moment } else { Wanted::Tempered(inverse) }, mass);
    }
}

/// Hands what it found of each row to `each`.
pub(super) struct Draw<'p, 'a, F> {
    pub rows: &'p [Row<'a>],
    pub samples: usize,
    pub each: F,
}

/// What the pass keeps of a row.
pub(super) struct Reading {
    /// One per sample, of a row that nothing is cut from.
    best: Vec<Best>,
    list: TopList,
    /// How many logits are above -inf.
    size: usize,
    /// Spreads of chunks by first token: put into that order, whichever thread came first.
    spreads: Vec<(usize, Spread)>,
    row: usize,
}

impl<F: FnMut(usize, Found) + Sync> Epilogue for Draw<'_, '_, F> {
    type Found = Reading;

    fn nothing(&self, row: usize) -> Reading {
        let plan = &self.rows[row].plan;
        Reading {
            best: vec![Best::NOTHING; plan.free().map_or(0, |_| self.samples)],
            list: TopList::new(plan.listed, f32::NEG_INFINITY),
            size: 0,
            spreads: Vec::new(),
            row,
        }
    }

    fn begin(&self, so_far: &Reading) -> Reading {
        let listed = self.rows[so_far.row].plan.listed;
        Reading {
            best: so_far.best.clone(),
            list: TopList::new(listed, so_far.list.threshold()),
            ..self.nothing(so_far.row)
        }
    }

    fn change(&self, kernels: &Kernels, row: usize, tokens: &Range<usize>, logits: &mut [f32], max: f32) -> f32 {
        self.rows[row].change(kernels, tokens, logits, max)
    }

    fn read(&self, kernels: &Kernels, row: usize, chunk: &Chunk, mass: &mut Mass, found: &mut Reading) {
        let plan = &self.rows[row].plan;
        self.rows[row].extend(kernels, chunk, mass);
        offer(kernels, chunk, &mut found.list);
        let count = kernels.count_above(chunk.logits, f32::NEG_INFINITY, 0);
        found.size += count;
        if plan.spreads() {
            found.spreads.push((chunk.tokens.start, spread(kernels, chunk.logits, count)));
        }
        if let Some(warm) = plan.free() {
            for (sample, best) in found.best.iter_mut().enumerate() {
                let first = chunk.tokens.start as u32;
                kernels.best_perturbed(chunk.logits, first, &warm.key(sample), warm.inverse, best);
            }
        }
    }

    fn merge(&self, so_far: &mut Reading, segment: Reading) {
        so_far.best.iter_mut().zip(segment.best).for_each(|(best, other)| *best = best.merge(other));
        so_far.list.merge(&segment.list);
        so_far.size += segment.size;
        so_far.spreads.extend(segment.spreads);
    }

    fn finish(&mut self, row: usize, masses: &[Mass], mut found: Reading) {
        found.spreads.sort_by_key(|(first, _)| *first);
        let found = Found {
            masses: masses.to_vec(),
            best: found.best,
            list: found.list.into_sorted(),
            size: found.size as u64,
            spreads: found.spreads.into_iter().map(|(_, spread)| spread).collect(),
        };
        (self.each)(row, found);
    }
}

/// Number, mean and squared deviations of a chunk's logits above -inf, in two sweeps of it.
fn spread(kernels: &Kernels, logits: &[f32], count: usize) -> Spread {
    let first = logits.iter().copied().find(|l| *l > f32::NEG_INFINITY).unwrap_or(0.0);
    let mean = first + kernels.deviations(logits, first) / count.max(1) as f32;
    Spread { count: count as u32, mean: mean.into(), squares: kernels.squared_deviations(logits, mean).into() }
}
