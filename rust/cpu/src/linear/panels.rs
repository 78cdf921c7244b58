//! Linear layers of many rows: both operands are laid out in panels, so that no sum runs across lanes.
//!
//! A number has the bits that it has in a product of few rows: [`Order::Planes`] is the same order of summation.

use crate::arch::buffer::Buffer;
use crate::arch::lanes::LANES;
use crate::arch::product::{Kernels, Left, Multiplied, Order, Panels, Rows};
use crate::typed::RowMut;
use std::cell::RefCell;

/// Those that are longer share fewer tiles with what is around them in the cache, and need more rows.
const LONG: usize = 512;
/// float32 weights up to here are quicker where they lie, as long as they are not short.
const LONGEST_DIRECT: usize = 1024;
/// Rows of a block, which share the weights that a task lays out: fewer where they would leave the caches.
const MOST_ROWS: usize = 256;
const FEWEST_ROWS: usize = 128;
/// The same of rows that are read where they lie, which fill no cache.
const MOST_LYING_ROWS: usize = 1024;
/// Rows of a block whose products are rounded and stored together, while they are in a cache.
const TOGETHER: usize = 4 * LANES;
/// Numbers of a block of rows, and of the weights that meet it at the same time.
pub(super) const HELD: usize = 96 << 10;
/// Weight rows that a number of tiles divides on every machine.
const STRIP: usize = 3 * LANES;

#[derive(Default)]
struct Scratch {
    x: Buffer,
    weight: Buffer,
    products: Buffer,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Whether panels are quicker than dot products of rows where they lie, which are not short.
pub(super) fn pay(rows: usize, weight: &Rows) -> bool {
    match weight.columns() {
        ..LONG => rows >= 48,
        LONG..=LONGEST_DIRECT if weight.is_wide() => false,
        _ => rows >= 128,
    }
}

/// How many rows share one layout of the weights: even blocks of whole panels, a multiple of `even` of them where there
/// are rows enough. No result depends on it.
pub(super) fn block_rows(x: &Rows, even: usize) -> usize {
    let (rows, columns) = (x.count(), x.columns());
    let most = match Left::reads(x, Order::Planes) {
        true => MOST_LYING_ROWS,
        false => (HELD / columns.max(1)).clamp(FEWEST_ROWS, MOST_ROWS),
    };
    let blocks = rows.div_ceil(most).next_multiple_of(even).min(rows.div_ceil(FEWEST_ROWS));
    rows.div_ceil(blocks.max(1)).max(1).next_multiple_of(LANES)
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
    let order = Order::Planes;
    let steps = order.steps(x.columns());
    let columns = first..first + pieces[0].len();
    let strip = (HELD / steps).max(STRIP).min(columns.len().next_multiple_of(STRIP)) / STRIP * STRIP;
    SCRATCH.with_borrow_mut(|scratch| {
        let a = kernels.left(x, order, &mut scratch.x);
        for start in columns.clone().step_by(strip) {
            let here = start..columns.end.min(start + strip);
            let width = here.len().next_multiple_of(LANES);
            let b = scratch.weight.take(width * steps);
            kernels.pack_rows(&weight.part(here.start, here.len()), order, b);
            let b = Panels { numbers: b, steps };
            for (at, pieces) in pieces.chunks_mut(TOGETHER).enumerate() {
                let products = scratch.products.take(pieces.len().next_multiple_of(LANES) * width);
                let (a, rows) = (a.part(at * TOGETHER, pieces.len()), pieces.len());
                kernels.multiply(Multiplied { a, b, order, rows, out: &mut *products, stride: width, add: false });
                for (row, products) in pieces.iter_mut().zip(products.chunks_exact_mut(width)) {
                    if let Some(bias) = bias {
                        kernels.add_bias(products, &bias[here.clone()]);
                    }
                    kernels.store(products, row.part(here.start - first, here.len()));
                }
            }
        }
    });
}
