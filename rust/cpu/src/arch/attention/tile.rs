//! A tile of queries against one packed chunk of keys and values.

use super::product::{Blend, Columns, blend, scores};
use super::scores::{Chunk, Row, State, merge, weigh};
use super::{CHUNK, MAX_ROWS, Machine};
use crate::arch::lanes::LANES;
use std::ops::Range;

/// Which rotation a tile's scores take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Distance {
    /// All distances lie below the border.
    Near,
    /// None does.
    Far,
    /// Each score has to be asked.
    Mixed,
}

/// A tile's rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tile<'a> {
    /// The rows that exist.
    pub rows: &'a [Row<'a>],
    /// Rows of the packed queries, of [`super::height`].
    pub height: usize,
    /// Packed queries `[head_dim, height]`.
    pub query: &'a [f32],
    /// The same turned by the far positions; empty without a border.
    pub far_query: &'a [f32],
    /// Which of them count.
    pub distance: Distance,
}

/// A chunk of packed keys.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PackedKeys<'a> {
    /// What the rows need to know.
    pub chunk: &'a Chunk<'a>,
    /// Panels `[panel, head_dim, LANES]`.
    pub near: &'a [f32],
    /// The same turned by the far positions; empty without a border.
    pub far: &'a [f32],
    /// Head dimension of keys and queries.
    pub dim: usize,
    /// That of the values, for what attends to them.
    pub value_dim: usize,
}

/// Room for the scores of a tile, near and far.
#[repr(C, align(64))]
pub(crate) struct Scores([[f32; CHUNK * MAX_ROWS]; 2]);

impl Scores {
    pub(crate) const EMPTY: Scores = Scores([[0.0; CHUNK * MAX_ROWS]; 2]);
}

/// Checks that all that [`products`] reads and writes exists.
pub(super) fn check_keys(tile: &Tile, keys: &PackedKeys, panels: &Range<usize>) {
    let PackedKeys { chunk, near, far, dim, .. } = *keys;
    assert!(!tile.rows.is_empty() && tile.rows.len() <= tile.height && tile.height <= MAX_ROWS);
    assert!(chunk.keys <= CHUNK && panels.start < panels.end && panels.end <= chunk.keys.div_ceil(LANES));
    assert!(tile.distance == Distance::Far || tile.query.len() == dim * tile.height);
    assert!(tile.distance == Distance::Near || tile.far_query.len() == dim * tile.height);
    assert!(tile.distance == Distance::Far || near.len() >= panels.end * dim * LANES);
    assert!(tile.distance == Distance::Near || far.len() >= panels.end * dim * LANES);
    tile.rows.iter().for_each(|row| row.check(chunk));
}

/// Checks that all that [`attend`] reads and writes exists; `values` are panels `[panel, CHUNK, LANES]`.
pub(super) fn check(tile: &Tile, keys: &PackedKeys, values: &[f32], panels: &Range<usize>, output: &[f32]) {
    check_keys(tile, keys, panels);
    let width = keys.value_dim.next_multiple_of(LANES);
    assert!(values.len() == CHUNK * width && output.len() == tile.height * width);
}

/// Products of a tile with the panels `panels` of a chunk, rows [`CHUNK`] apart: those that count, and those of the far
/// rotation where each score has to be asked.
///
/// # Safety
/// As [`Lanes`](crate::arch::lanes::Lanes), and what [`check_keys`] checks.
#[inline(always)]
pub(super) unsafe fn products<L: Machine>(
    tile: &Tile,
    keys: &PackedKeys,
    panels: Range<usize>,
    room: &mut Scores,
) -> (*mut f32, Option<*const f32>) {
    let near = room.0[0].as_mut_ptr();
    let far = room.0[1].as_mut_ptr();
    // SAFETY: the caller's.
    unsafe {
        if tile.distance != Distance::Far {
            scores::<L>(tile.height, tile.query.as_ptr(), keys.near.as_ptr(), keys.dim, panels.clone(), near);
        }
        if tile.distance != Distance::Near {
            let place = if tile.distance == Distance::Far { near } else { far };
            scores::<L>(tile.height, tile.far_query.as_ptr(), keys.far.as_ptr(), keys.dim, panels, place);
        }
    }
    (near, (tile.distance == Distance::Mixed).then_some(far.cast_const()))
}

/// Takes the panels `panels` of a chunk into a tile's state and its output `[height, value width]`.
///
/// # Safety
/// As [`Lanes`](crate::arch::lanes::Lanes), and what [`check`] checks.
#[inline(always)]
pub(super) unsafe fn attend<L: Machine>(
    tile: &Tile,
    keys: &PackedKeys,
    values: &[f32],
    panels: Range<usize>,
    room: &mut Scores,
    state: &mut State,
    output: &mut [f32],
) {
    let chunk = keys.chunk;
    let all = panels.start..panels.end.max(panels.start + 1);
    // SAFETY: the caller's.
    unsafe {
        let (near, far) = products::<L>(tile, keys, all.clone(), room);
        let here = weigh::<L>(tile.rows, chunk, all.clone(), near, far);
        for r in tile.rows.len()..tile.height {
            near.add(r * CHUNK).write_bytes(0, CHUNK);
        }
        let (keep, add) = merge::<L>(state, &here);
        let width = keys.value_dim.next_multiple_of(LANES);
        let first = all.start * LANES;
        let count = (all.end * LANES).min(chunk.keys) - first;
        let columns = Columns { start: values.as_ptr().add(first * LANES), step: LANES, panel: CHUNK * LANES };
        let place = (output.as_mut_ptr(), width);
        let how = Blend { keep: &keep, add: &add };
        blend::<L>(tile.height, near.add(first), columns, count, keys.value_dim, place, how);
    }
}

/// Takes a chunk's sums into a tile's, `height` rows each, with the operations of [`attend`].
///
/// # Safety
/// As [`Lanes`](crate::arch::lanes::Lanes); rows of equal, whole vectors.
#[inline(always)]
pub(super) unsafe fn fold<L: Machine>(
    state: &mut State,
    part: &State,
    output: &mut [f32],
    sums: &[f32],
    height: usize,
) {
    let width = output.len() / height;
    // SAFETY: the caller's.
    unsafe {
        let (keep, add) = merge::<L>(state, part);
        for r in 0..height {
            let (keep, add) = (L::splat(keep[r]), L::splat(add[r]));
            for at in (r * width..(r + 1) * width).step_by(LANES) {
                let place = output.as_mut_ptr().add(at);
                L::store(place, L::fma(L::load(sums.as_ptr().add(at)), add, L::mul(L::load(place), keep)));
            }
        }
    }
}
