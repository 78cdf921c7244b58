//! A few queries against one chunk of keys and values that are read once, from where the caller has them.

use super::pack::{Ahead, Turns, panel, widen_rows};
use super::product::{Columns, extend, is_row_spoilt, scores};
use super::scores::{Chunk, State, weigh};
use super::source::Rows;
use super::tile::{Distance, Tile};
use super::{CHUNK, MAX_DIM, Machine};
use crate::arch::lanes::LANES;
use std::ops::Range;

/// Keys packed, and values widened, at a time.
const STEP: usize = 2 * LANES;
/// Most tiles of a share.
const MAX_TILES: usize = 64;

/// One chunk of one head, as the caller has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Streamed<'a> {
    /// What the rows need to know.
    pub chunk: &'a Chunk<'a>,
    /// The chunk's keys.
    pub keys: Rows<'a>,
    /// The chunk's values.
    pub values: Rows<'a>,
    /// Turns of the keys; None without rotation.
    pub turns: Option<Turns<'a>>,
    /// Turns by the far positions; None without a border.
    pub far_turns: Option<Turns<'a>>,
    /// The keys that come next, to be fetched meanwhile.
    pub next: Option<Rows<'a>>,
}

/// What a chunk gives for one tile.
#[derive(Debug)]
pub(crate) struct Partial<'a> {
    /// Maxima and sums of the tile's rows.
    pub state: State,
    /// Weighted sums of the values `[height, value width]`.
    pub output: &'a mut [f32],
}

/// Room for packed keys, near and far, and for widened values.
#[repr(C, align(64))]
pub(crate) struct Room {
    keys: [[f32; STEP * MAX_DIM]; 2],
    values: [f32; STEP * MAX_DIM],
}

impl Room {
    pub(crate) const EMPTY: Room = Room { keys: [[0.0; STEP * MAX_DIM]; 2], values: [0.0; STEP * MAX_DIM] };
}

/// Checks that all that [`stream`] reads and writes exists.
pub(super) fn check(tiles: &[Tile], streamed: &Streamed, panels: &Range<usize>, scores: &[f32], out: &[Partial]) {
    let Streamed { chunk, keys, values, turns, far_turns, .. } = streamed;
    assert!(chunk.keys <= CHUNK && keys.rows == chunk.keys && values.rows == chunk.keys);
    assert!(panels.start * LANES < chunk.keys && panels.end <= chunk.keys.div_ceil(LANES));
    assert!(keys.dim <= MAX_DIM && values.dim <= MAX_DIM);
    for turns in turns.iter().chain(far_turns) {
        assert!(turns.fit(chunk.keys, keys.dim));
    }
    let rows: usize = tiles.iter().map(|tile| tile.height).sum();
    assert!(scores.len() == 2 * rows * CHUNK && out.len() == tiles.len() && tiles.len() <= MAX_TILES);
    for (tile, partial) in tiles.iter().zip(out) {
        assert!(!tile.rows.is_empty() && tile.rows.len() <= tile.height && tile.height <= LANES);
        assert!(tile.distance == Distance::Far || tile.query.len() == keys.dim * tile.height);
        assert!(tile.distance == Distance::Near || tile.far_query.len() == keys.dim * tile.height);
        assert!(tile.distance == Distance::Near || far_turns.is_some());
        assert!(partial.output.len() == tile.height * values.dim.next_multiple_of(LANES));
        tile.rows.iter().for_each(|row| row.check(chunk));
    }
}

/// Scores, weights and weighted sums of all tiles over the panels `panels` of a chunk. `scores` has room for
/// `[2, rows, CHUNK]`, near and far.
///
/// # Safety
/// As [`Lanes`](crate::arch::lanes::Lanes), and what [`check`] checks.
#[inline(always)]
pub(super) unsafe fn stream<L: Machine>(
    tiles: &[Tile],
    streamed: &Streamed,
    panels: Range<usize>,
    room: &mut Room,
    scores: &mut [f32],
    out: &mut [Partial],
) {
    let (near, far) = scores.split_at_mut(scores.len() / 2);
    // SAFETY: the caller's; the element type is the pointer's.
    unsafe {
        products::<L>(tiles, streamed, panels.clone(), room, [&mut *near, &mut *far]);
        let mut at = 0;
        for (tile, partial) in tiles.iter().zip(out.iter_mut()) {
            let place = at * CHUNK;
            let other = (tile.distance == Distance::Mixed).then_some(far[place..].as_ptr());
            partial.state = weigh::<L>(tile.rows, streamed.chunk, panels.clone(), near[place..].as_mut_ptr(), other);
            near[(at + tile.rows.len()) * CHUNK..(at + tile.height) * CHUNK].fill(0.0);
            at += tile.height;
        }
        sums::<L>(tiles, streamed, panels, room, near, out);
    }
}

/// Products of all tiles with the keys; a tile that is wholly near or far has them in `near`.
#[inline(always)]
unsafe fn products<L: Machine>(
    tiles: &[Tile],
    streamed: &Streamed,
    panels: Range<usize>,
    room: &mut Room,
    [near, far]: [&mut [f32]; 2],
) {
    let Streamed { keys, turns, far_turns, .. } = streamed;
    let wants = |distance: Distance| tiles.iter().any(|t| t.distance == Distance::Mixed || t.distance == distance);
    let sides = [(wants(Distance::Near), turns), (wants(Distance::Far), far_turns)];
    for first in panels.clone().step_by(2) {
        let count = (panels.end - first).min(2);
        for p in 0..count {
            let from = (first + p) * LANES;
            let which = from..(from + LANES).min(keys.rows);
            let behind = from + STEP;
            let ahead = match behind < panels.end * LANES {
                true => Ahead::new(keys, behind),
                false => Ahead::new(&streamed.values, behind - (panels.end - panels.start) * LANES),
            };
            for ((wanted, turns), room) in sides.iter().zip(&mut room.keys) {
                if *wanted {
                    let turns = turns.map(|turns| turns.rows(which.clone()));
                    let place = room[p * keys.dim * LANES..].as_mut_ptr();
                    // SAFETY: the caller's.
                    unsafe { panel::<L>(keys, which.clone(), turns, place, &ahead) }
                }
            }
        }
        let mut at = first * LANES;
        for tile in tiles {
            let near = near[at..].as_mut_ptr();
            let far = if tile.distance == Distance::Far { near } else { far[at..].as_mut_ptr() };
            // SAFETY: the caller's.
            unsafe {
                if tile.distance != Distance::Far {
                    scores::<L>(tile.height, tile.query.as_ptr(), room.keys[0].as_ptr(), keys.dim, 0..count, near);
                }
                if tile.distance != Distance::Near {
                    scores::<L>(tile.height, tile.far_query.as_ptr(), room.keys[1].as_ptr(), keys.dim, 0..count, far);
                }
            }
            at += tile.height * CHUNK;
        }
    }
}

/// Weighted sums of the values, once more without hidden keys where they come out infinite or NaN.
#[inline(always)]
unsafe fn sums<L: Machine>(
    tiles: &[Tile],
    streamed: &Streamed,
    panels: Range<usize>,
    room: &mut Room,
    weights: &[f32],
    out: &mut [Partial],
) {
    let keys = panels.start * LANES..(panels.end * LANES).min(streamed.chunk.keys);
    out.iter_mut().for_each(|partial| partial.output.fill(0.0));
    let mut spoilt = [false; MAX_TILES];
    for guard in [false, true] {
        // SAFETY: the caller's.
        unsafe { pass::<L>(tiles, streamed, keys.clone(), room, weights, out, guard, &spoilt) }
        if guard {
            break;
        }
        for (spoilt, partial) in spoilt.iter_mut().zip(out.iter_mut()) {
            // SAFETY: outputs have whole vectors.
            *spoilt = unsafe { is_row_spoilt::<L>(partial.output.as_ptr(), partial.output.len()) };
            if *spoilt {
                partial.output.fill(0.0);
            }
        }
        if spoilt == [false; MAX_TILES] {
            break;
        }
    }
}

/// One pass over the values: for all tiles, or, guarded, for the `spoilt` ones.
#[expect(clippy::too_many_arguments, reason = "one loop of one function, named for the reader")]
#[inline(always)]
unsafe fn pass<L: Machine>(
    tiles: &[Tile],
    streamed: &Streamed,
    keys: Range<usize>,
    room: &mut Room,
    weights: &[f32],
    out: &mut [Partial],
    guard: bool,
    spoilt: &[bool; MAX_TILES],
) {
    let values = &streamed.values;
    let width = values.dim.next_multiple_of(LANES);
    let next = streamed.next.as_ref().map_or(Ahead::NONE, |rows| Ahead::new(rows, keys.start));
    for first in keys.clone().step_by(STEP) {
        let count = (keys.end - first).min(STEP);
        // SAFETY: the caller's.
        unsafe {
            let behind = first + STEP;
            let ahead = if behind < keys.end { Ahead::new(values, behind) } else { next };
            widen_rows::<L>(values, first..first + count, room.values.as_mut_ptr(), width, &ahead);
            let columns = Columns { start: room.values.as_ptr(), step: width, panel: LANES };
            let mut at = first;
            for (index, (tile, partial)) in tiles.iter().zip(out.iter_mut()).enumerate() {
                if !guard || spoilt[index] {
                    let place = (partial.output.as_mut_ptr(), width);
                    extend::<L>(tile.height, weights[at..].as_ptr(), columns, count, 0..width / LANES, place, guard);
                }
                at += tile.height * CHUNK;
            }
        }
    }
}
