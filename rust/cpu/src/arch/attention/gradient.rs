//! The kernels of the backward pass: a tile of queries against a packed chunk of keys and values.

mod product;
mod row;

pub(crate) use row::{Collected, Known};

use super::product::Columns;
use super::scores::{Chunk, Row};
use super::tile::Distance;
use super::{CHUNK, MAX_ROWS, Machine};
use crate::arch::lanes::{LANES, Lanes};
use farspan_core::attention::plan::GRADIENT_KEYS;
use row::Place;
use std::ops::Range;

/// How far apart the rows of weights and slopes are: an odd number of cache lines, so that a column of them does not
/// crowd into a few sets of the cache.
pub(crate) const PITCH: usize = GRADIENT_KEYS + LANES;

const _: () = assert!(GRADIENT_KEYS <= CHUNK && GRADIENT_KEYS.is_multiple_of(2 * LANES));

/// A tile's rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueryTile<'a> {
    /// The rows that exist.
    pub rows: &'a [Row<'a>],
    /// The first of them among the rows of its block, of which each query has one for each head.
    pub first: usize,
    /// What is known of each.
    pub known: &'a [Known],
    /// Rows of the packed arrays, of [`super::height`].
    pub height: usize,
    /// Queries `[head_dim, height]`, turned by the near and by the far positions; empty where they do not count.
    pub query: [&'a [f32]; 2],
    /// Gradients of the output `[value_dim, height]`.
    pub upstream: &'a [f32],
    /// Which rotation counts.
    pub distance: Distance,
}

/// A chunk of packed keys and values.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyPanels<'a> {
    /// What the rows need to know; at most [`GRADIENT_KEYS`] keys.
    pub chunk: &'a Chunk<'a>,
    /// Panels `[panel, head_dim, LANES]`, near and far; empty where they do not count.
    pub keys: [&'a [f32]; 2],
    /// Panels `[panel, value_dim, LANES]`.
    pub values: &'a [f32],
    pub head_dim: usize,
    pub value_dim: usize,
}

/// Weights and slopes of a tile, rows [`PITCH`] apart.
#[derive(Debug)]
pub(crate) struct Slopes<'a> {
    pub weights: &'a mut [f32],
    /// Of all keys, or of the near ones where `far` has the others.
    pub slopes: &'a mut [f32],
    /// Present where keys of both rotations meet the tile's block.
    pub far: Option<&'a mut [f32]>,
}

/// Checks that all that [`differentiate`] reads and writes exists.
pub(super) fn check(
    tile: &QueryTile,
    packed: &KeyPanels,
    panels: &Range<usize>,
    slopes: &Slopes,
    collected: &[Collected],
) {
    let KeyPanels { chunk, keys, values, head_dim, value_dim } = *packed;
    assert!(!tile.rows.is_empty() && tile.rows.len() <= tile.height && tile.height <= MAX_ROWS);
    assert!(tile.known.len() == tile.rows.len() && tile.upstream.len() == value_dim * tile.height);
    assert!(chunk.keys <= GRADIENT_KEYS && panels.start < panels.end && panels.end <= chunk.keys.div_ceil(LANES));
    for (side, unused) in [Distance::Far, Distance::Near].into_iter().enumerate() {
        assert!(tile.distance == unused || tile.query[side].len() == head_dim * tile.height);
        assert!(tile.distance == unused || keys[side].len() >= panels.end * head_dim * LANES);
    }
    assert!(values.len() >= panels.end * value_dim * LANES);
    assert!(tile.distance != Distance::Mixed || slopes.far.is_some());
    for room in [&slopes.weights, &slopes.slopes].into_iter().chain(slopes.far.as_ref()) {
        assert!(room.len() == tile.height * PITCH);
    }
    tile.rows.iter().for_each(|row| row.check(chunk));
    for of_head in collected {
        assert!(of_head.bias.as_ref().is_none_or(|bias| bias.len() >= chunk.keys));
    }
    assert!(!collected.is_empty());
}

/// Weights and slopes of a tile with the panels `panels` of a chunk. `collected` has an entry for each head of the
/// block.
///
/// # Safety
/// As [`Lanes`], and what [`check`] checks.
#[inline(always)]
pub(super) unsafe fn differentiate<L: Machine>(
    tile: &QueryTile,
    packed: &KeyPanels,
    panels: Range<usize>,
    out: Slopes,
    collected: &mut [Collected],
) {
    let KeyPanels { chunk, keys, values, head_dim, value_dim } = *packed;
    let (weights, slopes) = (out.weights.as_mut_ptr(), out.slopes.as_mut_ptr());
    let far = out.far.map(<[f32]>::as_mut_ptr);
    let heads = collected.len();
    // SAFETY: the caller's.
    unsafe {
        // No closure does it: a closure would be compiled without the machine's instructions.
        for side in 0..2 {
            let place = match (side, tile.distance, far) {
                (0, Distance::Near | Distance::Mixed, _) | (1, Distance::Far, _) => weights,
                (1, Distance::Mixed, Some(far)) => far,
                _ => continue,
            };
            let (query, keys) = (tile.query[side].as_ptr(), keys[side].as_ptr());
            product::dots::<L>(tile.height, query, keys, head_dim, panels.clone(), place);
        }
        product::dots::<L>(tile.height, tile.upstream.as_ptr(), values.as_ptr(), value_dim, panels.clone(), slopes);
        for (r, (row, known)) in tile.rows.iter().zip(tile.known).enumerate() {
            let place = Place {
                weights: weights.add(r * PITCH),
                slopes: slopes.add(r * PITCH),
                far: far.map(|far| far.add(r * PITCH)),
            };
            let sums = &mut collected[(tile.first + r) % heads];
            row::differentiate::<L>(row, chunk, panels.clone(), tile.distance, *known, place, sums);
        }
        for room in [Some(weights), Some(slopes), far].into_iter().flatten() {
            room.add(tile.rows.len() * PITCH).write_bytes(0, (tile.height - tile.rows.len()) * PITCH);
        }
    }
}

/// Adds to the sums `[dim, LANES]` of the sixteen keys of a panel the rows of `rows [count, width]`, from their
/// dimension `first` on, weighted by the keys' columns of `slopes`.
///
/// # Safety
/// As [`Lanes`]; `count` must not be 0; `slopes` must have `count` rows [`PITCH`] apart from the panel's first column
/// on, and a row must have at least `first` numbers and as many behind as the sums have dimensions.
#[inline(always)]
pub(super) unsafe fn gather<L: Machine>(slopes: &[f32], rows: &[f32], count: usize, first: usize, sums: &mut [f32]) {
    let (width, dim) = (rows.len() / count, sums.len() / LANES);
    // SAFETY: the caller's.
    unsafe {
        let rows = (rows.as_ptr().add(first), width);
        product::across::<L>(slopes.as_ptr(), rows, count, dim, sums.as_mut_ptr())
    }
}

/// For each row of a tile the sum of the rows of `keys`, `dim` numbers each and zeros behind, weighted by its row of
/// `slopes`.
///
/// # Safety
/// As [`Lanes`]; rows of keys must be whole vectors; `slopes` must have `height` rows [`PITCH`] apart, each with a
/// number for every key, and `out` as many rows as long as those of the keys.
#[inline(always)]
pub(super) unsafe fn spread<L: Machine>(slopes: &[f32], keys: &[f32], dim: usize, height: usize, out: &mut [f32]) {
    let width = dim.next_multiple_of(LANES);
    let columns = Columns { start: keys.as_ptr(), step: width, panel: LANES };
    let place = (out.as_mut_ptr(), width);
    // SAFETY: the caller's.
    unsafe { product::along::<L>(height, slopes.as_ptr(), columns, keys.len() / width, dim, place) }
}

/// The dot product of each row of `a` with that of `b`, lane by lane.
///
/// # Safety
/// As [`Lanes`]; `a` and `b` must have as many rows as `out` has numbers, of equal, whole vectors.
#[inline(always)]
pub(super) unsafe fn row_dots<L: Lanes>(a: &[f32], b: &[f32], out: &mut [f32]) {
    let width = a.len() / out.len();
    for (index, out) in out.chunks_mut(LANES).enumerate() {
        let first = index * LANES * width;
        // SAFETY: the caller's.
        unsafe {
            let (a, b) = (a.as_ptr().add(first), b.as_ptr().add(first));
            let mut sums = [L::splat(0.0); LANES];
            for (row, sum) in sums.iter_mut().enumerate().take(out.len()) {
                for at in (row * width..(row + 1) * width).step_by(LANES) {
                    *sum = L::fma(L::load(a.add(at)), L::load(b.add(at)), *sum);
                }
            }
            L::store_part(out.as_mut_ptr(), L::sums(&sums), out.len());
        }
    }
}
