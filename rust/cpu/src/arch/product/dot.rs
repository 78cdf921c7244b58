//! Dot products of rows with rows, each one sixteen partial sums and a fixed tree.
//!
//! Partial sum j of a product takes columns j, j + 16, j + 32, ... in order, one fused multiply-add each; the sixteen
//! are added by [`Lanes::sum`]'s tree. That order names neither the tile, nor the other rows, nor the machine: a
//! product has the same bits wherever it is computed.

#![allow(clippy::needless_range_loop, reason = "tiles of registers are indexed by row and by weight")]

use crate::arch::element::Element;
use crate::arch::lanes::{LANES, Lanes};
use crate::arch::view::View;
use crate::matrix::Matrix;
use crate::{Typed, each, map};
use farspan_core::{Error, Result};
use ndarray::ArrayView2;
use std::marker::PhantomData;

const CACHE_LINE: usize = 64;

/// Where rows begin.
pub(in crate::arch) type Start = Typed<*const f32, *const u16>;

impl Start {
    /// `count` elements further; the address need not exist.
    fn skip(self, count: usize) -> Start {
        map!(start in self => start.wrapping_add(count))
    }
}

/// Rows of a matrix that lives as long as `'a`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows<'a> {
    pub(in crate::arch) start: Start,
    pub(in crate::arch) stride: usize,
    pub(super) count: usize,
    pub(super) columns: usize,
    memory: PhantomData<&'a [f32]>,
}

// SAFETY: a shared borrow of plain data.
unsafe impl Send for Rows<'_> {}
// SAFETY: as above.
unsafe impl Sync for Rows<'_> {}

/// Start and stride of the rows of an array, and whether each is contiguous.
fn laid_out<T>(argument: &'static str, array: &ArrayView2<T>) -> Result<(*const T, usize, bool)> {
    let view = View::<T, 2>::new(argument, array)?;
    let start = if view.shape().contains(&0) { std::ptr::dangling() } else { view.pointer_at([0, 0]) };
    Ok((start, view.strides()[0], view.is_contiguous()))
}

impl<'a> Rows<'a> {
    /// All rows of `matrix`; an error names `argument` when a row is not contiguous or a stride is negative.
    pub(crate) fn new(argument: &'static str, matrix: &Matrix<'a>) -> Result<Self> {
        let (start, stride, contiguous) = each!(array as wrap in matrix => {
            let (start, stride, contiguous) = laid_out(argument, array)?;
            (wrap(start), stride, contiguous)
        });
        let [count, columns] = matrix.shape();
        if !contiguous && count > 0 {
            return Err(Error::argument(argument, "a contiguous last dimension", "stride 0"));
        }
        Ok(Rows { start, stride, count, columns, memory: PhantomData })
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    /// `count` rows from row `first`.
    ///
    /// # Panics
    /// When they do not exist.
    pub(crate) fn part(&self, first: usize, count: usize) -> Self {
        assert!(first <= self.count && count <= self.count - first, "rows {first} + {count} of {}", self.count);
        Rows { start: self.start.skip(first * self.stride), count, ..*self }
    }

    /// The same rows from column `first` on, `count` columns.
    ///
    /// # Panics
    /// When they do not exist.
    pub(crate) fn panel(&self, first: usize, count: usize) -> Self {
        assert!(
            first <= self.columns && count <= self.columns - first,
            "columns {first} + {count} of {}",
            self.columns
        );
        Rows { start: self.start.skip(first), columns: count, ..*self }
    }

    /// The distance between rows in bytes.
    pub(crate) fn stride_bytes(&self) -> usize {
        self.stride * self.start.dtype().size()
    }

    /// Whether the elements are float32 already, in whole vectors.
    pub(crate) fn is_wide(&self) -> bool {
        matches!(self.start, Start::F32(_)) && self.columns.is_multiple_of(LANES)
    }

    /// The memory from row `first` on, as far as `count` rows reach, to be asked for early. It need not exist.
    pub(crate) fn ahead(&self, first: usize, count: usize) -> Ahead {
        let start = each!(start in self.start => start.cast::<u8>());
        Ahead { from: start.wrapping_add(first * self.stride_bytes()), bytes: count * self.stride_bytes() }
    }
}

/// Rows of float32, padded with zeros to whole vectors, one behind the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Padded<'a> {
    data: &'a [f32],
    width: usize,
}

/// How far apart rows of `columns` numbers are laid: whole vectors, and an odd number of them, so that the rows of a
/// block do not fall into the same cache sets.
pub(crate) const fn padded_width(columns: usize) -> usize {
    (columns.div_ceil(LANES) | 1) * LANES
}

impl<'a> Padded<'a> {
    /// `data` as rows of `width`, a multiple of sixteen.
    pub(crate) fn new(data: &'a [f32], width: usize) -> Self {
        assert!(width.is_multiple_of(LANES) && data.len().is_multiple_of(width));
        Padded { data, width }
    }

    /// How far apart rows are.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// How many rows there are.
    pub(super) fn count(&self) -> usize {
        self.data.len() / self.width
    }

    /// Where row `index` begins.
    pub(super) fn row(&self, index: usize) -> *const f32 {
        self.data[index * self.width..].as_ptr()
    }

    /// The same memory as `count` rows of `columns` columns, for a product to take as its second operand.
    pub(crate) fn rows(&self, count: usize, columns: usize) -> Rows<'a> {
        assert!(count * self.width <= self.data.len() && columns <= self.width);
        let start = Start::F32(self.data.as_ptr());
        Rows { start, stride: self.width, count, columns, memory: PhantomData }
    }
}

/// Memory to ask for while computing: as many bytes as the product's own weights take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ahead {
    pub from: *const u8,
    pub bytes: usize,
}

impl Ahead {
    /// Part `index` of `count` equal ones.
    pub(crate) fn share(&self, index: usize, count: usize) -> Ahead {
        let bytes = self.bytes / count;
        Ahead { from: self.from.wrapping_add(index * bytes), bytes }
    }
}

/// Partial sums that pass from one panel of columns to the next: sixteen for each pair, `[token, row, LANES]`.
#[derive(Debug)]
pub(crate) struct Carry<'c> {
    pub sums: &'c mut [f32],
    /// Whether earlier columns have left their sums here.
    pub resume: bool,
    /// Whether later columns will take them up: then nothing is written to the output.
    pub keep: bool,
}

/// One call: `out[r * out_stride + t] = dot(x[r], w[t])` for `rows` rows of `x`, from its column `x_column` on, and all
/// rows of `w`.
#[derive(Debug)]
pub(crate) struct Product<'a, 'o> {
    pub x: Padded<'a>,
    pub x_column: usize,
    pub rows: usize,
    pub w: Rows<'a>,
    pub carry: Option<Carry<'o>>,
    pub ahead: Ahead,
    pub out: &'o mut [f32],
    pub out_stride: usize,
}

impl Product<'_, '_> {
    /// That every access of [`product`] lies inside its operand.
    pub(crate) fn check(&self) {
        assert!(self.rows * self.x.width <= self.x.data.len(), "rows of x");
        assert!(self.x_column.is_multiple_of(LANES) && self.x_column + self.w.columns <= self.x.width, "columns of w");
        let reach = self.rows.checked_sub(1).map_or(0, |last| last * self.out_stride + self.w.count);
        assert!(reach <= self.out.len() && self.w.count <= self.out_stride, "out");
        let pairs = self.rows * self.w.count;
        assert!(self.carry.as_ref().is_none_or(|carry| carry.sums.len() >= pairs * LANES), "carry");
    }
}

/// What a tile asks for while it computes: `lines` cache lines from `from`.
#[derive(Clone, Copy)]
struct Request {
    from: *const u8,
    lines: usize,
}

/// Where a tile's partial sums come from and go to; the distance between rows is `LANES`.
#[derive(Clone, Copy)]
struct Sums {
    start: *mut f32,
    token_stride: usize,
    resume: bool,
    keep: bool,
}

/// `R` rows times `T` rows of weights in registers. The lines requested go out evenly, one a step if `SPARSE`.
#[inline(always)]
unsafe fn tile<L: Lanes, E: Element, const R: usize, const T: usize, const SPARSE: bool>(
    (x, x_stride): (*const f32, usize),
    (w, w_stride): (*const E, usize),
    columns: usize,
    carry: Sums,
    request: Request,
    (out, out_stride): (*mut f32, usize),
) {
    const { assert!(R * T <= LANES) };
    // SAFETY: of the caller: R rows of x and T rows of w with `columns` columns (x padded to whole vectors) exist, as
    // do the R x T outputs and, where used, carried sums; a prefetch may point anywhere.
    unsafe {
        let mut sums = [[L::splat(0.0); T]; R];
        if carry.resume {
            for r in 0..R {
                for t in 0..T {
                    sums[r][t] = L::load(carry.start.add(t * carry.token_stride + r * LANES));
                }
            }
        }
        let steps = columns / LANES;
        let lines_a_step = if SPARSE { 1 } else { request.lines.div_ceil(steps.max(1)) };
        let requesting = request.lines.div_ceil(lines_a_step.max(1)).min(steps);
        let mut from = request.from;
        for at in (0..requesting * LANES).step_by(LANES) {
            for _ in 0..lines_a_step {
                L::prefetch(from);
                from = from.wrapping_add(CACHE_LINE);
            }
            step::<L, R, T>(x.add(at), x_stride, |t| E::load::<L>(w.add(t * w_stride + at)), &mut sums);
        }
        for at in (requesting * LANES..steps * LANES).step_by(LANES) {
            step::<L, R, T>(x.add(at), x_stride, |t| E::load::<L>(w.add(t * w_stride + at)), &mut sums);
        }
        let (at, rest) = (steps * LANES, columns - steps * LANES);
        if rest > 0 {
            step::<L, R, T>(x.add(at), x_stride, |t| E::load_part::<L>(w.add(t * w_stride + at), rest), &mut sums);
        }
        if carry.keep {
            for r in 0..R {
                for t in 0..T {
                    L::store(carry.start.add(t * carry.token_stride + r * LANES), sums[r][t]);
                }
            }
            return;
        }
        let mut flat = [L::splat(0.0); LANES];
        for r in 0..R {
            for t in 0..T {
                flat[r * T + t] = sums[r][t];
            }
        }
        let mut products = [0.0f32; LANES];
        L::store(products.as_mut_ptr(), L::sums(&flat));
        for r in 0..R {
            std::ptr::copy_nonoverlapping(products.as_ptr().add(r * T), out.add(r * out_stride), T);
        }
    }
}

/// Sixteen columns of every pair of a tile.
#[inline(always)]
unsafe fn step<L: Lanes, const R: usize, const T: usize>(
    x: *const f32,
    x_stride: usize,
    weight: impl Fn(usize) -> L::F,
    sums: &mut [[L::F; T]; R],
) {
    for t in 0..T {
        let weight = weight(t);
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: of the caller.
            sums[t] = unsafe { L::fma(L::load(x.add(r * x_stride)), weight, sums[t]) };
        }
    }
}

/// A [`Product`] by tiles of `R` x `T`, or of 1 x `T1` for a single row.
#[inline(always)]
pub(crate) unsafe fn product<L: Lanes, E: Element, const R: usize, const T: usize, const T1: usize>(
    p: &mut Product,
    start: *const E,
) {
    // SAFETY: of the caller, who has called `check`.
    unsafe {
        if p.rows == 1 {
            let whole = p.w.count / T1 * T1;
            strip::<L, E, 1, T1>(p, start, 0, whole);
            strip::<L, E, 1, 1>(p, start, whole, p.w.count);
        } else {
            let whole = p.w.count / T * T;
            strip::<L, E, R, T>(p, start, 0, whole);
            strip::<L, E, R, 1>(p, start, whole, p.w.count);
        }
    }
}

/// The weights `first` to `last`, `T` at a time; for each, all rows, so that the weights stay in the first-level cache.
#[inline(always)]
unsafe fn strip<L: Lanes, E: Element, const R: usize, const T: usize>(
    p: &mut Product,
    start: *const E,
    first: usize,
    last: usize,
) {
    let steps = p.w.columns / LANES;
    let calls = p.rows / R + (p.rows % R).div_ceil(2);
    let bytes_a_weight = p.ahead.bytes / p.w.count.max(1);
    let lines = (bytes_a_weight * T).div_ceil(CACHE_LINE * calls.max(1));
    let (carried, resume, keep) = match &mut p.carry {
        Some(carry) => (carry.sums.as_mut_ptr(), carry.resume, carry.keep),
        None => (std::ptr::dangling_mut(), false, false),
    };
    let token_stride = p.rows * LANES;
    for token in (first..last).step_by(T) {
        let mut request = Request { from: p.ahead.from.wrapping_add(bytes_a_weight * token), lines };
        let mut row = 0;
        while row < p.rows {
            // The last rows go by twos and ones: single rows have too few independent sums to keep the machine busy.
            let height = if row + R <= p.rows { R } else { (p.rows - row).min(2) };
            // SAFETY: `check` was called: all `height` rows and T weights exist, and so do carried sums where there are
            // any.
            unsafe {
                let x = (p.x.data.as_ptr().add(row * p.x.width + p.x_column), p.x.width);
                let w = (start.add(token * p.w.stride), p.w.stride);
                let out = (p.out.as_mut_ptr().add(row * p.out_stride + token), p.out_stride);
                let here = carried.wrapping_add(token * token_stride + row * LANES);
                let carry = Sums { start: here, token_stride, resume, keep };
                match (height, lines <= steps) {
                    (1, true) => tile::<L, E, 1, T, true>(x, w, p.w.columns, carry, request, out),
                    (1, false) => tile::<L, E, 1, T, false>(x, w, p.w.columns, carry, request, out),
                    (2, true) => tile::<L, E, 2, T, true>(x, w, p.w.columns, carry, request, out),
                    (2, false) => tile::<L, E, 2, T, false>(x, w, p.w.columns, carry, request, out),
                    (_, true) => tile::<L, E, R, T, true>(x, w, p.w.columns, carry, request, out),
                    (_, false) => tile::<L, E, R, T, false>(x, w, p.w.columns, carry, request, out),
                }
            }
            request.from = request.from.wrapping_add(lines * CACHE_LINE);
            row += height;
        }
    }
}

/// Widens all of `rows` to float32, each padded with zeros to a whole number of vectors.
#[inline(always)]
pub(crate) unsafe fn widen<L: Lanes, E: Element>(rows: &Rows, start: *const E, out: &mut [f32]) {
    let width = padded_width(rows.columns);
    for (i, line) in out.chunks_exact_mut(width).take(rows.count).enumerate() {
        // SAFETY: of the caller; row i exists and is read within its columns, `line` has whole vectors.
        unsafe {
            let source = start.add(i * rows.stride);
            for at in (0..rows.columns).step_by(LANES) {
                let here = (rows.columns - at).min(LANES);
                let wide =
                    if here == LANES { E::load::<L>(source.add(at)) } else { E::load_part::<L>(source.add(at), here) };
                L::store(line.as_mut_ptr().add(at), wide);
            }
        }
    }
}
