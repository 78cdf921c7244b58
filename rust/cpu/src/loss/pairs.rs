//! The pass of the divergence: the same tokens of two problems side by side.
//!
//! It is cut as the unembedding's pass is, and sums are merged in the order of tokens.

use crate::arch::buffer::Buffer;
use crate::arch::loss;
use crate::product::{CHUNK, block_rows};
use crate::unembed::pass::{Checked, SEGMENT};
use crate::{dispatch, threads};
use farspan_core::Result;
use farspan_core::loss::Pair;
use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::Range;

thread_local! {
    /// Logits of the target: a chunk for each row of a block.
    static TARGETS: RefCell<Buffer> = RefCell::default();
}

/// Hands the sums of each row to `each`, rows in order.
pub(super) fn run(
    model: &Checked,
    target: &Checked,
    inverse_temperature: f32,
    mut each: impl FnMut(usize, &Pair),
) -> Result<()> {
    let (rows, tokens) = (model.hidden.count(), model.tokens.count);
    let (block, segments) = (block_rows(rows), tokens.div_ceil(SEGMENT));
    let blocks = rows.div_ceil(block);
    let mut found = vec![Pair::NOTHING; segments * blocks * block];
    let sides = Sides { kernels: loss::kernels(dispatch::machine()?), model, target, inverse_temperature };
    threads::run(|| {
        found.par_chunks_mut(block).enumerate().for_each(|(index, found)| {
            let (segment, first) = (index / blocks, index % blocks * block);
            let here = first..rows.min(first + block);
            sides.read(here, segment * SEGMENT..tokens.min((segment + 1) * SEGMENT), found);
        });
    })?;
    for row in 0..rows {
        let segments = found.chunks_exact(blocks * block).map(|segment| segment[row]);
        each(row, &segments.fold(Pair::NOTHING, Pair::merge));
    }
    Ok(())
}

struct Sides<'a> {
    kernels: loss::Kernels,
    model: &'a Checked<'a>,
    target: &'a Checked<'a>,
    inverse_temperature: f32,
}

impl Sides<'_> {
    /// Adds the sums of some rows over some tokens to `found`.
    fn read(&self, rows: Range<usize>, tokens: Range<usize>, found: &mut [Pair]) {
        for first in tokens.clone().step_by(CHUNK) {
            self.read_chunk(rows.clone(), first..tokens.end.min(first + CHUNK), found);
        }
    }

    fn read_chunk(&self, rows: Range<usize>, tokens: Range<usize>, found: &mut [Pair]) {
        TARGETS.with_borrow_mut(|targets| {
            let targets = targets.take(rows.len() * CHUNK);
            let mut maxima = vec![f32::NAN; rows.len()];
            self.target.for_each_chunk(rows.clone(), tokens.clone(), |row, _, logits, max| {
                targets[row * CHUNK..][..logits.len()].copy_from_slice(logits);
                maxima[row] = max;
            });
            self.model.for_each_chunk(rows, tokens, |row, _, logits, max| {
                let target = &targets[row * CHUNK..][..logits.len()];
                found[row] = found[row].merge(self.pair((logits, max), (target, maxima[row])));
            });
        });
    }

    /// The sums of a row's logits, whose maxima are given.
    fn pair(&self, (logits, max): (&[f32], f32), (target, target_max): (&[f32], f32)) -> Pair {
        let inverse = self.inverse_temperature;
        let (max, target_max) = (max * inverse, target_max * inverse);
        // Of nothing but -inf the sums are 0, relative to any number.
        let [below, target_below] = [max, target_max].map(|max| if max == f32::NEG_INFINITY { 0.0 } else { max });
        let ([sum, target_sum, cross], impossible) =
            self.kernels.pair_sums(logits, target, (below, target_below), inverse);
        Pair { max, sum, target_max, target_sum, cross, impossible }
    }
}
