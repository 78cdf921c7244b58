//! The one product behind scores and outputs: every element is a single chain of fused multiply-adds, so its bits do
//! not depend on how many rows and columns are computed beside it.

use super::{CHUNK, Machine};
use crate::arch::lanes::{LANES, Lanes};
use std::ops::Range;

/// The weight of a hidden key. A negative zero adds nothing to any sum, and tells a hidden key from one that is visible
/// but so far below the maximum that its weight is zero: a NaN value must pass through the latter only.
pub(crate) const HIDDEN: f32 = -0.0;

/// How many lanes the columns of a product fill. The methods do what those of [`Lanes`] do.
pub(super) trait Span<L: Lanes> {
    /// The lanes of one vector.
    type Vector: Copy;
    /// # Safety
    /// As [`Lanes`].
    unsafe fn splat(x: f32) -> Self::Vector;
    /// # Safety
    /// As [`Lanes`].
    unsafe fn load(p: *const f32) -> Self::Vector;
    /// # Safety
    /// As [`Lanes`].
    unsafe fn fma(a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// All lanes, zeros where there are none.
    ///
    /// # Safety
    /// As [`Lanes`].
    unsafe fn whole(x: Self::Vector) -> L::F;
}

/// All lanes.
pub(super) enum Whole {}

/// The first half of the lanes, of panels in which the others are zeros.
pub(super) enum Half {}

impl<L: Lanes> Span<L> for Whole {
    type Vector = L::F;
    #[inline(always)]
    unsafe fn splat(x: f32) -> L::F {
        // SAFETY: the caller's.
        unsafe { L::splat(x) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> L::F {
        // SAFETY: the caller's.
        unsafe { L::load(p) }
    }
    #[inline(always)]
    unsafe fn fma(a: L::F, b: L::F, c: L::F) -> L::F {
        // SAFETY: the caller's.
        unsafe { L::fma(a, b, c) }
    }
    #[inline(always)]
    unsafe fn whole(x: L::F) -> L::F {
        x
    }
}

impl<L: Lanes> Span<L> for Half {
    type Vector = L::Half;
    #[inline(always)]
    unsafe fn splat(x: f32) -> L::Half {
        // SAFETY: the caller's.
        unsafe { L::splat_half(x) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> L::Half {
        // SAFETY: the caller's.
        unsafe { L::load_half(p) }
    }
    #[inline(always)]
    unsafe fn fma(a: L::Half, b: L::Half, c: L::Half) -> L::Half {
        // SAFETY: the caller's.
        unsafe { L::fma_half(a, b, c) }
    }
    #[inline(always)]
    unsafe fn whole(x: L::Half) -> L::F {
        // SAFETY: the caller's.
        unsafe { L::whole(x) }
    }
}

/// `acc[r][v] += a[r, k] * b[k, v]` for `k` in order. Row r and step k of `a` lie at `r * A_ROW + k * A_STEP`; step k
/// of the columns v at `b[v] + k * b_step`.
///
/// # Safety
/// As [`Lanes`]; the pointers must be valid for all of that.
#[inline(always)]
pub(super) unsafe fn chain<
    L: Lanes,
    S: Span<L>,
    const R: usize,
    const V: usize,
    const A_ROW: usize,
    const A_STEP: usize,
>(
    acc: &mut [[S::Vector; V]; R],
    mut a: *const f32,
    mut b: [*const f32; V],
    b_step: usize,
    count: usize,
) {
    // SAFETY: the caller's.
    unsafe {
        for _ in 0..count / 4 {
            for u in 0..4 {
                step::<L, S, R, V, A_ROW>(acc, a.add(u * A_STEP), &b, u * b_step);
            }
            a = a.add(4 * A_STEP);
            for start in &mut b {
                *start = start.add(4 * b_step);
            }
        }
        for u in 0..count % 4 {
            step::<L, S, R, V, A_ROW>(acc, a.add(u * A_STEP), &b, u * b_step);
        }
    }
}

/// One step of [`chain`]. Plain loops: a closure would be compiled without the machine's instructions.
///
/// # Safety
/// As [`chain`].
#[expect(clippy::needless_range_loop, reason = "iterator adaptors take closures")]
#[inline(always)]
unsafe fn step<L: Lanes, S: Span<L>, const R: usize, const V: usize, const A_ROW: usize>(
    acc: &mut [[S::Vector; V]; R],
    a: *const f32,
    b: &[*const f32; V],
    b_skip: usize,
) {
    // SAFETY: the caller's.
    unsafe {
        let mut columns = [S::splat(0.0); V];
        for v in 0..V {
            columns[v] = S::load(b[v].add(b_skip));
        }
        for r in 0..R {
            let factor = S::splat(*a.add(r * A_ROW));
            for v in 0..V {
                acc[r][v] = S::fma(factor, columns[v], acc[r][v]);
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
    S: Span<L>,
    const R: usize,
    const V: usize,
    const A_ROW: usize,
    const A_STEP: usize,
>(
    acc: &mut [[S::Vector; V]; R],
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
                    *cell = S::fma(S::splat(weight), S::load(b[v].add(k * b_step)), *cell);
                }
            }
        }
    }
}

/// Whether any number is infinite or NaN.
#[inline(always)]
pub(super) unsafe fn is_spoilt<L: Lanes, S: Span<L>, const R: usize, const V: usize>(
    acc: &[[S::Vector; V]; R],
) -> bool {
    // SAFETY: the caller's.
    unsafe {
        let mut trace = L::splat(0.0);
        for cell in acc.as_flattened() {
            trace = L::fma(S::whole(*cell), L::splat(0.0), trace);
        }
        L::to_mask(L::is_nan(trace)) != 0
    }
}

/// Scores of `R` packed queries `[dim][R]` with the panels `[dim][LANES]` of `keys`, to rows of [`CHUNK`] scores.
///
/// # Safety
/// As [`Lanes`]; the pointers must be valid for all of that.
#[inline(always)]
unsafe fn scores_of<L: Lanes, S: Span<L>, const R: usize, const V: usize>(
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
            let mut acc = [[S::splat(0.0); V]; R];
            let mut b = [keys; V];
            for (v, start) in b.iter_mut().enumerate() {
                *start = keys.add((panel + v) * dim * LANES);
            }
            chain::<L, S, R, V, 1, R>(&mut acc, query, b, LANES, dim);
            for (r, row) in acc.iter().enumerate() {
                for (v, cell) in row.iter().enumerate() {
                    L::store(scores.add(r * CHUNK + (panel + v) * LANES), S::whole(*cell));
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

/// The panels of `dim` columns: those of which all lanes count, and the last one where half of its lanes do.
pub(super) fn spans(dim: usize) -> (Range<usize>, Range<usize>) {
    let (panels, half) = (dim.div_ceil(LANES), matches!(dim % LANES, 1..=HALF));
    let whole = panels - usize::from(half);
    (0..whole, whole..panels)
}

/// Lanes of a half.
const HALF: usize = LANES / 2;

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
unsafe fn blend_of<L: Lanes, S: Span<L>, const R: usize, const V: usize>(
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
            let mut acc = [[S::splat(0.0); V]; R];
            let mut b = [values.start; V];
            for (v, start) in b.iter_mut().enumerate() {
                *start = values.start.add((panel + v) * values.panel);
            }
            chain::<L, S, R, V, CHUNK, 1>(&mut acc, weights, b, values.step, count);
            if is_spoilt::<L, S, R, V>(&acc) {
                acc = [[S::splat(0.0); V]; R];
                guarded_chain::<L, S, R, V, CHUNK, 1>(&mut acc, weights, b, values.step, count);
            }
            for (r, row) in acc.iter().enumerate() {
                let (keep, add) = (L::splat(blend.keep[r]), L::splat(blend.add[r]));
                for (v, cell) in row.iter().enumerate() {
                    let place = output.add(r * stride + (panel + v) * LANES);
                    L::store(place, L::fma(S::whole(*cell), add, L::mul(L::load(place), keep)));
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
unsafe fn extend_of<L: Lanes, S: Span<L>, const R: usize, const V: usize>(
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
            let mut acc = [[S::splat(0.0); V]; R];
            for (r, row) in acc.iter_mut().enumerate() {
                for (v, cell) in row.iter_mut().enumerate() {
                    *cell = S::load(output.add(r * stride + v * LANES));
                }
            }
            let mut b = [values.start; V];
            for (v, start) in b.iter_mut().enumerate() {
                *start = values.start.add((panel + v) * values.panel);
            }
            if guard {
                guarded_chain::<L, S, R, V, CHUNK, 1>(&mut acc, weights, b, values.step, count);
            } else {
                chain::<L, S, R, V, CHUNK, 1>(&mut acc, weights, b, values.step, count);
            }
            for (r, row) in acc.iter().enumerate() {
                for (v, cell) in row.iter().enumerate() {
                    L::store(output.add(r * stride + v * LANES), S::whole(*cell));
                }
            }
            panel += V;
        }
    }
    panel
}

/// Picks the instance for a height: `V` panels at a time as long as there are as many, then one by one. `halves` do one
/// by one.
macro_rules! by_height {
    ($machine:ident, $height:expr, $panels:expr, |$rest:ident| $($call:tt)+) => {
        match $height {
            1 => by_height!(@run $machine, 1, $panels, |$rest| $($call)+),
            2 => by_height!(@run $machine, 2, $panels, |$rest| $($call)+),
            4 => by_height!(@run $machine, 4, $panels, |$rest| $($call)+),
            6 if $machine::ROWS >= 6 => by_height!(@run $machine, 6, $panels, |$rest| $($call)+),
            12 if $machine::ROWS >= 12 => by_height!(@run $machine, 12, $panels, |$rest| $($call)+),
            other => unreachable!("no kernel of {other} rows"),
        }
    };
    (@run $machine:ident, $r:literal, $panels:expr, |$rest:ident| halves $function:ident($($argument:expr),*)) => {{
        let $rest = $panels;
        $function::<$machine, Half, $r, 1>($($argument),*);
    }};
    (@run $machine:ident, $r:literal, $panels:expr, |$rest:ident| $function:ident($($argument:expr),*)) => {{
        let mut $rest = $panels;
        if $machine::WIDE {
            $rest.start = $function::<$machine, Whole, $r, 2>($($argument),*);
        }
        $function::<$machine, Whole, $r, 1>($($argument),*);
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
    unsafe { by_height!(L, height, panels.clone(), |rest| scores_of(query, keys, dim, rest.clone(), scores)) }
}

/// [`blend_of`] for any height of [`super::height`], for all panels of `dim` columns.
///
/// # Safety
/// As [`blend_of`].
#[inline(always)]
pub(super) unsafe fn blend<L: Machine>(
    height: usize,
    weights: *const f32,
    values: Columns,
    count: usize,
    dim: usize,
    output: (*mut f32, usize),
    how: Blend,
) {
    let (whole, half) = spans(dim);
    // SAFETY: the caller's.
    unsafe {
        by_height!(L, height, whole.clone(), |rest| blend_of(weights, values, count, rest.clone(), output, how));
        if !half.is_empty() {
            by_height!(L, height, half, |rest| halves blend_of(weights, values, count, rest, output, how));
        }
    }
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
    unsafe {
        by_height!(L, height, panels.clone(), |rest| extend_of(weights, values, count, rest.clone(), output, guard))
    }
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
            if is_spoilt::<L, Whole, 1, 1>(&[[L::load(row.add(at))]]) {
                return true;
            }
        }
    }
    false
}
