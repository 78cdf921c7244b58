//! Rows of a large input: one head of one sequence, `[time, dim]`, evenly spaced or spread over pages.

use crate::arch::lanes::LANES;
use crate::attention::Output;
use crate::{Typed, View, each, map};
use std::marker::PhantomData;
use std::ops::Range;

/// A large input `[batch, heads, time, dim]`: any strides, the last dimension contiguous. The 16-bit types come as
/// bits.
pub type Input<'a> = Typed<View<'a, f32, 4>, View<'a, u16, 4>>;

/// Where rows begin.
pub(super) type Start = Typed<*const f32, *const u16>;

impl Input<'_> {
    /// The sizes of its dimensions.
    pub fn shape(&self) -> [usize; 4] {
        each!(view in self => view.shape())
    }

    /// Shape and strides.
    pub(crate) fn geometry(&self) -> [[usize; 4]; 2] {
        each!(view in self => [view.shape(), view.strides()])
    }

    fn start(&self, first: [usize; 4], last: [usize; 4]) -> Start {
        map!(view in self => within(view, first, last))
    }
}

/// `rows` rows of `dim` numbers that live as long as `'a`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows<'a> {
    pub(super) start: Start,
    pub(super) place: Place<'a>,
    pub(super) rows: usize,
    pub(super) dim: usize,
}

/// How many elements behind the start a row lies.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place<'a> {
    /// So many for each row.
    Even(usize, PhantomData<&'a [f32]>),
    /// One number for each row.
    Spread(&'a [usize]),
}

impl<'a> Rows<'a> {
    /// Times `start .. start + rows` of one head. At least one.
    ///
    /// # Panics
    /// When they are not in the array, or rows are not contiguous.
    pub(crate) fn new(input: &Input<'a>, batch: usize, head: usize, start: usize, rows: usize) -> Self {
        let [shape, strides] = input.geometry();
        let begin = input.start([batch, head, start, 0], [batch, head, start + rows - 1, 0]);
        Rows { start: begin, place: Place::Even(strides[2], PhantomData), rows, dim: shape[3] }
    }

    /// The rows of one head that a [`Spread`] was made for.
    ///
    /// # Panics
    /// When it was made for an array of other sizes, or rows are not contiguous.
    pub(crate) fn spread(input: &Input<'a>, head: usize, spread: &'a Spread) -> Self {
        assert!(spread.geometry == input.geometry(), "the offsets are those of this array");
        let start = input.start([0, head, 0, 0], [0, head, 0, 0]);
        let (rows, dim) = (spread.offsets.len(), spread.geometry[0][3]);
        Rows { start, place: Place::Spread(&spread.offsets), rows, dim }
    }

    /// Numbers of a row in whole vectors.
    pub(crate) fn width(&self) -> usize {
        self.dim.next_multiple_of(LANES)
    }

    /// How many elements behind the start a row lies.
    ///
    /// # Safety
    /// There must be such a row.
    #[inline(always)]
    pub(super) unsafe fn offset(&self, row: usize) -> usize {
        match self.place {
            Place::Even(stride, _) => row * stride,
            // SAFETY: the caller's.
            Place::Spread(offsets) => unsafe { *offsets.get_unchecked(row) },
        }
    }
}

/// Rows of a large result, evenly spaced, to be written.
#[derive(Debug)]
pub(crate) struct RowsMut<'a> {
    pub(super) start: Typed<*mut f32, *mut u16>,
    pub(super) stride: usize,
    pub(super) rows: usize,
    pub(super) dim: usize,
    memory: PhantomData<&'a mut [f32]>,
}

impl<'a> RowsMut<'a> {
    /// Times `start .. start + rows` of one head. At least one.
    ///
    /// # Panics
    /// When they are not in the array.
    pub(crate) fn new(output: &'a mut Output, [batch, head, start]: [usize; 3], rows: usize) -> Self {
        let index = [batch, head, start, 0];
        let dim = each!(view in &*output => view.shape()[3]);
        let (start, strides) = map!(view in output => view.rows_from(index, rows)).unzip();
        RowsMut { start, stride: each!(stride in strides => stride), rows, dim, memory: PhantomData }
    }
}

/// Where rows lie that are spread over pages `[pages, heads, page_size, dim]`, the same in every head.
#[derive(Debug, Default)]
pub(crate) struct Spread {
    offsets: Vec<usize>,
    geometry: [[usize; 4]; 2],
}

impl Spread {
    /// The rows of `keys`, of which `page` names the pages.
    ///
    /// # Panics
    /// When there is no such page.
    pub(crate) fn set(&mut self, input: &Input, keys: Range<usize>, page: impl Fn(usize) -> usize) {
        self.geometry = input.geometry();
        self.offsets.clear();
        let [shape, strides] = self.geometry;
        let (size, mut key) = (shape[2], keys.start);
        while key < keys.end {
            let (page, slot) = (page(key / size), key % size);
            assert!(page < shape[0], "page {page} of {}", shape[0]);
            let count = (size - slot).min(keys.end - key);
            let first = page * strides[0] + slot * strides[2];
            self.offsets.extend((0..count).map(|i| first + i * strides[2]));
            key += count;
        }
    }
}

fn within<T>(view: &View<'_, T, 4>, first: [usize; 4], last: [usize; 4]) -> *const T {
    assert!(view.is_contiguous(), "rows need a contiguous last dimension");
    view.pointer_at(last);
    view.pointer_at(first)
}
