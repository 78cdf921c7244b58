//! Each kernel compiled for each machine, behind functions that check what they are given.

use super::outer::{self, DEPTH, Outer};
use super::rows::{self, Sloping};
use crate::arch::element::each_element;
use crate::arch::lanes::LANES;
use crate::arch::portable::Portable;
use crate::arch::product::Rows;

type PairSums = unsafe fn(&[f32], &[f32], (f32, f32), f32) -> ([f32; 3], bool);

/// The functions of one machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernels {
    /// Rows of a tile of [`Kernels::outer`].
    pub tile_rows: usize,
    /// Columns of one.
    pub tile_columns: usize,
    outer: unsafe fn(&mut Outer, usize),
    pack: unsafe fn(&Rows, Option<&[f32]>, &mut [f32]),
    weighted_sum: unsafe fn(&[f32], usize, Option<&[f32]>) -> f32,
    pair_sums: PairSums,
    slopes: unsafe fn(&mut [f32], &mut [f32], usize, &Sloping),
    chain_on: unsafe fn(&mut [f32], &[f32], &mut [f32]),
}

/// Every call below: the table is made for a machine that is available, and the assertions before it are what the
/// kernel asks of its operands.
impl Kernels {
    /// How many columns panels of `columns` columns have.
    pub(crate) fn width(&self, columns: usize) -> usize {
        columns.max(1).next_multiple_of(self.tile_columns)
    }

    /// `out[i, ..] (+)= sum over k of a[k][i] * b[k, ..]`.
    pub(crate) fn outer(&self, mut call: Outer) {
        let tiles = call.check(self.tile_rows, self.tile_columns);
        // SAFETY: see the impl.
        unsafe { (self.outer)(&mut call, tiles) }
    }

    /// At most [`DEPTH`] rows in panels `[width / LANES, DEPTH, LANES]`; those whose bias is -inf as zeros.
    pub(crate) fn pack(&self, rows: &Rows, bias: Option<&[f32]>, out: &mut [f32]) {
        assert!(rows.count() <= DEPTH && out.len() == self.width(rows.columns()) * DEPTH);
        assert!(bias.is_none_or(|bias| bias.len() == rows.count()));
        // SAFETY: see the impl.
        unsafe { (self.pack)(rows, bias, out) }
    }

    /// Sum of `weight * l` over the first `count` logits.
    pub(crate) fn weighted_sum(&self, row: &[f32], count: usize, weights: Option<&[f32]>) -> f32 {
        assert!(count <= row.len() && weights.is_none_or(|weights| weights.len() >= count));
        // SAFETY: see the impl.
        unsafe { (self.weighted_sum)(row, count, weights) }
    }

    /// Softmax sums of both sides relative to these maxima, the cross sum, and whether a token is impossible.
    pub(crate) fn pair_sums(
        &self,
        row: &[f32],
        target: &[f32],
        maxima: (f32, f32),
        inverse_temperature: f32,
    ) -> ([f32; 3], bool) {
        assert!(row.len() == target.len() && row.len().is_multiple_of(LANES));
        // SAFETY: see the impl.
        unsafe { (self.pair_sums)(row, target, maxima, inverse_temperature) }
    }

    /// Turns the first `count` products of `row` into slopes by logits; `chain` are those of logits by products.
    pub(crate) fn slopes(&self, row: &mut [f32], chain: &mut [f32], count: usize, how: &Sloping) {
        assert!(row.len() == chain.len() && row.len().is_multiple_of(LANES) && count <= row.len());
        assert!([how.rule.bias, how.class_weight, how.target].iter().flatten().all(|list| list.len() >= count));
        assert!(how.target.is_none_or(|target| target.len() >= count.next_multiple_of(LANES)));
        // SAFETY: see the impl.
        unsafe { (self.slopes)(row, chain, count, how) }
    }

    /// Adds the slopes by logits to `sums` and makes them slopes by products.
    pub(crate) fn chain_on(&self, row: &mut [f32], chain: &[f32], sums: &mut [f32]) {
        assert!(row.len() == chain.len() && row.len() == sums.len() && row.len().is_multiple_of(LANES));
        // SAFETY: see the impl.
        unsafe { (self.chain_on)(row, chain, sums) }
    }
}

/// Compiles the kernels for one machine; a tile is what its registers hold, rows x vectors.
macro_rules! compile {
    ($module:ident, $machine:ty, [$rows:literal, $vectors:literal] $(, $feature:literal)?) => {
        mod $module {
            use super::*;

            $(#[target_feature(enable = $feature)])?
            unsafe fn outer(call: &mut Outer, tiles: usize) {
                // SAFETY: the caller's.
                unsafe { outer::outer::<$machine, $rows, $vectors>(call, tiles) }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn pack(rows: &Rows, bias: Option<&[f32]>, out: &mut [f32]) {
                // SAFETY: the caller's.
                unsafe {
                    each_element!(E, start in rows.start => outer::pack::<$machine, E>(rows, start.cast(), bias, out))
                }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn weighted_sum(row: &[f32], count: usize, weights: Option<&[f32]>) -> f32 {
                // SAFETY: the caller's.
                unsafe { rows::weighted_sum::<$machine>(row, count, weights) }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn pair_sums(
                row: &[f32],
                target: &[f32],
                maxima: (f32, f32),
                inverse_temperature: f32,
            ) -> ([f32; 3], bool) {
                // SAFETY: the caller's.
                unsafe { rows::pair_sums::<$machine>(row, target, maxima, inverse_temperature) }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn slopes(row: &mut [f32], chain: &mut [f32], count: usize, how: &Sloping) {
                // SAFETY: the caller's.
                unsafe { rows::slopes::<$machine>(row, chain, count, how) }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn chain_on(row: &mut [f32], chain: &[f32], sums: &mut [f32]) {
                // SAFETY: the caller's.
                unsafe { rows::chain_on::<$machine>(row, chain, sums) }
            }

            pub(super) const KERNELS: Kernels = Kernels {
                tile_rows: $rows,
                tile_columns: $vectors * LANES,
                outer,
                pack,
                weighted_sum,
                pair_sums,
                slopes,
                chain_on,
            };
        }
    };
}

compile!(portable, Portable, [2, 1]);
#[cfg(target_arch = "x86_64")]
compile!(avx2, crate::arch::avx2::Avx2, [6, 1], "avx2,fma,f16c");
#[cfg(target_arch = "x86_64")]
compile!(avx512, crate::arch::avx512::Avx512, [12, 2], "avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx2,fma,f16c");

kernels_by_machine!();
