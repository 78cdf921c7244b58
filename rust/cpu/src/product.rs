//! Products of a block of rows with a range of weight rows, a chunk at a time: the loop that the unembedding and linear
//! layers share. Nothing larger than a chunk for each row of a block is ever held.

use crate::arch::buffer::Buffer;
use crate::arch::lanes::LANES;
use crate::arch::product::{Carry, Kernels, Padded, Product, Rows, padded_width};
use std::cell::RefCell;
use std::ops::Range;

/// Weight rows whose products are handed over together.
pub(crate) const CHUNK: usize = 512;
/// Products are handed over in whole numbers of this many; those behind the last weight row mean nothing.
pub(crate) const MULTIPLE: usize = 2 * LANES;
/// The most rows that share one reading of the weights.
const MAX_BLOCK: usize = 64;
/// Where rows are too many to widen weights in registers, so many weight rows at a time are widened for the whole
/// block.
const WIDENED: usize = 32;
/// Columns that a block of rows and its widened weights are cut into, so that both stay in the second-level cache.
const PANEL: usize = 1024;
/// How far ahead of the products weights are asked for where they come straight from memory, in bytes. The requests go
/// out in the order of addresses, evenly spread over the work: a memory-bound pass takes two thirds of the time it
/// needs without.
const AHEAD: usize = 16 << 10;

#[derive(Default)]
struct Scratch {
    x: Buffer,
    weights: Buffer,
    sums: Buffer,
    products: Buffer,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// How many rows share one reading of the weights: even blocks of at most [`MAX_BLOCK`]. No result depends on it.
pub(crate) fn block_rows(rows: usize) -> usize {
    rows.div_ceil(rows.div_ceil(MAX_BLOCK).max(1)).max(1)
}

/// Computes the products of all rows of `x` with the weight rows in `range`, and hands each row's products with a chunk
/// of them to `consume(row, chunk, products)`, chunks in order. `products` is longer than its chunk: a whole number of
/// [`MULTIPLE`] entries.
pub(crate) fn for_each_chunk(
    kernels: &Kernels,
    x: Rows,
    weight: Rows,
    range: Range<usize>,
    mut consume: impl FnMut(usize, Range<usize>, &mut [f32]),
) {
    SCRATCH.with_borrow_mut(|scratch| {
        let width = padded_width(x.columns());
        let rows = x.count();
        let wide = scratch.x.take(rows * width);
        kernels.widen(&x, wide);
        let x = Padded::new(wide, width);
        // A cache line more than the chunk keeps the rows from falling into the same cache sets.
        let stride = CHUNK + 16;
        let products = scratch.products.take(rows * stride);
        for first in range.clone().step_by(CHUNK) {
            let chunk = first..range.end.min(first + CHUNK);
            if rows <= kernels.direct_rows || weight.is_wide() && weight.columns() <= PANEL {
                let ahead = weight.ahead(first + AHEAD.div_ceil(weight.stride_bytes().max(1)), chunk.len());
                let w = weight.part(first, chunk.len());
                kernels.product(Product {
                    x,
                    x_column: 0,
                    rows,
                    w,
                    carry: None,
                    ahead,
                    out: products,
                    out_stride: stride,
                });
            } else {
                for first in chunk.clone().step_by(WIDENED) {
                    let count = WIDENED.min(chunk.end - first);
                    let out = &mut products[first - chunk.start..];
                    let scratch = (&mut scratch.weights, &mut scratch.sums);
                    widened(kernels, (x, rows), weight, first..first + count, scratch, (out, stride));
                }
            }
            let length = chunk.len().next_multiple_of(MULTIPLE);
            for (row, products) in products.chunks_exact_mut(stride).take(rows).enumerate() {
                consume(row, chunk.clone(), &mut products[..length]);
            }
        }
    });
}

/// The products with a few weight rows, which are widened panel by panel.
fn widened(
    kernels: &Kernels,
    (x, rows): (Padded, usize),
    weight: Rows,
    range: Range<usize>,
    (weights, sums): (&mut Buffer, &mut Buffer),
    (out, out_stride): (&mut [f32], usize),
) {
    let (columns, count) = (weight.columns(), range.len());
    let width = columns.div_ceil(columns.div_ceil(PANEL).max(1)).next_multiple_of(LANES).max(LANES);
    let panels = columns.div_ceil(width).max(1);
    let w = weight.part(range.start, count);
    let next = weight.ahead(range.end, count);
    let sums = if panels > 1 { sums.take(rows * count * LANES) } else { &mut [] };
    for panel in 0..panels {
        let first = panel * width;
        let here = width.min(columns - first);
        let wide = &mut weights.take(count * padded_width(here))[..];
        kernels.widen(&w.panel(first, here), wide);
        let carry = Carry { sums, resume: panel > 0, keep: panel + 1 < panels };
        kernels.product(Product {
            x,
            x_column: first,
            rows,
            w: Padded::new(wide, padded_width(here)).rows(count, here.next_multiple_of(LANES)),
            carry: (panels > 1).then_some(carry),
            ahead: next.share(panel, panels),
            out,
            out_stride,
        });
    }
}
