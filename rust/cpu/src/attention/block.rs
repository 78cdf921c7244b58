//! Many queries: keys and values of a chunk are packed once and meet all tiles of the block.

use super::keys::ChunkRows;
use super::pieces::Piece;
use super::problem::{Context, Side};
use super::queries::{self, Cut, extent, span, tiles};
use super::visibility::{chunks, distance, hull, needs, union};
use crate::arch::attention::{Distance, Packed, Row, Rows, Scores, Spread, State, Tile, Turns};
use crate::arch::buffer::Buffer;
use crate::arch::lanes::LANES;
use crate::threads::Hands;
use farspan_core::attention::KEY_CHUNK;
use std::cell::RefCell;
use std::ops::Range;

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

/// Hands the pieces to the threads in the order given.
pub(super) fn spawn<'s>(hands: &Hands<'_, 's>, context: &'s Context<'s>, pieces: Vec<Piece<'s>>) {
    for mut piece in pieces {
        hands.spawn(move |_| SCRATCH.with_borrow_mut(|scratch| run(context, &mut piece, scratch)));
    }
}

fn run(context: &Context, piece: &mut Piece, scratch: &mut Scratch) {
    let share = &piece.share;
    let (dim, width) = (context.shape.head_dim, context.width());
    let cuts: Vec<Cut> = tiles(share.rows(), context.kernels.rows).collect();
    let packed_rows: usize = cuts.iter().map(|cut| cut.height).sum();
    let Scratch { queries, keys, values, sums, turns, scores, states, spread } = scratch;
    let [near_queries, far_queries] = queries;
    let has = |side| context.sides().contains(&side);
    let near_queries = near_queries.take(packed_rows * dim);
    let far_queries = far_queries.take(if has(Side::Far) { packed_rows * dim } else { 0 });
    let sums = sums.take(packed_rows * width);
    sums.fill(0.0);
    states.clear();
    for cut in &cuts {
        let place = cut.first * dim..(cut.first + cut.height) * dim;
        queries::pack(context, share, *cut, Side::Near, &mut near_queries[place.clone()]);
        if has(Side::Far) {
            queries::pack(context, share, *cut, Side::Far, &mut far_queries[place]);
        }
        states.push(context.first_state(share, cut.first..cut.first + cut.rows));
    }
    let [near_keys, far_keys] = keys;
    let near_keys = near_keys.take(KEY_CHUNK * dim);
    let far_keys = far_keys.take(if has(Side::Far) { KEY_CHUNK * dim } else { 0 });
    let values = values.take(KEY_CHUNK * width);
    let sequence = context.sequence(share.sequence);
    let whole_span = span(context, share, 0..share.rows());
    let mut positions = [0.0; KEY_CHUNK];
    for chunk in chunks(context, share) {
        let range = context.chunk_keys(sequence, chunk);
        let Some(panels) = hull(&union(context, share, share.queries.clone()), &range) else { continue };
        context.key_positions(sequence, range.clone(), Side::Near, &mut positions);
        let key_span = extent(positions[..range.len()].iter().copied());
        let block_distance = distance(context, whole_span, key_span);
        for (side, out) in [(Side::Near, &mut *near_keys), (Side::Far, &mut *far_keys)] {
            if has(side) && needs(block_distance, side) {
                let rows = ChunkRows::new(context, &context.problem.key, sequence, &range, spread).of(share.key_head);
                pack_keys(context, share.sequence, &rows, &range, panels.clone(), side, turns, out);
            }
        }
        let rows = ChunkRows::new(context, &context.problem.value, sequence, &range, spread).of(share.key_head);
        context.kernels.values(&rows, values);
        let packed = Packed { chunk: &context.chunk(&range, &positions), keys: near_keys, far_keys, values, dim };
        for (cut, state) in cuts.iter().zip(states.iter_mut()) {
            let (first, last) = (share.row(cut.first).1, share.row(cut.first + cut.rows - 1).1);
            let Some(panels) = hull(&union(context, share, first..last + 1), &range) else { continue };
            let rows: [Row; LANES] =
                std::array::from_fn(|lane| context.row(share, cut.first + lane.min(cut.rows - 1), &range));
            let place = cut.first * dim..(cut.first + cut.height) * dim;
            let tile = Tile {
                rows: &rows[..cut.rows],
                height: cut.height,
                query: &near_queries[place.clone()],
                far_query: if has(Side::Far) { &far_queries[place] } else { &[] },
                distance: match block_distance {
                    Distance::Mixed => {
                        distance(context, span(context, share, cut.first..cut.first + cut.rows), key_span)
                    }
                    whole => whole,
                },
            };
            let output = &mut sums[cut.first * width..(cut.first + cut.height) * width];
            context.kernels.attend(&tile, &packed, panels, scores, state, output);
        }
    }
    for (cut, state) in cuts.iter().zip(states.iter()) {
        piece.finish(context, cut.first, cut.rows, state, &sums[cut.first * width..]);
    }
}

/// Packs the panels `panels` of a chunk's keys.
#[expect(clippy::too_many_arguments, reason = "what, from where, by which rotation, through what, to where")]
fn pack_keys(
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
