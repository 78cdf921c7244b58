//! The products of the backward pass. Every element is a single chain of fused multiply-adds over keys, over dimensions
//! or over queries in their order, so its bits do not depend on what is computed beside it.

use super::PITCH;
use crate::arch::attention::Machine;
use crate::arch::attention::product::{
    Columns, HIDDEN, Half, Span, Whole, by_height, chain, guarded_chain, is_spoilt, spans,
};
use crate::arch::lanes::{LANES, Lanes};
use std::ops::Range;

/// Rows of results: where the first begins, and how far apart they are.
type Place = (*mut f32, usize);

/// `out[r][v] = sum of a[r, k] * b[k, v]`. Row r and step k of `a` lie at `r * A_ROW + k * A_STEP`. With `GUARD`, steps
/// at which `a` is [`HIDDEN`] are left out, whatever `b` holds there. Gives the first panel not done.
///
/// # Safety
/// As [`Lanes`]; the pointers must be valid for all of that.
#[inline(always)]
unsafe fn product<
    L: Lanes,
    S: Span<L>,
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
            let mut acc = [[S::splat(0.0); V]; R];
            chain::<L, S, R, V, A_ROW, A_STEP>(&mut acc, a, starts, b.step, count);
            if GUARD && is_spoilt::<L, S, R, V>(&acc) {
                acc = [[S::splat(0.0); V]; R];
                guarded_chain::<L, S, R, V, A_ROW, A_STEP>(&mut acc, a, starts, b.step, count);
            }
            for (r, row) in acc.iter().enumerate() {
                for (v, cell) in row.iter().enumerate() {
                    L::store(out.add(r * stride + v * LANES), S::whole(*cell));
                }
            }
            panel += V;
        }
    }
    panel
}

#[inline(always)]
unsafe fn dots_of<L: Lanes, S: Span<L>, const R: usize, const V: usize>(
    rows: *const f32,
    keys: *const f32,
    dim: usize,
    panels: Range<usize>,
    out: *mut f32,
) -> usize {
    let columns = Columns { start: keys, step: LANES, panel: dim * LANES };
    // SAFETY: the caller's.
    unsafe { product::<L, S, R, V, 1, R, false>(rows, columns, dim, panels, (out, PITCH)) }
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
    unsafe { by_height!(L, height, panels.clone(), |rest| dots_of(rows, keys, dim, rest.clone(), out)) }
}

#[inline(always)]
unsafe fn along_of<L: Lanes, S: Span<L>, const R: usize, const V: usize>(
    slopes: *const f32,
    keys: Columns,
    count: usize,
    panels: Range<usize>,
    out: Place,
) -> usize {
    // SAFETY: the caller's.
    unsafe { product::<L, S, R, V, PITCH, 1, true>(slopes, keys, count, panels, out) }
}

/// Sums over `count` keys: rows of `slopes`, [`PITCH`] apart, with rows of `dim` numbers of keys.
///
/// # Safety
/// As [`Lanes`]; the pointers must be valid for all of that.
#[inline(always)]
pub(super) unsafe fn along<L: Machine>(
    height: usize,
    slopes: *const f32,
    keys: Columns,
    count: usize,
    dim: usize,
    out: Place,
) {
    let (whole, half) = spans(dim);
    // SAFETY: the caller's.
    unsafe {
        by_height!(L, height, whole.clone(), |rest| along_of(slopes, keys, count, rest.clone(), out));
        if !half.is_empty() {
            by_height!(L, height, half, |rest| halves along_of(slopes, keys, count, rest, out));
        }
    }
}

/// [`across`] for `D` dimensions.
#[expect(clippy::needless_range_loop, reason = "iterator adaptors take closures")]
#[inline(always)]
unsafe fn across_of<L: Lanes, const D: usize>(
    slopes: *const f32,
    (rows, width): (*const f32, usize),
    count: usize,
    out: *mut f32,
) {
    // SAFETY: the caller's.
    unsafe {
        let mut acc = [L::splat(0.0); D];
        for d in 0..D {
            acc[d] = L::load(out.add(d * LANES));
        }
        for k in 0..count {
            let slope = L::load(slopes.add(k * PITCH));
            for d in 0..D {
                acc[d] = L::fma(L::splat(*rows.add(k * width + d)), slope, acc[d]);
            }
        }
        if is_spoilt::<L, Whole, 1, D>(&[acc]) {
            for d in 0..D {
                acc[d] = L::load(out.add(d * LANES));
                for k in 0..count {
                    let slope = L::load(slopes.add(k * PITCH));
                    let sum = L::fma(L::splat(*rows.add(k * width + d)), slope, acc[d]);
                    acc[d] = L::select(is_hidden::<L>(slope), acc[d], sum);
                }
            }
        }
        for d in 0..D {
            L::store(out.add(d * LANES), acc[d]);
        }
    }
}

/// Adds to `out [dim, LANES]`, for each of [`LANES`] keys, the sum over `count` queries: columns of `slopes`, rows of
/// which are [`PITCH`] apart, with rows of queries or of upstream gradients, `width` apart. Keys lie in the lanes, all
/// of them whatever `dim` is. Hidden keys are left out, whatever the rows hold.
///
/// # Safety
/// As [`Lanes`]; the pointers must be valid for all of that.
#[inline(always)]
pub(super) unsafe fn across<L: Machine>(
    slopes: *const f32,
    (rows, width): (*const f32, usize),
    count: usize,
    dim: usize,
    out: *mut f32,
) {
    let mut d = 0;
    while d < dim {
        // SAFETY: the caller's; so many dimensions are left.
        unsafe {
            let (rows, out) = ((rows.add(d), width), out.add(d * LANES));
            d += match dim - d {
                16.. if L::WIDE => {
                    across_of::<L, 16>(slopes, rows, count, out);
                    16
                }
                8.. if L::WIDE => {
                    across_of::<L, 8>(slopes, rows, count, out);
                    8
                }
                // Of eight, four and four are quicker than six, one and one.
                6 | 7 | 9.. if L::ROWS >= 6 => {
                    across_of::<L, 6>(slopes, rows, count, out);
                    6
                }
                4.. => {
                    across_of::<L, 4>(slopes, rows, count, out);
                    4
                }
                _ => {
                    across_of::<L, 1>(slopes, rows, count, out);
                    1
                }
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
