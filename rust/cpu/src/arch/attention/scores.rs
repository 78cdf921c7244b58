//! From products to weights: cap, biases, mask and the exponential of one row of one chunk.

use super::CHUNK;
use super::product::HIDDEN;
use crate::arch::lanes::{LANES, Lanes};
use crate::arch::math::{exp, tanh};
use farspan_core::attention::Visible;
use std::ops::Range;

/// What is added to the scores of one row by key.
#[derive(Clone, Copy, Debug)]
pub(crate) enum KeyBias<'a> {
    /// Nothing.
    None,
    /// The same for every key.
    Same(f32),
    /// One number for each key of the chunk.
    Each(&'a [f32]),
}

/// One query row as one chunk of keys sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row<'a> {
    /// Keys of the chunk that the row sees, counted from the chunk's first.
    pub visible: Visible,
    /// Where the query stands.
    pub position: f64,
    /// Bias by key.
    pub bias: KeyBias<'a>,
    /// Bias by distance; empty: none.
    pub table: &'a [f32],
}

impl Row<'_> {
    /// Panics when the row does not fit the chunk.
    pub(super) fn check(&self, chunk: &Chunk) {
        assert!(self.visible.end.max(self.visible.first) <= chunk.keys, "visible keys exist");
        if let KeyBias::Each(bias) = self.bias {
            assert_eq!(bias.len(), chunk.keys, "a bias for every key");
        }
    }
}

/// What all rows of a chunk share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chunk<'a> {
    /// Keys that exist, at most [`CHUNK`].
    pub keys: usize,
    /// Where they stand.
    pub positions: &'a [f64; CHUNK],
    /// Distance of the first entry of the rows' tables.
    pub minimum: f64,
    /// Cap of the scores.
    pub softcap: Option<f32>,
    /// First distance at which the far scores count.
    pub border: f64,
}

impl Chunk<'_> {
    /// Whether the score of a query and a key at these positions takes the far rotation.
    #[inline(always)]
    pub(super) fn is_far(&self, query: f64, key: f64) -> bool {
        query - key >= self.border
    }
}

/// Turns the products of the rows of a tile, [`CHUNK`] apart, in place into weights `exp(score - maximum)`, hidden keys
/// into [`HIDDEN`]; gives the maxima and the sums. With `far` products, each key takes the one its distance asks for.
///
/// All rows have their scores before the first has its weights: nothing then waits for the maximum of a single row.
///
/// # Safety
/// As [`Lanes`]; `scores` and `far` must be valid for [`CHUNK`] numbers for each of at most [`LANES`] rows.
#[inline(always)]
pub(super) unsafe fn weigh<L: Lanes>(
    rows: &[Row],
    chunk: &Chunk,
    panels: Range<usize>,
    scores: *mut f32,
    far: Option<*const f32>,
) -> State {
    let mut state = State::EMPTY;
    // SAFETY: the caller's.
    unsafe {
        let mut lanes = [L::splat(f32::NEG_INFINITY); LANES];
        for (r, row) in rows.iter().enumerate() {
            let place = scores.add(r * CHUNK);
            score::<L>(row, chunk, panels.clone(), place, far.map(|far| far.add(r * CHUNK)), None);
            lanes[r] = top::<L>(panels.clone(), place);
        }
        if rows.len() < TOGETHER {
            for (maximum, lanes) in state.maximum.iter_mut().zip(&lanes).take(rows.len()) {
                *maximum = L::maximum(*lanes);
            }
        } else {
            L::store(state.maximum.as_mut_ptr(), maxima::<L>(&mut lanes));
        }
        lanes = [L::splat(0.0); LANES];
        for (r, lanes) in lanes.iter_mut().enumerate().take(rows.len()) {
            *lanes = soften::<L>(state.maximum[r], panels.clone(), scores.add(r * CHUNK));
        }
        if rows.len() < TOGETHER {
            for (sum, lanes) in state.sum.iter_mut().zip(&lanes).take(rows.len()) {
                *sum = L::sum(*lanes);
            }
        } else {
            L::store(state.sum.as_mut_ptr(), L::sums(&lanes));
        }
    }
    state
}

/// From so many rows on, their maxima and sums are quicker together than one by one.
const TOGETHER: usize = 4;

/// Turns the products of one row, in place, into scores, hidden keys into minus infinity. With `far` products, each key
/// takes the one its distance asks for. `slopes` gets the derivative of the capped score by the product where there is
/// a cap.
///
/// # Safety
/// As [`Lanes`]; the pointers must be valid for the numbers of the panels.
#[inline(always)]
pub(super) unsafe fn score<L: Lanes>(
    row: &Row,
    chunk: &Chunk,
    panels: Range<usize>,
    scores: *mut f32,
    far: Option<*const f32>,
    slopes: Option<*mut f32>,
) {
    // SAFETY: the caller's; panels lie inside the chunk.
    unsafe {
        let keys = panels.start * LANES..(panels.end * LANES).min(chunk.keys);
        let positions = &chunk.positions[keys.clone()];
        let row_scores = std::slice::from_raw_parts_mut(scores.add(keys.start), keys.len());
        if let Some(far) = far {
            let far = std::slice::from_raw_parts(far.add(keys.start), keys.len());
            for ((score, far), position) in row_scores.iter_mut().zip(far).zip(positions) {
                *score = if chunk.is_far(row.position, *position) { *far } else { *score };
            }
        }
        if let Some(cap) = chunk.softcap {
            for panel in panels.clone() {
                let place = scores.add(panel * LANES);
                let capped = tanh::<L>(L::div(L::load(place), L::splat(cap)));
                L::store(place, L::mul(L::splat(cap), capped));
                if let Some(slopes) = slopes {
                    let square = L::mul(capped, capped);
                    L::store(slopes.add(panel * LANES), L::sub(L::splat(1.0), square));
                }
            }
        }
        match row.bias {
            KeyBias::None => {}
            KeyBias::Same(bias) => row_scores.iter_mut().for_each(|score| *score = biased(*score, bias)),
            KeyBias::Each(bias) => {
                row_scores.iter_mut().zip(&bias[keys]).for_each(|(score, bias)| *score = biased(*score, *bias));
            }
        }
        if !row.table.is_empty() {
            let columns = columns(row, chunk, positions);
            for (score, column) in row_scores.iter_mut().zip(columns) {
                *score += row.table[column as usize];
            }
        }
        hide::<L>(row.visible, panels, scores);
    }
}

/// The columns of a row's table that the keys at these positions take; what lies behind them is 0.
#[inline(always)]
pub(super) fn columns(row: &Row, chunk: &Chunk, positions: &[f64]) -> [i32; CHUNK] {
    let last = (row.table.len() - 1) as f64;
    let mut columns = [0; CHUNK];
    for (column, position) in columns.iter_mut().zip(positions) {
        let distance = (row.position - position).floor() - chunk.minimum;
        *column = distance.min(last).max(0.0) as i32;
    }
    columns
}

/// A bias of minus infinity hides the key whatever its score, NaN too.
#[inline(always)]
fn biased(score: f32, bias: f32) -> f32 {
    if bias == f32::NEG_INFINITY { bias } else { score + bias }
}

/// Gives hidden keys the score minus infinity.
#[inline(always)]
unsafe fn hide<L: Lanes>(visible: Visible, panels: Range<usize>, scores: *mut f32) {
    if visible.start <= panels.start * LANES && panels.end * LANES <= visible.end {
        return;
    }
    for panel in panels {
        let below = |bound: usize| match bound.saturating_sub(panel * LANES) {
            lanes @ 0..LANES => (1u16 << lanes) - 1,
            _ => u16::MAX,
        };
        let mask = below(visible.end) & !below(visible.start) | below(visible.first);
        if mask != u16::MAX {
            // SAFETY: the caller's.
            unsafe {
                let place = scores.add(panel * LANES);
                let hidden = L::splat(f32::NEG_INFINITY);
                L::store(place, L::select(L::from_mask(mask), L::load(place), hidden));
            }
        }
    }
}

/// The largest scores of a row, lane by lane. A NaN score is none of them.
#[inline(always)]
unsafe fn top<L: Lanes>(panels: Range<usize>, scores: *const f32) -> L::F {
    // SAFETY: the caller's.
    unsafe {
        let mut top = L::splat(f32::NEG_INFINITY);
        for panel in panels {
            top = L::max(L::load(scores.add(panel * LANES)), top);
        }
        top
    }
}

/// The [`Lanes::maximum`] of each of sixteen vectors.
#[inline(always)]
unsafe fn maxima<L: Lanes>(lanes: &mut [L::F; LANES]) -> L::F {
    // SAFETY: the caller's.
    unsafe {
        L::transpose(lanes);
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                lanes[i] = L::max(lanes[i + half], lanes[i]);
            }
        }
    }
    lanes[0]
}

/// Scores of a row to weights; gives their sums, lane by lane. A NaN score makes a sum NaN.
#[inline(always)]
unsafe fn soften<L: Lanes>(maximum: f32, panels: Range<usize>, scores: *mut f32) -> L::F {
    // SAFETY: the caller's.
    unsafe {
        let hidden = L::splat(f32::NEG_INFINITY);
        let base = L::splat(if maximum == f32::NEG_INFINITY { 0.0 } else { maximum });
        let mut sum = L::splat(0.0);
        for panel in panels {
            let place = scores.add(panel * LANES);
            let score = L::load(place);
            let weight = exp::<L>(L::sub(score, base));
            let weight = L::select(L::eq(score, hidden), L::splat(HIDDEN), weight);
            sum = L::add(sum, weight);
            L::store(place, weight);
        }
        sum
    }
}

/// Running maximum and sum of the sixteen rows of a tile.
#[derive(Clone, Copy, Debug)]
pub(crate) struct State {
    /// Largest score so far.
    pub maximum: [f32; LANES],
    /// Sum of `exp(score - maximum)`.
    pub sum: [f32; LANES],
}

impl State {
    /// Rows that have seen nothing.
    pub(crate) const EMPTY: State = State { maximum: [f32::NEG_INFINITY; LANES], sum: [0.0; LANES] };
}

/// Takes a chunk into the state; gives the factors of what stood there and of what comes. A chunk of which a row sees
/// nothing changes no bit of that row.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
pub(super) unsafe fn merge<L: Lanes>(state: &mut State, chunk: &State) -> ([f32; LANES], [f32; LANES]) {
    let (mut keep, mut add) = ([0.0; LANES], [0.0; LANES]);
    // SAFETY: the caller's; all arrays have sixteen numbers.
    unsafe {
        let (old, new) = (L::load(state.maximum.as_ptr()), L::load(chunk.maximum.as_ptr()));
        let maximum = L::max(new, old);
        let lowest = L::splat(f32::NEG_INFINITY);
        let base = L::select(L::eq(maximum, lowest), L::splat(0.0), maximum);
        let (a, b) = (exp::<L>(L::sub(old, base)), exp::<L>(L::sub(new, base)));
        let sum = L::fma(L::load(chunk.sum.as_ptr()), b, L::mul(L::load(state.sum.as_ptr()), a));
        L::store(state.maximum.as_mut_ptr(), maximum);
        L::store(state.sum.as_mut_ptr(), sum);
        L::store(keep.as_mut_ptr(), a);
        L::store(add.as_mut_ptr(), b);
    }
    (keep, add)
}
