//! Few queries: every chunk of keys is read once, where it lies, and meets all heads; then chunks are merged in order.

use super::keys::ChunkRows;
use super::pieces::Piece;
use super::problem::{Context, Share, Side};
use super::queries::{self, Cut, extent, span, tiles};
use super::visibility::{chunks, distance, hull, needs, union};
use crate::arch::attention::{Distance, Partial, Room, Row, Spread, State, Streamed, Tile, Turns};
use crate::arch::buffer::Buffer;
use crate::arch::lanes::LANES;
use crate::threads::Hands;
use farspan_core::attention::KEY_CHUNK;
use std::cell::RefCell;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What a thread keeps between chunks.
struct Scratch {
    turns: [[Buffer; 2]; 2],
    scores: Buffer,
    room: Box<Room>,
    spread: [Spread; 2],
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        turns: Default::default(),
        scores: Buffer::default(),
        room: Box::new(Room::EMPTY),
        spread: Default::default(),
    });
}

/// One sequence on its way through the threads.
struct Job<'a> {
    shares: Vec<Share>,
    queries: Vec<Queries>,
    units: Vec<Unit>,
    /// What each unit gave.
    parts: Vec<Mutex<Parts>>,
    /// Units that have not finished; whoever finishes the last one merges.
    left: AtomicUsize,
    pieces: Mutex<Vec<Piece<'a>>>,
}

/// The packed queries of a share: near and far, `[head_dim, height]` for each tile.
struct Queries {
    cuts: Vec<Cut>,
    packed: [Vec<f32>; 2],
    height: usize,
}

/// One chunk of keys of some shares.
struct Unit {
    chunk: usize,
    shares: Range<usize>,
}

/// States and sums `[height, value width]` of the tiles of a unit's shares.
#[derive(Default)]
struct Parts {
    states: Vec<State>,
    sums: Vec<f32>,
}

/// Hands the sequences, each a list of pieces, to the threads.
pub(super) fn spawn<'s>(hands: &Hands<'_, 's>, context: &'s Context<'s>, sequences: Vec<Vec<Piece<'s>>>) {
    let together = sequences.len();
    for pieces in sequences {
        hands.spawn(move |hands| start(hands, context, pieces, together));
    }
}

/// Packs the queries of a sequence and spawns its units.
fn start<'s>(hands: &Hands<'_, 's>, context: &'s Context<'s>, pieces: Vec<Piece<'s>>, together: usize) {
    let shares: Vec<Share> = pieces.iter().map(|piece| piece.share.clone()).collect();
    let Some(any) = shares.first() else { return };
    let chunks = chunks(context, any);
    let parts = context.work.head_parts(chunks.len() * together, shares.len());
    let step = shares.len().div_ceil(parts.max(1));
    let cut =
        |chunk: usize| (0..shares.len()).step_by(step).map(move |first| Unit { chunk, shares: first..first + step });
    let mut units: Vec<Unit> = chunks.into_iter().flat_map(cut).collect();
    units.iter_mut().for_each(|unit| unit.shares.end = unit.shares.end.min(shares.len()));
    let job = Arc::new(Job {
        queries: shares.iter().map(|share| pack(context, share)).collect(),
        parts: units.iter().map(|_| Mutex::default()).collect(),
        left: AtomicUsize::new(units.len()),
        pieces: Mutex::new(pieces),
        shares,
        units,
    });
    if job.units.is_empty() {
        finish(context, &job);
    }
    for index in 0..job.units.len() {
        let job = Arc::clone(&job);
        hands.spawn(move |_| {
            let parts = SCRATCH.with_borrow_mut(|scratch| run(context, &job, &job.units[index], scratch));
            *job.parts[index].lock().unwrap_or_else(PoisonError::into_inner) = parts;
            if job.left.fetch_sub(1, Ordering::AcqRel) == 1 {
                finish(context, &job);
            }
        });
    }
}

fn pack(context: &Context, share: &Share) -> Queries {
    let cuts: Vec<Cut> = tiles(share.rows(), context.kernels.rows).collect();
    let height = cuts.iter().map(|cut| cut.height).sum();
    let dim = context.shape.head_dim;
    let packed = [Side::Near, Side::Far].map(|side| {
        let mut out = vec![0.0; if context.sides().contains(&side) { height * dim } else { 0 }];
        if !out.is_empty() {
            for cut in &cuts {
                let place = cut.first * dim..(cut.first + cut.height) * dim;
                queries::pack(context, share, *cut, side, &mut out[place]);
            }
        }
        out
    });
    Queries { cuts, packed, height }
}

/// All shares of a unit against its chunk.
fn run(context: &Context, job: &Job, unit: &Unit, scratch: &mut Scratch) -> Parts {
    let shares = &job.shares[unit.shares.clone()];
    let all_queries = &job.queries[unit.shares.clone()];
    let (dim, width) = (context.shape.head_dim, context.width());
    let Share { sequence: index, queries, .. } = &shares[0];
    let sequence = context.sequence(*index);
    let keys = context.chunk_keys(sequence, unit.chunk);
    let height: usize = all_queries.iter().map(|queries| queries.height).sum();
    let tile_count = all_queries.iter().map(|queries| queries.cuts.len()).sum();
    let mut parts = Parts { states: Vec::with_capacity(tile_count), sums: vec![0.0; height * width] };
    let Some(panels) = hull(&union(context, &shares[0], queries.clone()), &keys) else { return parts };

    let mut positions = [0.0; KEY_CHUNK];
    context.key_positions(sequence, keys.clone(), Side::Near, &mut positions);
    let key_span = extent(positions[..keys.len()].iter().copied());
    let distance = distance(context, span(context, &shares[0], 0..shares[0].rows()), key_span);
    let Scratch { turns: [near_turns, far_turns], scores, room, spread: [of_keys, of_values] } = scratch;
    let turns = |side, room| turns(context, *index, &keys, side, distance, room);
    let (turns, far_turns) = (turns(Side::Near, near_turns), turns(Side::Far, far_turns));
    let chunk = context.chunk(&keys, &positions);

    let key_rows = ChunkRows::new(context, &context.problem.key, sequence, &keys, of_keys);
    let value_rows = ChunkRows::new(context, &context.problem.value, sequence, &keys, of_values);
    let mut sums = parts.sums.as_mut_slice();
    for (at, (share, queries)) in shares.iter().zip(all_queries).enumerate() {
        let streamed = Streamed {
            chunk: &chunk,
            keys: key_rows.of(share.key_head),
            values: value_rows.of(share.key_head),
            turns,
            far_turns,
            next: shares.get(at + 1).map(|next| key_rows.of(next.key_head)),
        };
        let row = |cut: &Cut, lane: usize| context.row(share, cut.first + lane.min(cut.rows - 1), &keys);
        let rows: Vec<[Row; LANES]> =
            queries.cuts.iter().map(|cut| std::array::from_fn(|lane| row(cut, lane))).collect();
        let tiles: Vec<Tile> = queries
            .cuts
            .iter()
            .zip(&rows)
            .map(|(cut, rows)| {
                let place = cut.first * dim..(cut.first + cut.height) * dim;
                let [query, far_query] = &queries.packed;
                Tile {
                    rows: &rows[..cut.rows],
                    height: cut.height,
                    query: &query[place.clone()],
                    far_query: if far_query.is_empty() { &[] } else { &far_query[place] },
                    distance,
                }
            })
            .collect();
        let mut out: Vec<Partial> = Vec::with_capacity(tiles.len());
        for cut in &queries.cuts {
            let (output, behind) = sums.split_at_mut(cut.height * width);
            sums = behind;
            out.push(Partial { state: State::EMPTY, output });
        }
        let scores = scores.take(2 * queries.height * KEY_CHUNK);
        context.kernels.stream(&tiles, &streamed, panels.clone(), room, scores, &mut out);
        parts.states.extend(out.iter().map(|partial| partial.state));
    }
    parts
}

/// The turns of a chunk's keys, where a rotation is asked for and used.
fn turns<'t>(
    context: &Context,
    sequence: usize,
    keys: &Range<usize>,
    side: Side,
    used: Distance,
    room: &'t mut [Buffer; 2],
) -> Option<Turns<'t>> {
    let rotary = context.problem.rotary.as_ref().filter(|_| needs(used, side))?;
    let half = context.half();
    let mut positions = [0.0; KEY_CHUNK];
    context.key_positions(context.sequence(sequence), keys.clone(), side, &mut positions);
    let [cos, sin] = room;
    let (cos, sin) = (cos.take(keys.len() * half), sin.take(keys.len() * half));
    context.turn_table(sequence, &positions[..keys.len()], [cos, sin]);
    Some(Turns { cos, sin, half, interleaved: rotary.interleaved })
}

/// Merges the chunks in order and writes the output.
fn finish(context: &Context, job: &Job) {
    let width = context.width();
    let parts: Vec<_> = job.parts.iter().map(|part| part.lock().unwrap_or_else(PoisonError::into_inner)).collect();
    // Where the next share of each unit begins: its tile and its row.
    let mut at = vec![(0, 0); parts.len()];
    let mut sums = Vec::new();
    let mut pieces = job.pieces.lock().unwrap_or_else(PoisonError::into_inner);
    for (index, (piece, queries)) in pieces.iter_mut().zip(&job.queries).enumerate() {
        for cut in &queries.cuts {
            let mut state = context.first_state(&piece.share, cut.first..cut.first + cut.rows);
            sums.clear();
            sums.resize(cut.height * width, 0.0);
            for ((unit, part), (tile, row)) in job.units.iter().zip(&parts).zip(&mut at) {
                if unit.shares.contains(&index) && !part.states.is_empty() {
                    let place = *row * width..(*row + cut.height) * width;
                    context.kernels.fold(&mut state, &part.states[*tile], &mut sums, &part.sums[place], cut.height);
                    (*tile, *row) = (*tile + 1, *row + cut.height);
                }
            }
            piece.finish(context, cut.first, cut.rows, &state, &sums);
        }
    }
}
