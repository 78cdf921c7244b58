//! Many queries: values of a chunk are packed once as its keys are, and every tile adds up what it takes of them.

use super::context::{Context, QueryBlock};
use super::output::OutputBlock;
use super::packing::{ChunkRows, TileRows};
use super::walk::{Scratch, Visitor, tiles_of, walk};
use crate::arch::attention::{PackedKeys, Scores, Spread, State, Tile};
use crate::arch::buffer::Buffer;
use crate::threads::Spawner;
use farspan_core::attention::{KEY_CHUNK, Sequence};
use std::cell::RefCell;
use std::ops::Range;

/// What a thread keeps between blocks beside what its walks keep.
#[derive(Default)]
struct Room {
    values: Buffer,
    sums: Buffer,
    states: Vec<State>,
}

thread_local! {
    static SCRATCH: RefCell<(Scratch, Room)> = RefCell::default();
}

/// Hands the blocks to the threads in the order given.
pub(super) fn spawn<'s>(spawner: &Spawner<'_, 's>, context: &'s Context<'_, '_>, output_blocks: Vec<OutputBlock<'s>>) {
    for mut output_block in output_blocks {
        spawner.spawn(move |_| {
            SCRATCH.with_borrow_mut(|(scratch, room)| run(context, &mut output_block, scratch, room));
        });
    }
}

fn run(context: &Context, output_block: &mut OutputBlock, scratch: &mut Scratch, room: &mut Room) {
    let query_block = &output_block.query_block;
    let width = context.width();
    let tiles = tiles_of(context, query_block);
    let packed_rows: usize = tiles.iter().map(|tile_rows| tile_rows.height).sum();
    let Room { values, sums, states } = room;
    let sums = sums.take(packed_rows * width);
    sums.fill(0.0);
    states.clear();
    let seen = |tile: &TileRows| context.first_state(query_block, tile.first..tile.first + tile.rows);
    states.extend(tiles.iter().map(seen));
    let values = values.take(KEY_CHUNK * width);
    let mut weighing = Weighing { context, query_block, tiles: &tiles, values, sums: &mut *sums, states };
    walk(context, query_block, &tiles, scratch, &mut weighing);
    for (tile_rows, state) in tiles.iter().zip(states.iter()) {
        output_block.finish(context, tile_rows.first, tile_rows.rows, state, &sums[tile_rows.first * width..]);
    }
}

/// Adds up weighted values.
struct Weighing<'w, 'a> {
    context: &'w Context<'w, 'a>,
    query_block: &'w QueryBlock,
    tiles: &'w [TileRows],
    values: &'w mut [f32],
    sums: &'w mut [f32],
    states: &'w mut [State],
}

impl Visitor for Weighing<'_, '_> {
    fn chunk(&mut self, sequence: &Sequence, keys: &Range<usize>, spread: &mut Spread) {
        let context = self.context;
        let rows = ChunkRows::new(context, &context.problem.value, sequence, keys, spread);
        context.kernels.values(&rows.of(self.query_block.key_head), self.values);
    }

    fn tile(&mut self, index: usize, tile: &Tile, keys: &PackedKeys, panels: Range<usize>, scores: &mut Scores) {
        let (TileRows { first, height, .. }, width) = (self.tiles[index], self.context.width());
        let output = &mut self.sums[first * width..(first + height) * width];
        self.context.kernels.attend(tile, keys, self.values, panels, scores, &mut self.states[index], output);
    }
}
