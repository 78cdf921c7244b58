//! What the weights of a tile of queries say about themselves: sums over one chunk of keys after the other, without
//! values.

use super::product::HIDDEN;
use super::scores::{Chunk, Row, State, merge, score};
use super::tile::{PackedKeys, Scores, Tile, products};
use super::{CHUNK, Machine};
use crate::arch::lanes::{LANES, Lanes};
use crate::arch::math::exp;
use std::ops::Range;

/// Sums over the keys that the sixteen rows of a tile have seen. A weight is `exp(score - maximum)`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moments {
    /// Maximum and sum of the weights, a sink's among them.
    pub state: State,
    /// Largest score of a key.
    pub largest: [f32; LANES],
    /// Score of the sequence's first key.
    pub first: [f32; LANES],
    /// Sum of weight times `maximum - score`, which is no cancellation: no term is negative.
    pub spread: [f32; LANES],
    /// Sum of weight times the order of the query less that of the key.
    pub distance: [f32; LANES],
}

impl Moments {
    /// Rows that have seen what `state` says, no key.
    pub(crate) fn of(state: State) -> Self {
        let (unseen, nothing) = ([f32::NEG_INFINITY; LANES], [0.0; LANES]);
        Moments { state, largest: unseen, first: unseen, spread: nothing, distance: nothing }
    }
}

/// Where a chunk lies in its sequence, seen from the rows of a tile.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Orders {
    /// Orders of the rows less that of the chunk's first key.
    pub gaps: [f32; LANES],
    /// Whether that is the sequence's first key.
    pub is_start: bool,
}

/// Takes the panels `panels` of a chunk into a tile's moments.
///
/// # Safety
/// As [`Lanes`], and what [`check_keys`](super::tile::check_keys) checks.
#[inline(always)]
pub(super) unsafe fn observe<L: Machine>(
    tile: &Tile,
    keys: &PackedKeys,
    panels: Range<usize>,
    orders: &Orders,
    room: &mut Scores,
    moments: &mut Moments,
) {
    // SAFETY: the caller's; a tile has at most sixteen rows.
    unsafe {
        let (near, far) = products::<L>(tile, keys, panels.clone(), room);
        let mut here = Moments::of(State::EMPTY);
        for (r, row) in tile.rows.iter().enumerate() {
            let scores = near.add(r * CHUNK);
            let far = far.map(|far| far.add(r * CHUNK));
            let found = observe_row::<L>(row, keys.chunk, panels.clone(), orders.gaps[r], scores, far);
            (here.state.maximum[r], here.state.sum[r]) = (found.maximum, found.sum);
            (here.spread[r], here.distance[r]) = (found.spread, found.distance);
            if orders.is_start && panels.start == 0 {
                moments.first[r] = *scores;
            }
        }
        take::<L>(moments, &here);
    }
}

/// The sums of one row over one chunk.
struct OfRow {
    maximum: f32,
    sum: f32,
    spread: f32,
    distance: f32,
}

/// Turns the products of a row, in place, into scores, and sums up their weights. The maximum and the sum have the bits
/// of [`weigh`](super::scores::weigh). A hidden key has the weight [`HIDDEN`], which changes no sum, so it does not
/// matter which panels without a visible key are read.
///
/// # Safety
/// As [`score`].
#[inline(always)]
unsafe fn observe_row<L: Lanes>(
    row: &Row,
    chunk: &Chunk,
    panels: Range<usize>,
    gap: f32,
    scores: *mut f32,
    far: Option<*const f32>,
) -> OfRow {
    // SAFETY: the caller's.
    unsafe {
        score::<L>(row, chunk, panels.clone(), scores, far, None);
        let hidden = L::splat(f32::NEG_INFINITY);
        let mut top = hidden;
        for panel in panels.clone() {
            top = L::max(L::load(scores.add(panel * LANES)), top);
        }
        let maximum = L::maximum(top);
        let base = L::splat(if maximum == f32::NEG_INFINITY { 0.0 } else { maximum });
        let (mut sum, mut spread, mut distance) = (L::splat(0.0), L::splat(0.0), L::splat(0.0));
        let mut gaps = L::sub(L::splat(gap - (panels.start * LANES) as f32), L::load(STEPS.as_ptr()));
        for panel in panels {
            let score = L::load(scores.add(panel * LANES));
            let unseen = L::eq(score, hidden);
            let below = L::sub(score, base);
            let weight = L::select(unseen, L::splat(HIDDEN), exp::<L>(below));
            sum = L::add(sum, weight);
            spread = L::sub(spread, L::mul(weight, L::select(unseen, L::splat(0.0), below)));
            distance = L::fma(weight, gaps, distance);
            gaps = L::sub(gaps, L::splat(LANES as f32));
        }
        OfRow { maximum, sum: L::sum(sum), spread: L::sum(spread), distance: L::sum(distance) }
    }
}

const STEPS: [f32; LANES] = [0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15.];

/// Takes the sums of a chunk into those of the chunks before it.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
unsafe fn take<L: Lanes>(moments: &mut Moments, chunk: &Moments) {
    let before = moments.state;
    // SAFETY: the caller's; all arrays have sixteen numbers.
    unsafe {
        let (keep, add) = merge::<L>(&mut moments.state, &chunk.state);
        let (keep, add) = (L::load(keep.as_ptr()), L::load(add.as_ptr()));
        let maximum = L::load(moments.state.maximum.as_ptr());
        let largest = L::max(L::load(chunk.state.maximum.as_ptr()), L::load(moments.largest.as_ptr()));
        L::store(moments.largest.as_mut_ptr(), largest);
        let (old, new) =
            (raised::<L>(&before, &moments.spread, maximum), raised::<L>(&chunk.state, &chunk.spread, maximum));
        L::store(moments.spread.as_mut_ptr(), L::fma(new, add, L::mul(old, keep)));
        let (old, new) = (L::load(moments.distance.as_ptr()), L::load(chunk.distance.as_ptr()));
        L::store(moments.distance.as_mut_ptr(), L::fma(new, add, L::mul(old, keep)));
    }
}

/// A spread as it is below another maximum.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
unsafe fn raised<L: Lanes>(state: &State, spread: &[f32; LANES], maximum: L::F) -> L::F {
    // SAFETY: the caller's; all arrays have sixteen numbers.
    unsafe {
        let old = L::load(state.maximum.as_ptr());
        let unseen = L::eq(old, L::splat(f32::NEG_INFINITY));
        let rise = L::select(unseen, L::splat(0.0), L::sub(maximum, old));
        L::fma(rise, L::load(state.sum.as_ptr()), L::load(spread.as_ptr()))
    }
}
