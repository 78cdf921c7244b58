//! Rows widened to float32, turned by their positions, and laid out as the products want them.

use super::source::{Place, Rows, RowsMut};
use super::{CHUNK, MAX_DIM};
use crate::arch::element::{Element, each_element};
use crate::arch::lanes::{LANES, Lanes};
use crate::each;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Cosines and sines, magnitude included, of the turns of consecutive rows: `[rows, half]` each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turns<'a> {
    pub cos: &'a [f32],
    pub sin: &'a [f32],
    /// Pairs turned in each row.
    pub half: usize,
    /// Pairs are `(2i, 2i + 1)` instead of `(i, i + half)`.
    pub interleaved: bool,
}

impl<'a> Turns<'a> {
    /// The turns of rows `rows`.
    pub(crate) fn rows(&self, rows: Range<usize>) -> Turns<'a> {
        let part = rows.start * self.half..rows.end * self.half;
        Turns { cos: &self.cos[part.clone()], sin: &self.sin[part], ..*self }
    }

    /// Whether they are those of so many rows, which are long enough.
    pub(super) fn fit(&self, rows: usize, dim: usize) -> bool {
        self.cos.len() == rows * self.half && self.sin.len() == self.cos.len() && 2 * self.half <= dim
    }
}

/// pi / 2 as the float64 nearest to it and what that leaves.
const HALF_PI: [f64; 2] = [std::f64::consts::FRAC_PI_2, 6.123_233_995_736_766e-17];
/// Adding and subtracting this rounds a float64 below 2^51 to an integer, which then stands in the low bits of the sum.
const ROUND: f64 = 6_755_399_441_055_744.0;
/// Angles up to here are reduced exactly enough; beyond, the standard library's functions take over.
const LARGEST_ANGLE: f64 = 1e12;
/// Minimax of cosine and sine on an eighth of a turn (Cephes, `cosf` and `sinf`), highest power first.
const COS: [f32; 3] = [2.443_315_7e-5, -1.388_731_6e-3, 4.166_664_6e-2];
const SIN: [f32; 3] = [-1.951_529_6e-4, 8.332_161e-3, -0.166_666_55];

/// `magnitude * cos(angle)` and `magnitude * sin(angle)` of the float64 angles `position * inv_freq`, within 2 units in
/// the last place of 1. A fixed sequence of operations, written so that it is compiled to vector code.
#[inline(always)]
pub(super) fn turn_table(positions: &[f64], inv_freq: &[f32], magnitude: f32, cos: &mut [f32], sin: &mut [f32]) {
    let half = inv_freq.len();
    let largest = inv_freq.iter().fold(0.0f32, |top, f| top.max(f.abs()));
    for (row, position) in positions.iter().enumerate() {
        let cos = &mut cos[row * half..(row + 1) * half];
        let sin = &mut sin[row * half..(row + 1) * half];
        if position.abs() * f64::from(largest) <= LARGEST_ANGLE {
            for ((cos, sin), frequency) in cos.iter_mut().zip(sin).zip(inv_freq) {
                let (c, s) = cos_sin(position * f64::from(*frequency));
                (*cos, *sin) = (c * magnitude, s * magnitude);
            }
        } else {
            for ((cos, sin), frequency) in cos.iter_mut().zip(sin).zip(inv_freq) {
                let angle = position * f64::from(*frequency);
                (*cos, *sin) = (angle.cos() as f32 * magnitude, angle.sin() as f32 * magnitude);
            }
        }
    }
}

#[inline(always)]
fn cos_sin(angle: f64) -> (f32, f32) {
    let shifted = angle.mul_add(std::f64::consts::FRAC_2_PI, ROUND);
    let quarter = shifted.to_bits() as u32;
    let quarters = shifted - ROUND;
    let rest = quarters.mul_add(-HALF_PI[1], quarters.mul_add(-HALF_PI[0], angle)) as f32;
    let square = rest * rest;
    let c = COS[0].mul_add(square, COS[1]).mul_add(square, COS[2]);
    let c = (c * square).mul_add(square, (-0.5f32).mul_add(square, 1.0));
    let s = SIN[0].mul_add(square, SIN[1]).mul_add(square, SIN[2]);
    let s = (s * square).mul_add(rest, rest);
    let (x, y) = if quarter & 1 == 0 { (c, s) } else { (s, c) };
    let x = f32::from_bits(x.to_bits() ^ ((quarter.wrapping_add(1) & 2) << 30));
    let y = f32::from_bits(y.to_bits() ^ ((quarter & 2) << 30));
    (x, y)
}

/// Turns the first `2 * half` numbers of rows that begin `stride` apart; `back` turns them the other way.
///
/// # Safety
/// As [`Lanes`]; the rows of the turns must exist from `start` on, in whole vectors.
#[inline(always)]
pub(super) unsafe fn turn_rows<L: Lanes>(start: *mut f32, stride: usize, turns: &Turns, back: bool) {
    // SAFETY: the caller's.
    unsafe {
        if 2 * turns.half <= LANES {
            turn_narrow_rows::<L>(start, stride, turns, back);
        } else {
            turn_wide_rows::<L>(start, stride, turns, back);
        }
    }
}

/// [`turn_rows`] of rows with any number of pairs.
///
/// # Safety
/// As [`turn_rows`].
#[inline(always)]
pub(super) unsafe fn turn_wide_rows<L: Lanes>(start: *mut f32, stride: usize, turns: &Turns, back: bool) {
    let half = turns.half;
    // SAFETY: the caller's.
    unsafe {
        let flip = L::splat_u(if back { 0x8000_0000 } else { 0 });
        for row in 0..turns.cos.len() / half.max(1) {
            let (row, at) = (start.add(row * stride), row * half);
            let (cos, sin) = (turns.cos.as_ptr().add(at), turns.sin.as_ptr().add(at));
            if turns.interleaved {
                for pair in 0..half {
                    let (x, y) = (row.add(2 * pair), row.add(2 * pair + 1));
                    let (cos, sin) = (*cos.add(pair), if back { -*sin.add(pair) } else { *sin.add(pair) });
                    (*x, *y) = ((-*y).mul_add(sin, *x * cos), (*x).mul_add(sin, *y * cos));
                }
                continue;
            }
            for at in (0..half).step_by(LANES) {
                let (x, y, here) = (row.add(at), row.add(half + at), (half - at).min(LANES));
                let (cos, sin) = (some::<L>(cos.add(at), here), some::<L>(sin.add(at), here));
                let sin = L::from_bits(L::xor_u(L::bits(sin), flip));
                let (old_x, old_y) = (some::<L>(x, here), some::<L>(y, here));
                let minus_y = L::from_bits(L::xor_u(L::bits(old_y), L::splat_u(0x8000_0000)));
                let new_x = L::fma(minus_y, sin, L::mul(old_x, cos));
                let new_y = L::fma(old_x, sin, L::mul(old_y, cos));
                if here == LANES {
                    L::store(x, new_x);
                    L::store(y, new_y);
                } else {
                    L::store_part(x, new_x, here);
                    L::store_part(y, new_y, here);
                }
            }
        }
    }
}

/// [`turn_rows`] of rows whose pairs all lie in the first vector. A row is loaded and stored as a whole: the pairs find
/// each other in registers.
///
/// # Safety
/// As [`turn_rows`].
#[inline(always)]
pub(super) unsafe fn turn_narrow_rows<L: Lanes>(start: *mut f32, stride: usize, turns: &Turns, back: bool) {
    let half = turns.half;
    // For each lane: where the other of its pair is, where its cosine and sine are, and the sign of the other.
    let (mut other, mut angle, mut sign) = ([0u32; LANES], [0u32; LANES], [0u32; LANES]);
    for pair in 0..half {
        let (x, y) = if turns.interleaved { (2 * pair, 2 * pair + 1) } else { (pair, half + pair) };
        (other[x], other[y]) = (y as u32, x as u32);
        (angle[x], angle[y]) = (pair as u32, pair as u32);
        sign[x] = 0x8000_0000;
    }
    // SAFETY: the caller's; indices are lanes.
    unsafe {
        let (other, angle, sign) = (L::load_u(other.as_ptr()), L::load_u(angle.as_ptr()), L::load_u(sign.as_ptr()));
        let flip = L::splat_u(if back { 0x8000_0000 } else { 0 });
        let turned = L::first(2 * half);
        for row in 0..turns.cos.len() / half.max(1) {
            let (place, at) = (start.add(row * stride), row * half);
            let cos = L::permute(L::load_part(turns.cos.as_ptr().add(at), half), angle);
            let sin = L::permute(L::load_part(turns.sin.as_ptr().add(at), half), angle);
            let sin = L::from_bits(L::xor_u(L::bits(sin), flip));
            let old = L::load(place);
            let others = L::from_bits(L::xor_u(L::bits(L::permute(old, other)), sign));
            L::store(place, L::select(turned, L::fma(others, sin, L::mul(old, cos)), old));
        }
    }
}

/// `count <= 16` numbers, zeros behind.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
unsafe fn some<L: Lanes>(p: *const f32, count: usize) -> L::F {
    // SAFETY: the caller's.
    unsafe { if count == LANES { L::load(p) } else { L::load_part(p, count) } }
}

/// Widens all rows one behind the other, each with zeros up to the next multiple of [`LANES`], turns them, and scales
/// each by its own factor.
///
/// # Safety
/// As [`Lanes`]; the rows must exist, turns and scales be theirs, and `out` be valid for them.
#[inline(always)]
pub(super) unsafe fn rows<L: Lanes>(rows: &Rows, turns: Option<Turns>, scales: Option<&[f32]>, out: *mut f32) {
    let width = rows.width();
    // SAFETY: the caller's.
    unsafe {
        widen_rows::<L>(rows, 0..rows.rows, out, width, &Ahead::beside(rows, 0));
        if let Some(turns) = &turns {
            turn_rows::<L>(out, width, turns, false);
        }
        for (row, scale) in scales.unwrap_or(&[]).iter().enumerate() {
            for at in (0..rows.dim).step_by(LANES) {
                let place = out.add(row * width + at);
                // Zeros behind the row stay zeros, whatever the scale.
                let factor = L::select(L::first(rows.dim - at), L::splat(*scale), L::splat(1.0));
                L::store(place, L::mul(L::load(place), factor));
            }
        }
    }
}

/// Lays up to sixteen rows of whole vectors, one behind the other, out as columns `[dim][height]`; rows that do not
/// exist are 0.
///
/// # Safety
/// As [`Lanes`]; there must be `count <= height <= 16` rows of `dim` numbers, rounded up to [`LANES`], and room in
/// `out`.
#[inline(always)]
pub(super) unsafe fn tile<L: Lanes>(rows: *const f32, count: usize, dim: usize, height: usize, out: *mut f32) {
    let width = dim.next_multiple_of(LANES);
    // SAFETY: the caller's.
    unsafe {
        if height == 1 {
            return std::ptr::copy_nonoverlapping(rows, out, dim);
        }
        for at in (0..dim).step_by(LANES) {
            let mut block: [L::F; LANES] = [L::splat(0.0); LANES];
            for (row, lanes) in block.iter_mut().enumerate().take(count) {
                *lanes = L::load(rows.add(row * width + at));
            }
            L::transpose(&mut block);
            for (d, lanes) in block.into_iter().enumerate().take(dim - at) {
                let place = out.add((at + d) * height);
                // What a whole vector writes too much is written again, as long as columns follow.
                if (dim - at - d) * height >= LANES {
                    L::store(place, lanes);
                } else {
                    L::store_part(place, lanes, height);
                }
            }
        }
    }
}

/// Rows that will be needed soon. What decides the speed of reading keys in place is that they are asked for in the
/// order of their addresses and evenly in time: the processor has room for a dozen or two lines on their way.
#[derive(Clone, Copy)]
pub(super) struct Ahead<'a> {
    start: *const u8,
    bytes: usize,
    steps: Steps<'a>,
}

/// Bytes of a cache line.
const LINE: usize = 64;

/// How many bytes behind the start a row lies.
#[derive(Clone, Copy)]
enum Steps<'a> {
    Even(usize),
    /// So many elements of so many bytes each.
    Spread(&'a [usize], usize),
}

impl<'a> Ahead<'a> {
    /// Nothing to fetch.
    pub(super) const NONE: Ahead<'static> = Ahead { start: std::ptr::null(), bytes: 0, steps: Steps::Even(0) };

    /// `rows` from row `first` on.
    #[inline(always)]
    pub(super) fn new(rows: &Rows<'a>, first: usize) -> Ahead<'a> {
        let (start, size) = (each!(start in rows.start => start.cast::<u8>()), rows.start.dtype().size());
        let bytes = rows.dim * size;
        match rows.place {
            Place::Even(stride, _) => {
                let stride = stride * size;
                Ahead { start: start.wrapping_add(first * stride), bytes, steps: Steps::Even(stride) }
            }
            Place::Spread(offsets) => {
                Ahead { start, bytes, steps: Steps::Spread(offsets.get(first..).unwrap_or(&[]), size) }
            }
        }
    }

    /// What lies a cache line behind short rows from row `first` on that lie apart: the heads of a token often lie side
    /// by side, and the next head will be asked for next.
    #[inline(always)]
    pub(super) fn beside(rows: &Rows<'a>, first: usize) -> Ahead<'a> {
        let all = Ahead::new(rows, first);
        let apart = matches!(rows.place, Place::Even(stride, _) if stride > rows.dim);
        if apart && all.bytes <= LINE { Ahead { start: all.start.wrapping_add(LINE), ..all } } else { Ahead::NONE }
    }

    /// The same of rows to be written.
    #[inline(always)]
    fn beside_results(rows: &RowsMut) -> Ahead<'a> {
        let (start, size) = (each!(start in rows.start => start.cast::<u8>()), rows.start.dtype().size());
        let (bytes, steps) = (rows.dim * size, Steps::Even(rows.stride * size));
        let apart = rows.stride > rows.dim && bytes <= LINE;
        if apart { Ahead { start: start.wrapping_add(LINE), bytes, steps } } else { Ahead::NONE }
    }

    /// Asks for all lines of a row; there need not be such a row.
    ///
    /// # Safety
    /// As [`Lanes`].
    #[inline(always)]
    pub(super) unsafe fn fetch<L: Lanes>(&self, row: usize) {
        let lines = |skip: usize| {
            for byte in (0..self.bytes).step_by(LINE) {
                // SAFETY: a prefetch never faults.
                unsafe { L::prefetch(self.start.wrapping_add(skip + byte)) }
            }
        };
        // A loop for each: one loop behind the choice is not unrolled, which costs a tenth of a decode step.
        match self.steps {
            Steps::Even(stride) => lines(row * stride),
            Steps::Spread(offsets, size) => lines(offsets.get(row).map_or(0, |offset| offset * size)),
        }
    }
}

/// Sixteen numbers of a row, or what is left of it with zeros behind.
///
/// # Safety
/// As [`Lanes`]; the row must have `dim` numbers and `at < dim`.
#[inline(always)]
unsafe fn piece<L: Lanes, E: Element>(row: *const E, at: usize, dim: usize) -> L::F {
    // SAFETY: the caller's.
    unsafe { if at + LANES <= dim { E::load::<L>(row.add(at)) } else { E::load_part::<L>(row.add(at), dim - at) } }
}

/// Widens some rows, each to `width` numbers behind the one before. The rows of `ahead` are fetched meanwhile.
///
/// # Safety
/// As [`Lanes`]; the rows must exist and `out` be valid for them, each rounded up to [`LANES`].
#[inline(always)]
pub(super) unsafe fn widen_rows<L: Lanes>(
    rows: &Rows,
    which: Range<usize>,
    out: *mut f32,
    width: usize,
    ahead: &Ahead,
) {
    // SAFETY: the caller's.
    unsafe {
        each_element!(E, start in rows.start => {
            widen_rows_of::<L, E>(start.cast(), rows, which, out, width, ahead)
        })
    }
}

/// [`widen_rows`] of one type: a loop for rows that are evenly spaced, and one for those that are not.
///
/// # Safety
/// As [`widen_rows`].
#[inline(always)]
unsafe fn widen_rows_of<L: Lanes, E: Element>(
    start: *const E,
    rows: &Rows,
    which: Range<usize>,
    out: *mut f32,
    width: usize,
    ahead: &Ahead,
) {
    // SAFETY: the caller's.
    unsafe {
        match rows.place {
            Place::Even(stride, _) => {
                let start = start.add(which.start * stride);
                for row in 0..which.len() {
                    ahead.fetch::<L>(row);
                    widen_row::<L, _>(start.add(row * stride), rows.dim, out.add(row * width));
                }
            }
            Place::Spread(offsets) => {
                for (row, offset) in offsets[which].iter().enumerate() {
                    ahead.fetch::<L>(row);
                    widen_row::<L, _>(start.add(*offset), rows.dim, out.add(row * width));
                }
            }
        }
    }
}

/// Widens one row of one type.
///
/// # Safety
/// As [`widen`].
#[inline(always)]
unsafe fn widen_row<L: Lanes, E: Element>(row: *const E, dim: usize, out: *mut f32) {
    for at in (0..dim).step_by(LANES) {
        // SAFETY: the caller's.
        unsafe { L::store(out.add(at), piece::<L, E>(row, at, dim)) }
    }
}

/// Where the rows of a panel begin.
trait Starts<E>: Copy {
    /// # Safety
    /// There must be such a row.
    unsafe fn of(&self, row: usize) -> *const E;
}

/// Evenly spaced: where the first begins, and the stride. Kept apart from the general case, whose sixteen pointers
/// have to be loaded one by one.
impl<E> Starts<E> for (*const E, usize) {
    #[inline(always)]
    unsafe fn of(&self, row: usize) -> *const E {
        // SAFETY: the caller's.
        unsafe { self.0.add(row * self.1) }
    }
}

impl<E> Starts<E> for [*const E; LANES] {
    #[inline(always)]
    unsafe fn of(&self, row: usize) -> *const E {
        self[row]
    }
}

/// Lays up to sixteen rows out as columns: `out[d * LANES + row]`, zeros where there is no row. The rows of `ahead` are
/// fetched meanwhile.
///
/// # Safety
/// As [`Lanes`]; rows of `dim` numbers from where `starts` say; `out` must be valid for `dim * LANES` numbers.
#[inline(always)]
unsafe fn columns<L: Lanes, E: Element>(starts: impl Starts<E>, rows: usize, dim: usize, out: *mut f32, ahead: &Ahead) {
    let steps = dim.div_ceil(LANES);
    for at in (0..dim).step_by(LANES) {
        // SAFETY: the caller's.
        unsafe {
            let step = at / LANES;
            for row in step * LANES / steps..(step + 1) * LANES / steps {
                ahead.fetch::<L>(row);
            }
            let mut block: [L::F; LANES] = [L::splat(0.0); LANES];
            if rows == LANES && at + LANES <= dim {
                for (row, lanes) in block.iter_mut().enumerate() {
                    *lanes = E::load::<L>(starts.of(row).add(at));
                }
            } else {
                for (row, lanes) in block.iter_mut().enumerate().take(rows) {
                    *lanes = piece::<L, E>(starts.of(row), at, dim);
                }
            }
            L::transpose(&mut block);
            for (d, lanes) in block.into_iter().enumerate().take(dim - at) {
                L::store(out.add((at + d) * LANES), lanes);
            }
        }
    }
}

/// A panel of up to sixteen keys, turned if asked, as columns `[dim][LANES]`.
///
/// # Safety
/// As [`Lanes`]; the rows must exist, the turns must be theirs, `out` must be valid for `dim * LANES` numbers.
#[inline(always)]
pub(super) unsafe fn panel<L: Lanes>(
    rows: &Rows,
    which: Range<usize>,
    turns: Option<Turns>,
    out: *mut f32,
    ahead: &Ahead,
) {
    // SAFETY: the caller's.
    unsafe {
        each_element!(E, start in rows.start => {
            panel_of_type::<L, E>(start.cast(), rows, which, turns, out, ahead)
        })
    }
}

/// [`panel`] of one type.
///
/// # Safety
/// As [`panel`].
#[inline(always)]
unsafe fn panel_of_type<L: Lanes, E: Element>(
    start: *const E,
    rows: &Rows,
    which: Range<usize>,
    turns: Option<Turns>,
    out: *mut f32,
    ahead: &Ahead,
) {
    let (count, dim) = (which.len(), rows.dim);
    // SAFETY: the caller's.
    unsafe {
        match rows.place {
            Place::Even(stride, _) => {
                let starts = (start.add(which.start * stride), stride);
                panel_from::<L, E>(starts, count, dim, turns, out, ahead);
            }
            Place::Spread(offsets) => {
                let start_of = |row: usize| start.add(offsets[which.start + row.min(count - 1)]);
                panel_from::<L, E>(std::array::from_fn::<_, LANES, _>(start_of), count, dim, turns, out, ahead);
            }
        }
    }
}

/// [`panel`] of rows from where `starts` say.
///
/// # Safety
/// As [`panel`].
#[inline(always)]
unsafe fn panel_from<L: Lanes, E: Element>(
    starts: impl Starts<E>,
    rows: usize,
    dim: usize,
    turns: Option<Turns>,
    out: *mut f32,
    ahead: &Ahead,
) {
    // SAFETY: the caller's; the scratch rows have room for the largest dimension.
    unsafe {
        let Some(turns) = turns else {
            return columns::<L, E>(starts, rows, dim, out, ahead);
        };
        let mut scratch = MaybeUninit::<Scratch>::uninit();
        let scratch = scratch.as_mut_ptr().cast::<f32>();
        let room = dim.next_multiple_of(LANES);
        for row in 0..rows {
            widen_row::<L, E>(starts.of(row), dim, scratch.add(row * room));
        }
        turn_rows::<L>(scratch, room, &turns, false);
        columns::<L, f32>((scratch.cast_const(), room), rows, dim, out, ahead);
    }
}

#[repr(C, align(64))]
struct Scratch([f32; LANES * MAX_DIM]);

/// Values as panels `[panel][CHUNK][LANES]`.
///
/// # Safety
/// As [`Lanes`]; the rows must exist and `out` must have room for the panels.
#[inline(always)]
pub(super) unsafe fn values<L: Lanes, E: Element>(start: *const E, rows: &Rows, out: *mut f32) {
    let ahead = Ahead::beside(rows, 0);
    for row in 0..rows.rows {
        // SAFETY: the caller's.
        unsafe { ahead.fetch::<L>(row) }
        for (index, at) in (0..rows.dim).step_by(LANES).enumerate() {
            // SAFETY: the caller's.
            unsafe {
                let lanes = piece::<L, E>(start.add(rows.offset(row)), at, rows.dim);
                L::store(out.add((index * CHUNK + row) * LANES), lanes);
            }
        }
    }
}

/// Finished rows: `sums * factor` in the output's element type. Zeros are positive. The sums of a row begin `apart`
/// behind those of the row before.
///
/// # Safety
/// As [`Lanes`]; there must be sums in whole vectors for every factor and for every row of `out`, which begins at
/// `start`.
#[inline(always)]
pub(super) unsafe fn finish<L: Lanes, E: Element>(
    sums: *const f32,
    apart: usize,
    factors: &[f32],
    out: &RowsMut,
    start: *mut E,
) {
    let ahead = Ahead::beside_results(out);
    for (row, factor) in factors.iter().enumerate() {
        // SAFETY: the caller's.
        unsafe {
            ahead.fetch::<L>(row);
            let (sums, place) = (sums.add(row * apart), start.add(row * out.stride));
            for at in (0..out.dim).step_by(LANES) {
                let result = L::add(L::mul(L::load(sums.add(at)), L::splat(*factor)), L::splat(0.0));
                if at + LANES <= out.dim {
                    E::store::<L>(place.add(at), result);
                } else {
                    E::store_part::<L>(place.add(at), result, out.dim - at);
                }
            }
        }
    }
}

/// The columns `[dim][LANES]` of a panel as rows of whole vectors, one behind the other.
///
/// # Safety
/// As [`Lanes`]; `columns` must be valid for `dim * LANES` numbers, `out` for [`LANES`] rows.
#[inline(always)]
pub(super) unsafe fn rows_of_panel<L: Lanes>(columns: *const f32, dim: usize, out: *mut f32) {
    let width = dim.next_multiple_of(LANES);
    for at in (0..dim).step_by(LANES) {
        // SAFETY: the caller's.
        unsafe {
            let mut block: [L::F; LANES] = [L::splat(0.0); LANES];
            for (d, lanes) in block.iter_mut().enumerate().take(dim - at) {
                *lanes = L::load(columns.add((at + d) * LANES));
            }
            L::transpose(&mut block);
            for (row, lanes) in block.into_iter().enumerate() {
                L::store(out.add(row * width + at), lanes);
            }
        }
    }
}
