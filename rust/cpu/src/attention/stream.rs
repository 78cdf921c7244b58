//! Few queries: every chunk of keys is read once, where it lies, and meets all heads; then chunks are merged in order.

use super::context::{Context, QueryBlock, Side};
use super::output::OutputBlock;
use super::packing::{ChunkRows, QueryRoom, TileRows, key_turns, pack_queries, tiles};
use super::turning::{TABLES_OF_SIDE, Turning};
use super::visibility::{chunks, distance, extent, hull, needs, span, union};
use crate::arch::attention::{Partial, Room, Row, Spread, State, Streamed, Tile};
use crate::arch::buffer::Buffer;
use crate::arch::lanes::LANES;
use crate::threads::Spawner;
use farspan_core::attention::KEY_CHUNK;
use std::cell::RefCell;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What a thread keeps between chunks.
struct Scratch {
    query_room: [QueryRoom; 2],
    turning: [Turning<TABLES_OF_SIDE>; 2],
    scores: Buffer,
    room: Box<Room>,
    spread: [Spread; 2],
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        query_room: Default::default(),
        turning: Default::default(),
        scores: Buffer::default(),
        room: Box::new(Room::EMPTY),
        spread: Default::default(),
    });
}

/// One sequence on its way through the threads.
struct Job<'a> {
    query_blocks: Vec<QueryBlock>,
    queries: Vec<Queries>,
    tasks: Vec<ChunkTask>,
    /// What each task gave.
    parts: Vec<Mutex<ChunkResults>>,
    /// Tasks that have not finished; whoever finishes the last one merges.
    left: AtomicUsize,
    output_blocks: Mutex<Vec<OutputBlock<'a>>>,
}

/// A block of queries, packed: near and far, `[head_dim, height]` for each tile.
struct Queries {
    tiles: Vec<TileRows>,
    packed: [Vec<f32>; 2],
    height: usize,
}

/// One chunk of keys of some blocks of queries.
struct ChunkTask {
    chunk: usize,
    query_blocks: Range<usize>,
}

/// States and sums `[height, value width]` of the tiles of a task.
#[derive(Default)]
struct ChunkResults {
    states: Vec<State>,
    sums: Vec<f32>,
}

/// Hands the sequences, each a list of blocks, to the threads.
pub(super) fn spawn<'s>(spawner: &Spawner<'_, 's>, context: &'s Context<'_, '_>, sequences: Vec<Vec<OutputBlock<'s>>>) {
    let together = sequences.len();
    for output_blocks in sequences {
        spawner.spawn(move |spawner| start(spawner, context, output_blocks, together));
    }
}

/// Packs the queries of a sequence and spawns its tasks.
fn start<'s>(
    spawner: &Spawner<'_, 's>,
    context: &'s Context<'_, '_>,
    output_blocks: Vec<OutputBlock<'s>>,
    together: usize,
) {
    let query_blocks: Vec<QueryBlock> =
        output_blocks.iter().map(|output_block| output_block.query_block.clone()).collect();
    let Some(any) = query_blocks.first() else { return };
    let chunks = chunks(context, any);
    let parts = context.work.head_parts(chunks.len() * together, query_blocks.len());
    let step = query_blocks.len().div_ceil(parts.max(1));
    let tasks_of = |chunk: usize| {
        (0..query_blocks.len()).step_by(step).map(move |first| ChunkTask { chunk, query_blocks: first..first + step })
    };
    let mut tasks: Vec<ChunkTask> = chunks.into_iter().flat_map(tasks_of).collect();
    tasks.iter_mut().for_each(|task| task.query_blocks.end = task.query_blocks.end.min(query_blocks.len()));
    let job = Arc::new(Job {
        queries: SCRATCH.with_borrow_mut(|scratch| {
            query_blocks.iter().map(|query_block| pack(context, query_block, &mut scratch.query_room)).collect()
        }),
        parts: tasks.iter().map(|_| Mutex::default()).collect(),
        left: AtomicUsize::new(tasks.len()),
        output_blocks: Mutex::new(output_blocks),
        query_blocks,
        tasks,
    });
    if job.tasks.is_empty() {
        finish(context, &job);
    }
    for index in 0..job.tasks.len() {
        let job = Arc::clone(&job);
        spawner.spawn(move |_| {
            let parts = SCRATCH.with_borrow_mut(|scratch| run(context, &job, &job.tasks[index], scratch));
            *job.parts[index].lock().unwrap_or_else(PoisonError::into_inner) = parts;
            if job.left.fetch_sub(1, Ordering::AcqRel) == 1 {
                finish(context, &job);
            }
        });
    }
}

fn pack(context: &Context, query_block: &QueryBlock, query_room: &mut [QueryRoom; 2]) -> Queries {
    let tiles: Vec<TileRows> = tiles(query_block.rows(), context.kernels.tile_rows).collect();
    let height = tiles.iter().map(|tile_rows| tile_rows.height).sum();
    let dim = context.shape.head_dim;
    let packed = [Side::Near, Side::Far].map(|side| {
        let mut out = vec![0.0; if context.sides().contains(&side) { height * dim } else { 0 }];
        if !out.is_empty() {
            pack_queries(context, query_block, &tiles, side, &mut query_room[side as usize], &mut out);
        }
        out
    });
    Queries { tiles, packed, height }
}

/// All blocks of queries of a task against its chunk.
fn run(context: &Context, job: &Job, task: &ChunkTask, scratch: &mut Scratch) -> ChunkResults {
    let query_blocks = &job.query_blocks[task.query_blocks.clone()];
    let all_queries = &job.queries[task.query_blocks.clone()];
    let (dim, width) = (context.shape.head_dim, context.width());
    let QueryBlock { sequence: index, queries, .. } = &query_blocks[0];
    let sequence = context.sequence(*index);
    let keys = context.chunk_keys(sequence, task.chunk);
    let height: usize = all_queries.iter().map(|queries| queries.height).sum();
    let tile_count = all_queries.iter().map(|queries| queries.tiles.len()).sum();
    let mut parts = ChunkResults { states: Vec::with_capacity(tile_count), sums: vec![0.0; height * width] };
    let Some(panels) = hull(&union(context, &query_blocks[0], queries.clone()), &keys) else { return parts };

    let positions = context.chunk_positions(sequence, &keys);
    let key_span = extent(positions[..keys.len()].iter().copied());
    let distance = distance(context, span(context, &query_blocks[0], 0..query_blocks[0].rows()), key_span);
    let Scratch { turning: [near_turning, far_turning], scores, room, spread: [of_keys, of_values], .. } = scratch;
    let turns = |side, turning| {
        if needs(distance, side) { key_turns(context, *index, &keys, side, turning) } else { None }
    };
    let (turns, far_turns) = (turns(Side::Near, near_turning), turns(Side::Far, far_turning));
    let chunk = context.chunk(&keys, &positions);

    let key_rows = ChunkRows::new(context, &context.problem.key, sequence, &keys, of_keys);
    let value_rows = ChunkRows::new(context, &context.problem.value, sequence, &keys, of_values);
    let mut sums = parts.sums.as_mut_slice();
    for (at, (query_block, queries)) in query_blocks.iter().zip(all_queries).enumerate() {
        let streamed = Streamed {
            chunk: &chunk,
            keys: key_rows.of(query_block.key_head),
            values: value_rows.of(query_block.key_head),
            turns,
            far_turns,
            next: query_blocks.get(at + 1).map(|next| key_rows.of(next.key_head)),
        };
        let row = |tile_rows: &TileRows, lane: usize| {
            context.row(query_block, tile_rows.first + lane.min(tile_rows.rows - 1), &keys)
        };
        let rows: Vec<[Row; LANES]> =
            queries.tiles.iter().map(|tile_rows| std::array::from_fn(|lane| row(tile_rows, lane))).collect();
        let tiles: Vec<Tile> = queries
            .tiles
            .iter()
            .zip(&rows)
            .map(|(tile_rows, rows)| {
                let place = tile_rows.first * dim..(tile_rows.first + tile_rows.height) * dim;
                let [query, far_query] = &queries.packed;
                Tile {
                    rows: &rows[..tile_rows.rows],
                    height: tile_rows.height,
                    query: &query[place.clone()],
                    far_query: if far_query.is_empty() { &[] } else { &far_query[place] },
                    distance,
                }
            })
            .collect();
        let mut out: Vec<Partial> = Vec::with_capacity(tiles.len());
        for tile_rows in &queries.tiles {
            let (output, behind) = sums.split_at_mut(tile_rows.height * width);
            sums = behind;
            out.push(Partial { state: State::EMPTY, output });
        }
        let scores = scores.take(2 * queries.height * KEY_CHUNK);
        context.kernels.stream(&tiles, &streamed, panels.clone(), room, scores, &mut out);
        parts.states.extend(out.iter().map(|partial| partial.state));
    }
    parts
}

/// Merges the chunks in order and writes the output.
fn finish(context: &Context, job: &Job) {
    let width = context.width();
    let parts: Vec<_> = job.parts.iter().map(|part| part.lock().unwrap_or_else(PoisonError::into_inner)).collect();
    // Where the next block of each task begins: its tile and its row.
    let mut at = vec![(0, 0); parts.len()];
    let mut sums = Vec::new();
    let mut output_blocks = job.output_blocks.lock().unwrap_or_else(PoisonError::into_inner);
    for (index, (output_block, queries)) in output_blocks.iter_mut().zip(&job.queries).enumerate() {
        for tile_rows in &queries.tiles {
            let mut state =
                context.first_state(&output_block.query_block, tile_rows.first..tile_rows.first + tile_rows.rows);
            sums.clear();
            sums.resize(tile_rows.height * width, 0.0);
            for ((task, part), (tile, row)) in job.tasks.iter().zip(&parts).zip(&mut at) {
                if task.query_blocks.contains(&index) && !part.states.is_empty() {
                    let place = *row * width..(*row + tile_rows.height) * width;
                    context.kernels.fold(
                        &mut state,
                        &part.states[*tile],
                        &mut sums,
                        &part.sums[place],
                        tile_rows.height,
                    );
                    (*tile, *row) = (*tile + 1, *row + tile_rows.height);
                }
            }
            output_block.finish(context, tile_rows.first, tile_rows.rows, &state, &sums);
        }
    }
}
