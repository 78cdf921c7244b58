//! Rows of a large input: one head of one sequence, `[time, dim]`.

use crate::View;
use crate::arch::element::{Bf16, F16};
use std::marker::PhantomData;

/// A large input `[batch, heads, time, dim]`: any strides, the last dimension contiguous. The 16-bit types come as
/// bits.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// float32
    F32(View<'a, f32, 4>),
    /// The bits of bfloat16.
    Bf16(View<'a, u16, 4>),
    /// The bits of float16.
    F16(View<'a, u16, 4>),
}

/// Where rows begin, by element type.
#[derive(Clone, Copy, Debug)]
pub(super) enum Start {
    F32(*const f32),
    Bf16(*const Bf16),
    F16(*const F16),
}

/// `rows` rows of `dim` numbers, `stride` elements apart, that live as long as `'a`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows<'a> {
    pub(super) start: Start,
    pub(super) stride: usize,
    pub(super) rows: usize,
    pub(super) dim: usize,
    memory: PhantomData<&'a [f32]>,
}

impl<'a> Rows<'a> {
    /// Times `start .. start + rows` of one head. At least one.
    ///
    /// # Panics
    /// When they are not in the array, or rows are not contiguous.
    pub(crate) fn new(input: &Input<'a>, batch: usize, head: usize, start: usize, rows: usize) -> Self {
        let (first, last) = ([batch, head, start, 0], [batch, head, start + rows - 1, 0]);
        let (begin, stride, dim) = match input {
            Input::F32(view) => (Start::F32(within(view, first, last)), view.strides()[2], view.shape()[3]),
            Input::Bf16(view) => (Start::Bf16(within(view, first, last).cast()), view.strides()[2], view.shape()[3]),
            Input::F16(view) => (Start::F16(within(view, first, last).cast()), view.strides()[2], view.shape()[3]),
        };
        Rows { start: begin, stride, rows, dim, memory: PhantomData }
    }
}

fn within<T>(view: &View<'_, T, 4>, first: [usize; 4], last: [usize; 4]) -> *const T {
    assert!(view.is_contiguous(), "rows need a contiguous last dimension");
    view.pointer_at(last);
    view.pointer_at(first)
}
