//! Queries turned, scaled and packed into tiles.

use super::context::{Context, QueryBlock, Side};
use crate::arch::attention::{MAX_DIM, Rows, height};
use crate::arch::lanes::LANES;
use std::ops::Range;

/// The rows `first .. first + rows` of a block of queries, packed for kernels of `height` rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct TileRows {
    pub first: usize,
    pub rows: usize,
    pub height: usize,
}

/// Cuts the rows of a block into tiles.
pub(super) fn tiles(rows: usize, most: usize) -> impl Iterator<Item = TileRows> {
    (0..rows).step_by(most).map(move |first| {
        let rows = (rows - first).min(most);
        TileRows { first, rows, height: height(rows) }
    })
}

/// Packs a tile's queries as `[head_dim, height]`, scale included; rows that do not exist are 0.
pub(super) fn pack(context: &Context, query_block: &QueryBlock, tile_rows: TileRows, side: Side, out: &mut [f32]) {
    out.fill(0.0);
    turned(context, query_block, tile_rows.first..tile_rows.first + tile_rows.rows, side, |lane, row| {
        for (column, x) in out.chunks_exact_mut(tile_rows.height).zip(row) {
            column[lane] = *x;
        }
    });
}

/// Hands each of the rows `rows` of a block, counted from the first of them, to `take`: widened, turned and scaled, with
/// zeros up to the next multiple of [`LANES`].
pub(super) fn turned(
    context: &Context,
    query_block: &QueryBlock,
    rows: Range<usize>,
    side: Side,
    mut take: impl FnMut(usize, &[f32]),
) {
    let sequence = context.sequence(query_block.sequence);
    let (dim, half) = (context.shape.head_dim, context.half());
    let mut row_room = [0.0; MAX_DIM];
    let row = &mut row_room[..dim.next_multiple_of(LANES)];
    let (mut cos, mut sin) = ([0.0; MAX_DIM / 2], [0.0; MAX_DIM / 2]);
    let mut turned = None;
    for (index, block_row) in rows.enumerate() {
        let (head, query) = query_block.row(block_row);
        let time = sequence.query_start + query;
        context.kernels.widen(&Rows::new(&context.problem.query, sequence.batch, head, time, 1), row);
        if let Some(rotary) = &context.problem.rotary {
            if turned != Some(query) {
                let position = [context.query_position(sequence, query, side)];
                context.turn_table(query_block.sequence, &position, [&mut cos[..half], &mut sin[..half]]);
                turned = Some(query);
            }
            context.kernels.turn_row(row, &cos[..half], &sin[..half], rotary.interleaved);
        }
        let scale = context.query_scale(sequence, head, time);
        row[..dim].iter_mut().for_each(|x| *x *= scale);
        take(index, row);
    }
}
