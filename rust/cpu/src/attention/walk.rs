//! Many queries against the chunks of their keys: a chunk is packed once and meets all tiles of the block.

use super::context::{Context, QueryBlock, Side};
use super::packing::{ChunkRows, QueryRoom, TileRows, pack_keys, pack_queries, tiles};
use super::turning::{TABLES_OF_SIDE, Turning};
use super::visibility::{chunks, distance, extent, hull, needs, span, union};
use crate::arch::attention::{Distance, PackedKeys, Row, Scores, Spread, Tile};
use crate::arch::buffer::Buffer;
use farspan_core::attention::{KEY_CHUNK, Sequence};
use std::ops::Range;

/// What looks at a walk.
pub(super) trait Visitor {
    /// A chunk of keys, before its first tile.
    fn chunk(&mut self, sequence: &Sequence, keys: &Range<usize>, spread: &mut Spread);

    /// A tile that sees some of the panels of the chunk.
    fn tile(&mut self, index: usize, tile: &Tile, keys: &PackedKeys, panels: Range<usize>, scores: &mut Scores);
}

/// What a thread keeps between walks: with what its visitors keep at most `plan::SCRATCH_BYTES`.
pub(super) struct Scratch {
    queries: [Buffer; 2],
    query_room: [QueryRoom; 2],
    keys: [Buffer; 2],
    turning: [Turning<TABLES_OF_SIDE>; 2],
    scores: Box<Scores>,
    spread: Spread,
}

impl Default for Scratch {
    fn default() -> Self {
        Scratch {
            queries: Default::default(),
            query_room: Default::default(),
            keys: Default::default(),
            turning: Default::default(),
            scores: Box::new(Scores::EMPTY),
            spread: Spread::default(),
        }
    }
}

/// The tiles of a block.
pub(super) fn tiles_of(context: &Context, query_block: &QueryBlock) -> Vec<TileRows> {
    tiles(query_block.rows(), context.kernels.tile_rows).collect()
}

/// Shows the chunks in their order, and for each of them the tiles of the block, `tiles`.
pub(super) fn walk(
    context: &Context,
    query_block: &QueryBlock,
    tiles: &[TileRows],
    scratch: &mut Scratch,
    visitor: &mut impl Visitor,
) {
    let dim = context.shape.head_dim;
    let packed_rows: usize = tiles.iter().map(|tile_rows| tile_rows.height).sum();
    let Scratch { queries, query_room, keys: [near_keys, far_keys], turning, scores, spread } = scratch;
    let [near_queries, far_queries] = queries;
    let has = |side| context.sides().contains(&side);
    let near_queries = near_queries.take(packed_rows * dim);
    let far_queries = far_queries.take(if has(Side::Far) { packed_rows * dim } else { 0 });
    for (side, out) in [(Side::Near, &mut *near_queries), (Side::Far, &mut *far_queries)] {
        if has(side) {
            pack_queries(context, query_block, tiles, side, &mut query_room[side as usize], out);
        }
    }
    let near_keys = near_keys.take(KEY_CHUNK * dim);
    let far_keys = far_keys.take(if has(Side::Far) { KEY_CHUNK * dim } else { 0 });
    let sequence = context.sequence(query_block.sequence);
    let whole_span = span(context, query_block, 0..query_block.rows());
    let mut rows: Vec<Row> = Vec::with_capacity(context.kernels.tile_rows);
    for chunk in chunks(context, query_block) {
        let range = context.chunk_keys(sequence, chunk);
        let Some(panels) = hull(&union(context, query_block, query_block.queries.clone()), &range) else { continue };
        let positions = context.chunk_positions(sequence, &range);
        let key_span = extent(positions[..range.len()].iter().copied());
        let block_distance = distance(context, whole_span, key_span);
        for (side, out) in [(Side::Near, &mut *near_keys), (Side::Far, &mut *far_keys)] {
            if has(side) && needs(block_distance, side) {
                let rows =
                    ChunkRows::new(context, &context.problem.key, sequence, &range, spread).of(query_block.key_head);
                let turning = &mut turning[side as usize];
                pack_keys(context, query_block.sequence, &rows, &range, panels.clone(), side, turning, out);
            }
        }
        visitor.chunk(sequence, &range, spread);
        let packed = PackedKeys {
            chunk: &context.chunk(&range, &positions),
            near: near_keys,
            far: far_keys,
            dim,
            value_dim: context.shape.value_dim,
        };
        for (index, tile_rows) in tiles.iter().enumerate() {
            let (first, last) =
                (query_block.row(tile_rows.first).1, query_block.row(tile_rows.first + tile_rows.rows - 1).1);
            let Some(panels) = hull(&union(context, query_block, first..last + 1), &range) else { continue };
            let of_tile = tile_rows.first..tile_rows.first + tile_rows.rows;
            rows.clear();
            rows.extend(of_tile.map(|row| context.row(query_block, row, &range)));
            let place = tile_rows.first * dim..(tile_rows.first + tile_rows.height) * dim;
            let tile = Tile {
                rows: &rows,
                height: tile_rows.height,
                query: &near_queries[place.clone()],
                far_query: if has(Side::Far) { &far_queries[place] } else { &[] },
                distance: match block_distance {
                    Distance::Mixed => distance(
                        context,
                        span(context, query_block, tile_rows.first..tile_rows.first + tile_rows.rows),
                        key_span,
                    ),
                    whole => whole,
                },
            };
            visitor.tile(index, &tile, &packed, panels, scores);
        }
    }
}
