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

/// A chunk of packed keys and values.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packed<'a> {
    /// What the rows need to know.
    pub chunk: &'a Chunk<'a>,
    /// Panels `[panel, head_dim, LANES]`.
    pub keys: &'a [f32],
    /// The same turned by the far positions; empty without a border.
    pub far_keys: &'a [f32],
    /// Panels `[panel, CHUNK, LANES]`.
    pub values: &'a [f32],
    /// Head dimension of keys and queries.
    pub dim: usize,
}

/// Room for the scores of a tile, near and far.
#[repr(C, align(64))]
pub(crate) struct Scores([[f32; CHUNK * MAX_ROWS]; 2]);

impl Scores {
    pub(crate) const EMPTY: Scores = Scores([[0.0; CHUNK * MAX_ROWS]; 2]);
}

/// Checks that all that [`attend`] reads and writes exists.
pub(super) fn check(tile: &Tile, packed: &Packed, panels: &Range<usize>, output: &[f32]) {
    let Packed { chunk, keys, far_keys, values, dim } = *packed;
    assert!(!tile.rows.is_empty() && tile.rows.len() <= tile.height && tile.height <= MAX_ROWS);
    assert!(chunk.keys <= CHUNK && panels.start * LANES < chunk.keys && panels.end <= chunk.keys.div_ceil(LANES));
    assert!(tile.distance == Distance::Far || tile.query.len() == dim * tile.height);
    assert!(tile.distance == Distance::Near || tile.far_query.len() == dim * tile.height);
    assert!(tile.distance == Distance::Far || keys.len() >= panels.end * dim * LANES);
    assert!(tile.distance == Distance::Near || far_keys.len() >= panels.end * dim * LANES);
    assert!(values.len().is_multiple_of(CHUNK * LANES));
    assert!(output.len() == tile.height * (values.len() / CHUNK));
    tile.rows.iter().for_each(|row| row.check(chunk));
}

/// Takes the panels `panels` of a chunk into a tile's state and its output `[height, value width]`.
///
/// # Safety
/// As [`Lanes`](crate::arch::lanes::Lanes), and what [`check`] checks.
#[inline(always)]
pub(super) unsafe fn attend<L: Machine>(
    tile: &Tile,
    packed: &Packed,
    panels: Range<usize>,
    room: &mut Scores,
    state: &mut State,
    output: &mut [f32],
) {
    let near = room.0[0].as_mut_ptr();
    let far = room.0[1].as_mut_ptr();
    let Packed { chunk, keys, far_keys, values, dim } = *packed;
    let all = panels.start..panels.end.max(panels.start + 1);
    // SAFETY: the caller's.
    unsafe {
        if tile.distance != Distance::Far {
            scores::<L>(tile.height, tile.query.as_ptr(), keys.as_ptr(), dim, all.clone(), near);
        }
        if tile.distance != Distance::Near {
            let place = if tile.distance == Distance::Far { near } else { far };
            scores::<L>(tile.height, tile.far_query.as_ptr(), far_keys.as_ptr(), dim, all.clone(), place);
        }
        let mixed = tile.distance == Distance::Mixed;
        let mut here = State::EMPTY;
        for (r, row) in tile.rows.iter().enumerate() {
            let other = mixed.then_some(far.add(r * CHUNK).cast_const());
            (here.maximum[r], here.sum[r]) = weigh::<L>(row, chunk, all.clone(), near.add(r * CHUNK), other);
        }
        for r in tile.rows.len()..tile.height {
            near.add(r * CHUNK).write_bytes(0, CHUNK);
        }
        let (keep, add) = merge::<L>(state, &here);
        let width = values.len() / CHUNK;
        let first = all.start * LANES;
        let count = (all.end * LANES).min(chunk.keys) - first;
        let columns = Columns { start: values.as_ptr().add(first * LANES), step: LANES, panel: CHUNK * LANES };
        let place = (output.as_mut_ptr(), width);
        let how = Blend { keep: &keep, add: &add };
        blend::<L>(tile.height, near.add(first), columns, count, 0..width / LANES, place, how);
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
