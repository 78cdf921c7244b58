//! Queries and keys on their way to the kernels: queries turned, scaled and packed into tiles; keys and values found
//! where they lie, evenly spaced in an array or spread over pages; keys turned and packed into panels.

use super::Input;
use super::context::{Context, QueryBlock, Side};
use super::turning::{TABLES_OF_SIDE, Turning};
use crate::arch::attention::{Rows, Spread, Turns, height};
use crate::arch::buffer::Buffer;
use crate::arch::lanes::LANES;
use farspan_core::attention::Sequence;
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

/// Room for the queries of a tile as rows, and their turns on one side.
#[derive(Default)]
pub(super) struct QueryRoom {
    rows: Buffer,
    turning: Turning<TABLES_OF_SIDE>,
}

/// Packs the queries of a block, tile behind tile `[head_dim, height]`, scale included; rows that do not exist are 0.
pub(super) fn pack_queries(
    context: &Context,
    query_block: &QueryBlock,
    tiles: &[TileRows],
    side: Side,
    QueryRoom { rows, turning }: &mut QueryRoom,
    out: &mut [f32],
) {
    let dim = context.shape.head_dim;
    let width = dim.next_multiple_of(LANES);
    let turns = query_turns(context, query_block, side, turning);
    for TileRows { first, rows: count, height } in tiles.iter().copied() {
        let rows = rows.take(count * width);
        turned_queries(context, query_block, first..first + count, turns, rows);
        context.kernels.tile(rows, dim, &mut out[first * dim..(first + height) * dim]);
    }
}

/// The turns of a block's queries.
pub(super) fn query_turns<'t, const N: usize>(
    context: &Context,
    query_block: &QueryBlock,
    side: Side,
    turning: &'t mut Turning<N>,
) -> Option<Turns<'t>> {
    let sequence = context.sequence(query_block.sequence);
    let positions = query_block.queries.clone().map(|query| context.query_position(sequence, query, side));
    turning.turns(context, query_block.sequence, positions)
}

/// Writes the rows `rows` of a block one behind the other: widened, turned and scaled, each with zeros up to the next
/// multiple of [`LANES`]. `turns` are those of all queries of the block.
pub(super) fn turned_queries(
    context: &Context,
    query_block: &QueryBlock,
    rows: Range<usize>,
    turns: Option<Turns>,
    out: &mut [f32],
) {
    let sequence = context.sequence(query_block.sequence);
    runs(query_block, rows, |query, head, place| {
        let time = sequence.query_start + query;
        let scales = query_scales(context, sequence, head, query, place.len());
        let source = Rows::new(&context.problem.query, sequence.batch, head, time, place.len());
        let first = query - query_block.queries.start;
        let turns = turns.map(|turns| turns.rows(first..first + place.len()));
        let width = source.width();
        let out = &mut out[place.start * width..place.end * width];
        context.kernels.rows(&source, turns, Some(&scales[..place.len()]), out);
    });
}

/// Factors of the products of up to [`LANES`] consecutive queries of a head.
pub(super) fn query_scales(
    context: &Context,
    sequence: &Sequence,
    head: usize,
    query: usize,
    count: usize,
) -> [f32; LANES] {
    let mut scales = [0.0; LANES];
    for (i, scale) in scales[..count].iter_mut().enumerate() {
        *scale = context.query_scale(sequence, head, sequence.query_start + query + i);
    }
    scales
}

/// Writes the rows `rows` of a block of an array like the queries one behind the other: widened, each with zeros up to
/// the next multiple of [`LANES`].
pub(super) fn widened_rows(
    context: &Context,
    query_block: &QueryBlock,
    input: &Input,
    rows: Range<usize>,
    out: &mut [f32],
) {
    let sequence = context.sequence(query_block.sequence);
    runs(query_block, rows, |query, head, place| {
        let time = sequence.query_start + query;
        let source = Rows::new(input, sequence.batch, head, time, place.len());
        let width = source.width();
        context.kernels.rows(&source, None, None, &mut out[place.start * width..place.end * width]);
    });
}

/// Calls `take` with the query and the head of the first row, and the places among `rows`, of up to [`LANES`] rows of
/// consecutive queries in the same head.
pub(super) fn runs(query_block: &QueryBlock, rows: Range<usize>, mut take: impl FnMut(usize, usize, Range<usize>)) {
    let most = if query_block.heads.len() == 1 { LANES } else { 1 };
    for first in rows.clone().step_by(most) {
        let (head, query) = query_block.row(first);
        let place = first - rows.start;
        take(query, head, place..place + most.min(rows.end - first));
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
    turning: &mut Turning<TABLES_OF_SIDE>,
    out: &mut [f32],
) {
    let dim = context.shape.head_dim;
    let turns = key_turns(context, sequence_index, keys, side, turning);
    for panel in panels {
        let which = panel * LANES..((panel + 1) * LANES).min(keys.len());
        let turns = turns.map(|turns| turns.rows(which.clone()));
        context.kernels.panel(rows, which, turns, &mut out[panel * dim * LANES..(panel + 1) * dim * LANES]);
    }
}

/// The turns of a chunk's keys.
pub(super) fn key_turns<'t, const N: usize>(
    context: &Context,
    sequence_index: usize,
    keys: &Range<usize>,
    side: Side,
    turning: &'t mut Turning<N>,
) -> Option<Turns<'t>> {
    let positions = context.key_positions(context.sequence(sequence_index), keys.clone(), side);
    turning.turns(context, sequence_index, positions)
}
