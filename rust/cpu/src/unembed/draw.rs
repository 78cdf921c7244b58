//! The epilogue of `greedy` and `sample`: one pass finds the draws of rows that nothing is cut from, and the largest
//! logits of all rows, which decide nearly every cut.

use super::chunk::Chunk;
use super::pass::Epilogue;
use super::row::Row;
use crate::arch::unembed::Kernels;
use farspan_core::draw::RowStatistics;
use farspan_core::merge::{Best, Mass, Spread, TopList};
use std::ops::Range;

/// Hands the statistics of each row to `each`.
pub(super) struct Draw<'p, 'a, F> {
    pub rows: &'p [Row<'a>],
    pub samples: usize,
    pub each: F,
}

/// What the pass keeps of a row.
pub(super) struct DrawState {
    /// One per sample, of a row that nothing is cut from.
    best: Vec<Best>,
    list: TopList,
    /// How many logits are above -inf.
    size: usize,
    /// Spreads of chunks by first token: put into that order, whichever thread came first.
    spreads: Vec<(usize, Spread)>,
    row: usize,
}

impl<F: FnMut(usize, RowStatistics) + Sync> Epilogue for Draw<'_, '_, F> {
    type State = DrawState;

    fn nothing(&self, row: usize) -> DrawState {
        let plan = &self.rows[row].plan;
        DrawState {
            best: vec![Best::NOTHING; plan.free().map_or(0, |_| self.samples)],
            list: TopList::new(plan.listed, f32::NEG_INFINITY),
            size: 0,
            spreads: Vec::new(),
            row,
        }
    }

    fn begin(&self, so_far: &DrawState) -> DrawState {
        let listed = self.rows[so_far.row].plan.listed;
        DrawState {
            best: so_far.best.clone(),
            list: TopList::new(listed, so_far.list.threshold()),
            ..self.nothing(so_far.row)
        }
    }

    fn change(&self, kernels: &Kernels, row: usize, tokens: &Range<usize>, logits: &mut [f32], max: f32) -> f32 {
        self.rows[row].change(kernels, tokens, logits, max)
    }

    fn read(&self, kernels: &Kernels, row: usize, chunk: &Chunk, mass: &mut Mass, state: &mut DrawState) {
        let plan = &self.rows[row].plan;
        self.rows[row].extend(kernels, chunk, mass);
        chunk.offer(kernels, &mut state.list);
        let count = kernels.count_above(chunk.logits, f32::NEG_INFINITY, 0);
        state.size += count;
        if plan.spreads() {
            state.spreads.push((chunk.tokens.start, spread(kernels, chunk.logits, count)));
        }
        if let Some(warm) = plan.free() {
            for (sample, best) in state.best.iter_mut().enumerate() {
                let first = chunk.tokens.start as u32;
                kernels.best_perturbed(chunk.logits, first, &warm.key(sample), warm.inverse, best);
            }
        }
    }

    fn merge(&self, so_far: &mut DrawState, segment: DrawState) {
        so_far.best.iter_mut().zip(segment.best).for_each(|(best, other)| *best = best.merge(other));
        so_far.list.merge(&segment.list);
        so_far.size += segment.size;
        so_far.spreads.extend(segment.spreads);
    }

    fn finish(&mut self, row: usize, masses: &[Mass], mut state: DrawState) {
        state.spreads.sort_by_key(|(first, _)| *first);
        let statistics = RowStatistics {
            masses: masses.to_vec(),
            best: state.best,
            list: state.list.into_sorted(),
            size: state.size as u64,
            spreads: state.spreads.into_iter().map(|(_, spread)| spread).collect(),
        };
        (self.each)(row, statistics);
    }
}

/// Number, mean and squared deviations of a chunk's logits above -inf, in two sweeps of it.
fn spread(kernels: &Kernels, logits: &[f32], count: usize) -> Spread {
    let first = logits.iter().copied().find(|l| *l > f32::NEG_INFINITY).unwrap_or(0.0);
    let mean = first + kernels.deviations(logits, first) / count.max(1) as f32;
    Spread { count: count as u32, mean: mean.into(), squares: kernels.squared_deviations(logits, mean).into() }
}
