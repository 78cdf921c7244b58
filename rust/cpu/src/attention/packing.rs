//! Queries and keys on their way to the kernels: queries turned, scaled and packed into tiles; keys and values found
//! where they lie, evenly spaced in an array or spread over pages; keys turned and packed into panels.

use super::Input;
use super::context::{Context, QueryBlock, Side};
use crate::arch::attention::{MAX_DIM, Rows, Spread, Turns, height};
use crate::arch::buffer::Buffer;
use crate::arch::lanes::LANES;
use farspan_core::attention::{KEY_CHUNK, Sequence};
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
pub(super) fn pack_queries(
    context: &Context,
    query_block: &QueryBlock,
    tile_rows: TileRows,
    side: Side,
    out: &mut [f32],
) {
    out.fill(0.0);
    turned_queries(context, query_block, tile_rows.first..tile_rows.first + tile_rows.rows, side, |lane, row| {
        for (column, x) in out.chunks_exact_mut(tile_rows.height).zip(row) {
            column[lane] = *x;
        }
    });
}

/// Hands each of the rows `rows` of a block, counted from the first of them, to `take`: widened, turned and scaled,
/// with zeros up to the next multiple of [`LANES`].
pub(super) fn turned_queries(
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

/// A chunk of the keys, or of the values, of a sequence, in every head.
pub(super) struct ChunkRows<'r> {
    input: &'r Input<'r>,
    batch: usize,
    start: usize,
    count: usize,
    spread: Option<&'r Spread>,
}

impl<'r> ChunkRows<'r> {
    /// Those of `keys`; `room` holds where they lie, should they be spread.
    pub(super) fn new(
        context: &Context<'r, '_>,
        input: &'r Input<'r>,
        sequence: &Sequence,
        keys: &Range<usize>,
        room: &'r mut Spread,
    ) -> Self {
        let spread = context.problem.block_table.map(|table| {
            // The problem's check has seen every entry that names existing keys.
            room.set(input, keys.clone(), |block| table.at([sequence.key_batch, block]) as usize);
            &*room
        });
        ChunkRows {
            input,
            batch: sequence.key_batch,
            start: sequence.key_start + keys.start,
            count: keys.len(),
            spread,
        }
    }

    /// Those of one head.
    pub(super) fn of(&self, head: usize) -> Rows<'r> {
        match self.spread {
            Some(spread) => Rows::spread(self.input, head, spread),
            None => Rows::new(self.input, self.batch, head, self.start, self.count),
        }
    }
}

/// Packs the panels `panels` of a chunk's keys.
#[expect(clippy::too_many_arguments, reason = "what, from where, by which rotation, through what, to where")]
pub(super) fn pack_keys(
    context: &Context,
    sequence_index: usize,
    rows: &Rows,
    keys: &Range<usize>,
    panels: Range<usize>,
    side: Side,
    turns: &mut [Buffer; 2],
    out: &mut [f32],
) {
    let sequence = context.sequence(sequence_index);
    let (dim, half) = (context.shape.head_dim, context.half());
    let mut positions = [0.0; KEY_CHUNK];
    context.key_positions(sequence, keys.clone(), side, &mut positions);
    let [cos, sin] = turns;
    for panel in panels {
        let which = panel * LANES..((panel + 1) * LANES).min(keys.len());
        let pairs = which.len() * half;
        let (cos, sin) = (cos.take(pairs), sin.take(pairs));
        let turns = context.problem.rotary.as_ref().map(|rotary| {
            context.turn_table(sequence_index, &positions[which.clone()], [cos, sin]);
            Turns { cos, sin, half, interleaved: rotary.interleaved }
        });
        context.kernels.panel(rows, which, turns, &mut out[panel * dim * LANES..(panel + 1) * dim * LANES]);
    }
}
