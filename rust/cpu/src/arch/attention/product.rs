//! The one product behind scores and outputs: every element is a single chain of fused multiply-adds, so its bits do
//! not depend on how many rows and columns are computed beside it.

use super::{CHUNK, Machine};
use crate::arch::lanes::{LANES, Lanes};
use std::ops::Range;

/// The weight of a hidden key. A negative zero adds nothing to any sum, and tells a hidden key from one that is visible
/// but so far below the maximum that its weight is zero: a NaN value must pass through the latter only.
pub(crate) const HIDDEN: f32 = -0.0;

/// `acc[r][v] += a[r, k] * b[k, v]` for `k` in order. Row r and step k of `a` lie at `r * A_ROW + k * A_STEP`; step k
/// of the columns v at `b[v] + k * b_step`.
///
/// # Safety
/// As [`Lanes`]; the pointers must be valid for all of that.
#[inline(always)]
pub(super) unsafe fn chain<L: Lanes, const R: usize, const V: usize, const A_ROW: usize, const A_STEP: usize>(
    acc: &mut [[L::F; V]; R],
    mut a: *const f32,
    mut b: [*const f32; V],
    b_step: usize,
    count: usize,
) {
    // SAFETY: the caller's.
    unsafe {
        for _ in 0..count / 4 {
            for u in 0..4 {
                step::<L, R, V, A_ROW>(acc, a.add(u * A_STEP), &b, u * b_step);
            }
            a = a.add(4 * A_STEP);
            for start in &mut b {
                *start = start.add(4 * b_step);
            }
        }
        for u in 0..count % 4 {
            step::<L, R, V, A_ROW>(acc, a.add(u * A_STEP), &b, u * b_step);
        }
    }
}

/// One step of [`chain`]. Plain loops: a closure would be compiled without the machine's instructions.
///
/// # Safety
/// As [`chain`].
#[expect(clippy::needless_range_loop, reason = "iterator adaptors take closures")]
#[inline(always)]
unsafe fn step<L: Lanes, const R: usize, const V: usize, const A_ROW: usize>(
    acc: &mut [[L::F; V]; R],
    a: *const f32,
    b: &[*const f32; V],
    b_skip: usize,
) {
    // SAFETY: the caller's.
    unsafe {
        let mut columns = [L::splat(0.0); V];
        for v in 0..V {
            columns[v] = L::load(b[v].add(b_skip));
        }
        for r in 0..R {
            let factor = L::splat(*a.add(r * A_ROW));
            for v in 0..V {
                acc[r][v] = L::fma(factor, columns[v], acc[r][v]);
            }
        }
    }
}

/// As [`chain`] with weights as `a`, leaving out hidden keys, whatever their values are.
///
/// # Safety
/// As [`chain`].
#[inline(always)]
pub(super) unsafe fn guarded_chain<
    L: Lanes,
    const R: usize,
    const V: usize,
    const A_ROW: usize,
    const A_STEP: usize,
>(
    acc: &mut [[L::F; V]; R],
    weights: *const f32,
    b: [*const f32; V],
    b_step: usize,
    count: usize,
) {
    // SAFETY: the caller's.
    unsafe {
        for (r, row) in acc.iter_mut().enumerate() {
            for k in 0..count {
                let weight = *weights.add(r * A_ROW + k * A_STEP);
                if weight.to_bits() == HIDDEN.to_bits() {
                    continue;
                }
                for (v, cell) in row.iter_mut().enumerate() {
                    *cell = L::fma(L::splat(weight), L::load(b[v].add(k * b_step)), *cell);
                }
            }
        }
    }
}

/// Whether any number is infinite or NaN.
#[inline(always)]
pub(super) unsafe fn is_spoilt<L: Lanes, const R: usize, const V: usize>(acc: &[[L::F; V]; R]) -> bool {
    // SAFETY: the caller's.
    unsafe {
        let mut trace = L::splat(0.0);
        for cell in acc.as_flattened() {
            trace = L::fma(*cell, L::splat(0.0), trace);
        }
        L::to_mask(L::is_nan(trace)) != 0
    }
}

/// Scores of `R` packed queries `[dim][R]` with the panels `[dim][LANES]` of `keys`, to rows of [`CHUNK`] scores.
///
/// # Safety
/// As [`Lanes`]; the pointers must be valid for all of that.
#[inline(always)]
unsafe fn scores_of<L: Lanes, const R: usize, const V: usize>(
    query: *const f32,
    keys: *const f32,
    dim: usize,
    panels: Range<usize>,
    scores: *mut f32,
) -> usize {
    let mut panel = panels.start;
    // SAFETY: the caller's.
    unsafe {
        while panel + V <= panels.end {
            let mut acc = [[L::splat(0.0); V]; R];
            let mut b = [keys; V];
            for (v, start) in b.iter_mut().enumerate() {
                *start = keys.add((panel + v) * dim * LANES);
            }
            chain::<L, R, V, 1, R>(&mut acc, query, b, LANES, dim);
            for (r, row) in acc.iter().enumerate() {
                for (v, cell) in row.iter().enumerate() {
                    L::store(scores.add(r * CHUNK + (panel + v) * LANES), *cell);
                }
            }
            panel += V;
        }
    }
    panel
}

/// Values as the columns of a product: step k of panel p lies at `start + k * step + p * panel`.
#[derive(Clone, Copy)]
pub(super) struct Columns {
    pub start: *const f32,
    pub step: usize,
    pub panel: usize,
}

/// How a tile of sums meets what stands in the output: `out = out * keep[r] + sum * add[r]`.
#[derive(Clone, Copy)]
pub(super) struct Blend<'a> {
    pub keep: &'a [f32; LANES],
    pub add: &'a [f32; LANES],
}

/// Blends the weighted sums of `count` values into `output`, rows `stride` apart; gives the first panel not done.
///
/// # Safety
/// As [`Lanes`]; the pointers must be valid for all of that.
#[inline(always)]
unsafe fn blend_of<L: Lanes, const R: usize, const V: usize>(
    weights: *const f32,
    values: Columns,
    count: usize,
    panels: Range<usize>,
    (output, stride): (*mut f32, usize),
    blend: Blend,
) -> usize {
    let mut panel = panels.start;
    // SAFETY: the caller's.
    unsafe {
        while panel + V <= panels.end {
            let mut acc = [[L::splat(0.0); V]; R];
            let mut b = [values.start; V];
            for (v, start) in b.iter_mut().enumerate() {
                *start = values.start.add((panel + v) * values.panel);
            }
            chain::<L, R, V, CHUNK, 1>(&mut acc, weights, b, values.step, count);
            if is_spoilt::<L, R, V>(&acc) {
                acc = [[L::splat(0.0); V]; R];
                guarded_chain::<L, R, V, CHUNK, 1>(&mut acc, weights, b, values.step, count);
            }
            for (r, row) in acc.iter().enumerate() {
                let (keep, add) = (L::splat(blend.keep[r]), L::splat(blend.add[r]));
                for (v, cell) in row.iter().enumerate() {
                    let place = output.add(r * stride + (panel + v) * LANES);
                    L::store(place, L::fma(*cell, add, L::mul(L::load(place), keep)));
                }
            }
            panel += V;
        }
    }
    panel
}

/// Continues the sums in `output`; `guard` leaves hidden keys out. Gives the first panel not done.
///
/// # Safety
/// As [`Lanes`]; the pointers must be valid for all of that.
#[inline(always)]
unsafe fn extend_of<L: Lanes, const R: usize, const V: usize>(
    weights: *const f32,
    values: Columns,
    count: usize,
    panels: Range<usize>,
    (output, stride): (*mut f32, usize),
    guard: bool,
) -> usize {
    let mut panel = panels.start;
    // SAFETY: the caller's.
    unsafe {
        while panel + V <= panels.end {
            let output = output.add(panel * LANES);
            let mut acc = [[L::splat(0.0); V]; R];
            for (r, row) in acc.iter_mut().enumerate() {
                for (v, cell) in row.iter_mut().enumerate() {
                    *cell = L::load(output.add(r * stride + v * LANES));
                }
            }
            let mut b = [values.start; V];
            for (v, start) in b.iter_mut().enumerate() {
                *start = values.start.add((panel + v) * values.panel);
            }
            if guard {
                guarded_chain::<L, R, V, CHUNK, 1>(&mut acc, weights, b, values.step, count);
            } else {
                chain::<L, R, V, CHUNK, 1>(&mut acc, weights, b, values.step, count);
            }
            for (r, row) in acc.iter().enumerate() {
                for (v, cell) in row.iter().enumerate() {
                    L::store(output.add(r * stride + v * LANES), *cell);
                }
            }
            panel += V;
        }
    }
    panel
}

/// Picks the instance for a height: `V` panels at a time as long as there are as many, then one by one.
macro_rules! by_height {
    ($machine:ident, $height:expr, $panels:ident, |$rest:ident| $function:ident($($argument:expr),*)) => {
        match $height {
            1 => by_height!(@run $machine, 1, $panels, |$rest| $function($($argument),*)),
            2 => by_height!(@run $machine, 2, $panels, |$rest| $function($($argument),*)),
            4 => by_height!(@run $machine, 4, $panels, |$rest| $function($($argument),*)),
            6 if $machine::ROWS >= 6 => by_height!(@run $machine, 6, $panels, |$rest| $function($($argument),*)),
            12 if $machine::ROWS >= 12 => by_height!(@run $machine, 12, $panels, |$rest| $function($($argument),*)),
            other => unreachable!("no kernel of {other} rows"),
        }
    };
    (@run $machine:ident, $r:literal, $panels:ident, |$rest:ident| $function:ident($($argument:expr),*)) => {{
        let mut $rest = $panels.clone();
        if $machine::WIDE {
            $rest.start = $function::<$machine, $r, 2>($($argument),*);
        }
        $function::<$machine, $r, 1>($($argument),*);
    }};
}
pub(super) use by_height;

/// [`scores_of`] for any height of [`super::height`].
///
/// # Safety
/// As [`scores_of`].
#[inline(always)]
pub(super) unsafe fn scores<L: Machine>(
    height: usize,
    query: *const f32,
    keys: *const f32,
    dim: usize,
    panels: Range<usize>,
    scores: *mut f32,
) {
    // SAFETY: the caller's.
    unsafe { by_height!(L, height, panels, |rest| scores_of(query, keys, dim, rest.clone(), scores)) }
}

/// [`blend_of`] for any height of [`super::height`].
///
/// # Safety
/// As [`blend_of`].
#[inline(always)]
pub(super) unsafe fn blend<L: Machine>(
    height: usize,
    weights: *const f32,
    values: Columns,
    count: usize,
    panels: Range<usize>,
    output: (*mut f32, usize),
    how: Blend,
) {
    // SAFETY: the caller's.
    unsafe { by_height!(L, height, panels, |rest| blend_of(weights, values, count, rest.clone(), output, how)) }
}

/// [`extend_of`] for any height of [`super::height`].
///
/// # Safety
/// As [`extend_of`].
#[inline(always)]
pub(super) unsafe fn extend<L: Machine>(
    height: usize,
    weights: *const f32,
    values: Columns,
    count: usize,
    panels: Range<usize>,
    output: (*mut f32, usize),
    guard: bool,
) {
    // SAFETY: the caller's.
    unsafe { by_height!(L, height, panels, |rest| extend_of(weights, values, count, rest.clone(), output, guard)) }
}

/// Whether any of `length` numbers (a multiple of [`LANES`]) is infinite or NaN.
///
/// # Safety
/// As [`Lanes`]; the pointer must be valid for `length`.
#[inline(always)]
pub(super) unsafe fn is_row_spoilt<L: Lanes>(row: *const f32, length: usize) -> bool {
    // SAFETY: the caller's.
    unsafe {
        for at in (0..length).step_by(LANES) {
            if is_spoilt::<L, 1, 1>(&[[L::load(row.add(at))]]) {
                return true;
            }
        }
    }
    false
}
