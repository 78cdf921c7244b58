//! Many queries: keys and values of a chunk are packed once and meet all tiles of the block.

use super::context::{Context, Side};
use super::output::OutputBlock;
use super::packing::{ChunkRows, TileRows, pack_keys, pack_queries, tiles};
use super::visibility::{chunks, distance, extent, hull, needs, span, union};
use crate::arch::attention::{Distance, Packed, Row, Scores, Spread, State, Tile};
use crate::arch::buffer::Buffer;
use crate::arch::lanes::LANES;
use crate::threads::Spawner;
use farspan_core::attention::KEY_CHUNK;
use std::cell::RefCell;

/// What a thread keeps between blocks: at most `plan::SCRATCH_BYTES`.
struct Scratch {
    queries: [Buffer; 2],
    keys: [Buffer; 2],
    values: Buffer,
    sums: Buffer,
    turns: [Buffer; 2],
    scores: Box<Scores>,
    states: Vec<State>,
    spread: Spread,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        queries: Default::default(),
        keys: Default::default(),
        values: Buffer::default(),
        sums: Buffer::default(),
        turns: Default::default(),
        scores: Box::new(Scores::EMPTY),
        states: Vec::new(),
        spread: Spread::default(),
    });
}

/// Hands the blocks to the threads in the order given.
pub(super) fn spawn<'s>(spawner: &Spawner<'_, 's>, context: &'s Context<'_, '_>, output_blocks: Vec<OutputBlock<'s>>) {
    for mut output_block in output_blocks {
        spawner.spawn(move |_| SCRATCH.with_borrow_mut(|scratch| run(context, &mut output_block, scratch)));
    }
}

fn run(context: &Context, output_block: &mut OutputBlock, scratch: &mut Scratch) {
    let query_block = &output_block.query_block;
    let (dim, width) = (context.shape.head_dim, context.width());
    let tiles: Vec<TileRows> = tiles(query_block.rows(), context.kernels.rows).collect();
    let packed_rows: usize = tiles.iter().map(|tile_rows| tile_rows.height).sum();
    let Scratch { queries, keys, values, sums, turns, scores, states, spread } = scratch;
    let [near_queries, far_queries] = queries;
    let has = |side| context.sides().contains(&side);
    let near_queries = near_queries.take(packed_rows * dim);
    let far_queries = far_queries.take(if has(Side::Far) { packed_rows * dim } else { 0 });
    let sums = sums.take(packed_rows * width);
    sums.fill(0.0);
    states.clear();
    for tile_rows in &tiles {
        let place = tile_rows.first * dim..(tile_rows.first + tile_rows.height) * dim;
        pack_queries(context, query_block, *tile_rows, Side::Near, &mut near_queries[place.clone()]);
        if has(Side::Far) {
            pack_queries(context, query_block, *tile_rows, Side::Far, &mut far_queries[place]);
        }
        states.push(context.first_state(query_block, tile_rows.first..tile_rows.first + tile_rows.rows));
    }
    let [near_keys, far_keys] = keys;
    let near_keys = near_keys.take(KEY_CHUNK * dim);
    let far_keys = far_keys.take(if has(Side::Far) { KEY_CHUNK * dim } else { 0 });
    let values = values.take(KEY_CHUNK * width);
    let sequence = context.sequence(query_block.sequence);
    let whole_span = span(context, query_block, 0..query_block.rows());
    let mut positions = [0.0; KEY_CHUNK];
    for chunk in chunks(context, query_block) {
        let range = context.chunk_keys(sequence, chunk);
        let Some(panels) = hull(&union(context, query_block, query_block.queries.clone()), &range) else { continue };
        context.key_positions(sequence, range.clone(), Side::Near, &mut positions);
        let key_span = extent(positions[..range.len()].iter().copied());
        let block_distance = distance(context, whole_span, key_span);
        for (side, out) in [(Side::Near, &mut *near_keys), (Side::Far, &mut *far_keys)] {
            if has(side) && needs(block_distance, side) {
                let rows =
                    ChunkRows::new(context, &context.problem.key, sequence, &range, spread).of(query_block.key_head);
                pack_keys(context, query_block.sequence, &rows, &range, panels.clone(), side, turns, out);
            }
        }
        let rows = ChunkRows::new(context, &context.problem.value, sequence, &range, spread).of(query_block.key_head);
        context.kernels.values(&rows, values);
        let packed = Packed { chunk: &context.chunk(&range, &positions), keys: near_keys, far_keys, values, dim };
        for (tile_rows, state) in tiles.iter().zip(states.iter_mut()) {
            let (first, last) =
                (query_block.row(tile_rows.first).1, query_block.row(tile_rows.first + tile_rows.rows - 1).1);
            let Some(panels) = hull(&union(context, query_block, first..last + 1), &range) else { continue };
            let rows: [Row; LANES] = std::array::from_fn(|lane| {
                context.row(query_block, tile_rows.first + lane.min(tile_rows.rows - 1), &range)
            });
            let place = tile_rows.first * dim..(tile_rows.first + tile_rows.height) * dim;
            let tile = Tile {
                rows: &rows[..tile_rows.rows],
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
            let output = &mut sums[tile_rows.first * width..(tile_rows.first + tile_rows.height) * width];
            context.kernels.attend(&tile, &packed, panels, scores, state, output);
        }
    }
    for (tile_rows, state) in tiles.iter().zip(states.iter()) {
        output_block.finish(context, tile_rows.first, tile_rows.rows, state, &sums[tile_rows.first * width..]);
    }
}
