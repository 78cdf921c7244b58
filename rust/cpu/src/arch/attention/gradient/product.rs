//! The products of the backward pass. Every element is a single chain of fused multiply-adds over keys, over dimensions
//! or over queries in their order, so its bits do not depend on what is computed beside it.

use super::PITCH;
use crate::arch::attention::Machine;
use crate::arch::attention::product::{Columns, HIDDEN, by_height, chain, guarded_chain, is_spoilt};
use crate::arch::lanes::{LANES, Lanes};
use std::ops::Range;

/// How a product meets what stands in its place.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Onto {
    /// It takes the place.
    Nothing,
    /// The chains go on.
    Sums,
}

/// Rows of results: where the first begins, and how far apart they are.
type Place = (*mut f32, usize);

/// `out[r][v] = sum of a[r, k] * b[k, v]`, or with [`Onto::Sums`] `+=`. Row r and step k of `a` lie at
/// `r * A_ROW + k * A_STEP`. With `GUARD`, steps at which `a` is [`HIDDEN`] are left out, whatever `b` holds there.
/// Gives the first panel not done.
///
/// # Safety
/// As [`Lanes`]; the pointers must be valid for all of that.
#[inline(always)]
unsafe fn product<
    L: Lanes,
    const R: usize,
    const V: usize,
    const A_ROW: usize,
    const A_STEP: usize,
    const GUARD: bool,
>(
    a: *const f32,
    b: Columns,
    count: usize,
    panels: Range<usize>,
    (out, stride): Place,
    onto: Onto,
) -> usize {
    let mut panel = panels.start;
    // SAFETY: the caller's.
    unsafe {
        while panel + V <= panels.end {
            let out = out.add(panel * LANES);
            let mut starts = [b.start; V];
            for (v, start) in starts.iter_mut().enumerate() {
                *start = b.start.add((panel + v) * b.panel);
            }
            let mut acc = read::<L, R, V>(out, stride, onto);
            chain::<L, R, V, A_ROW, A_STEP>(&mut acc, a, starts, b.step, count);
            if GUARD && is_spoilt::<L, R, V>(&acc) {
                acc = read::<L, R, V>(out, stride, onto);
                guarded_chain::<L, R, V, A_ROW, A_STEP>(&mut acc, a, starts, b.step, count);
            }
            for (r, row) in acc.iter().enumerate() {
                for (v, cell) in row.iter().enumerate() {
                    L::store(out.add(r * stride + v * LANES), *cell);
                }
            }
            panel += V;
        }
    }
    panel
}

/// Where the chains of a product begin.
#[inline(always)]
unsafe fn read<L: Lanes, const R: usize, const V: usize>(out: *const f32, stride: usize, onto: Onto) -> [[L::F; V]; R] {
    // SAFETY: the caller's.
    unsafe {
        let mut acc = [[L::splat(0.0); V]; R];
        if onto == Onto::Sums {
            for (r, row) in acc.iter_mut().enumerate() {
                for (v, cell) in row.iter_mut().enumerate() {
                    *cell = L::load(out.add(r * stride + v * LANES));
                }
            }
        }
        acc
    }
}

#[inline(always)]
unsafe fn dots_of<L: Lanes, const R: usize, const V: usize>(
    rows: *const f32,
    keys: *const f32,
    dim: usize,
    panels: Range<usize>,
    out: *mut f32,
) -> usize {
    let columns = Columns { start: keys, step: LANES, panel: dim * LANES };
    // SAFETY: the caller's.
    unsafe { product::<L, R, V, 1, R, false>(rows, columns, dim, panels, (out, PITCH), Onto::Nothing) }
}

/// Products of packed rows `[dim][height]` with the panels `[dim][LANES]` of keys or values, to rows [`PITCH`] apart.
///
/// # Safety
/// As [`Lanes`]; the pointers must be valid for all of that.
#[inline(always)]
pub(super) unsafe fn dots<L: Machine>(
    height: usize,
    rows: *const f32,
    keys: *const f32,
    dim: usize,
    panels: Range<usize>,
    out: *mut f32,
) {
    // SAFETY: the caller's.
    unsafe { by_height!(L, height, panels, |rest| dots_of(rows, keys, dim, rest.clone(), out)) }
}

#[inline(always)]
unsafe fn along_of<L: Lanes, const R: usize, const V: usize>(
    slopes: *const f32,
    keys: Columns,
    count: usize,
    panels: Range<usize>,
    out: Place,
) -> usize {
    // SAFETY: the caller's.
    unsafe { product::<L, R, V, PITCH, 1, true>(slopes, keys, count, panels, out, Onto::Nothing) }
}

/// Sums over `count` keys: rows of `slopes`, [`PITCH`] apart, with rows of keys.
///
/// # Safety
/// As [`Lanes`]; the pointers must be valid for all of that.
#[inline(always)]
pub(super) unsafe fn along<L: Machine>(
    height: usize,
    slopes: *const f32,
    keys: Columns,
    count: usize,
    panels: Range<usize>,
    out: Place,
) {
    // SAFETY: the caller's.
    unsafe { by_height!(L, height, panels, |rest| along_of(slopes, keys, count, rest.clone(), out)) }
}

#[inline(always)]
unsafe fn across_of<L: Machine, const R: usize>(
    slopes: *const f32,
    rows: Columns,
    count: usize,
    panels: Range<usize>,
    out: Place,
) {
    let mut rest = panels;
    // SAFETY: the caller's.
    unsafe {
        if L::WIDE {
            rest.start = product::<L, R, 2, 1, PITCH, true>(slopes, rows, count, rest.clone(), out, Onto::Sums);
        }
        product::<L, R, 1, 1, PITCH, true>(slopes, rows, count, rest, out, Onto::Sums);
    }
}

/// Adds, for each of [`LANES`] keys, the sum over `count` queries: columns of `slopes`, whose rows are [`PITCH`] apart,
/// with rows of queries or of upstream gradients.
///
/// # Safety
/// As [`Lanes`]; the pointers must be valid for all of that.
#[inline(always)]
pub(super) unsafe fn across<L: Machine>(
    slopes: *const f32,
    rows: Columns,
    count: usize,
    panels: Range<usize>,
    (out, stride): Place,
) {
    let mut key = 0;
    while key < LANES {
        // SAFETY: the caller's; the keys are sixteen.
        unsafe {
            let (a, place) = (slopes.add(key), (out.add(key * stride), stride));
            key += if L::WIDE {
                across_of::<L, 8>(a, rows, count, panels.clone(), place);
                8
            } else if L::ROWS >= 6 && LANES - key >= 6 {
                across_of::<L, 6>(a, rows, count, panels.clone(), place);
                6
            } else {
                across_of::<L, 4>(a, rows, count, panels.clone(), place);
                4
            };
        }
    }
}

/// Whether a number is that of a hidden key.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
pub(super) unsafe fn is_hidden<L: Lanes>(x: L::F) -> L::M {
    // SAFETY: the caller's.
    unsafe { L::eq_u(L::bits(x), L::splat_u(HIDDEN.to_bits())) }
}
