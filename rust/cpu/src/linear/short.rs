//! Linear layers of many short rows, whose sums are over before tiles of planes pay.

use super::panels::HELD;
use crate::arch::buffer::Buffer;
use crate::arch::lanes::LANES;
use crate::arch::product::{Kernels, Order, Padded, Panels, Rows, Short, padded_width};
use crate::typed::RowMut;
use std::cell::RefCell;

/// Rows with fewer columns are short.
pub(super) const COLUMNS: usize = 48;
/// So many rows pay for the panels of the weights.
const FEWEST_ROWS: usize = 8;

#[derive(Default)]
struct Scratch {
    x: Buffer,
    weight: Buffer,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Whether panels are quicker than dot products of rows where they lie.
pub(super) fn pay(rows: usize, weight: &Rows) -> bool {
    rows >= FEWEST_ROWS && weight.columns() > 0
}

/// Computes one task: the columns from `first` on that each row's piece has room for.
pub(super) fn fill(
    kernels: &Kernels,
    x: Rows,
    weight: Rows,
    bias: Option<&[f32]>,
    first: usize,
    mut pieces: Vec<RowMut>,
) {
    let (columns, order, count) = (x.columns(), Order::Planes, pieces[0].len());
    let (width, steps) = (padded_width(columns), order.steps(columns));
    let strip = HELD / steps / LANES * LANES;
    SCRATCH.with_borrow_mut(|scratch| {
        let wide = scratch.x.take(x.count() * width);
        kernels.widen(&x, wide);
        let x = Padded::new(wide, width);
        for start in (0..count).step_by(strip) {
            let here = strip.min(count - start);
            let numbers = scratch.weight.take(here.next_multiple_of(LANES) * steps);
            kernels.pack_rows(&weight.part(first + start, here), order, numbers);
            let bias = bias.map_or(&[][..], |bias| &bias[first + start..][..here]);
            let mut out: Vec<RowMut> = pieces.iter_mut().map(|piece| piece.part(start, here)).collect();
            kernels.short(Short { x, weight: Panels { numbers, steps }, bias, out: &mut out }, columns);
        }
    });
}
