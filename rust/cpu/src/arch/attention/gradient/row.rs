//! From products to slopes: what the scores of one row with one chunk of keys owe to the gradients of its results.

use super::product::is_hidden;
use crate::arch::attention::product::HIDDEN;
use crate::arch::attention::scores::{Chunk, Row, columns, score};
use crate::arch::attention::tile::Distance;
use crate::arch::lanes::{LANES, Lanes};
use crate::arch::math::exp;
use farspan_core::attention::plan::GRADIENT_KEYS;
use std::mem::MaybeUninit;
use std::ops::Range;

/// What is known of a row from the forward pass and from above.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    /// The row's LSE.
    pub lse: f32,
    /// `dot(output gradient, output) - LSE gradient`: what the softmax takes from every key's share.
    pub share: f32,
}

/// Sums over the queries of a head, by key and by distance, where they are asked for.
#[derive(Debug, Default)]
pub(crate) struct Collected<'a> {
    /// Gradient of the key bias: one number for each key of the chunk.
    pub bias: Option<&'a mut [f32]>,
    /// Gradient of the head's table, one number for each column.
    pub table: Option<&'a mut [f64]>,
}

/// The numbers of one row, each valid for the chunk's panels.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// Products of the query with the keys; becomes the weights.
    pub weights: *mut f32,
    /// Products of the upstream gradient with the values; becomes the slopes, that is the gradients of the products.
    pub slopes: *mut f32,
    /// Products by the far rotation; becomes the slopes of those keys, whose entry in `slopes` is then [`HIDDEN`].
    pub far: Option<*mut f32>,
}

/// Turns the products of one row in place into weights `exp(score - lse)` and slopes. Hidden keys get [`HIDDEN`].
///
/// # Safety
/// As [`Lanes`]; the row must fit the chunk, and the places be valid.
#[inline(always)]
pub(super) unsafe fn differentiate<L: Lanes>(
    row: &Row,
    chunk: &Chunk,
    panels: Range<usize>,
    distance: Distance,
    known: Known,
    place: Place,
    collected: &mut Collected,
) {
    let mut room = MaybeUninit::<[f32; GRADIENT_KEYS]>::uninit();
    let capped = chunk.softcap.map(|_| room.as_mut_ptr().cast::<f32>());
    // SAFETY: the caller's; panels lie inside the chunk.
    unsafe {
        let mixed = place.far.filter(|_| distance == Distance::Mixed).map(|far| far.cast_const());
        score::<L>(row, chunk, panels.clone(), place.weights, mixed, capped);
        let (lse, share) = (L::splat(known.lse), L::splat(known.share));
        let (lowest, hidden) = (L::splat(f32::NEG_INFINITY), L::splat(HIDDEN));
        for at in panels.clone().map(|panel| panel * LANES) {
            let score = L::load(place.weights.add(at));
            let unseen = L::eq(score, lowest);
            let weight = L::select(unseen, hidden, exp::<L>(L::sub(score, lse)));
            let slope = L::mul(weight, L::sub(L::load(place.slopes.add(at)), share));
            L::store(place.weights.add(at), weight);
            L::store(place.slopes.add(at), L::select(unseen, hidden, slope));
        }
        let keys = panels.start * LANES..(panels.end * LANES).min(chunk.keys);
        let slopes = std::slice::from_raw_parts(place.slopes.add(keys.start), keys.len());
        if let Some(bias) = &mut collected.bias {
            bias[keys.clone()].iter_mut().zip(slopes).for_each(|(sum, slope)| *sum += slope);
        }
        if let Some(table) = &mut collected.table {
            let columns = columns(row, chunk, &chunk.positions[keys.clone()]);
            for (slope, column) in slopes.iter().zip(columns) {
                table[column as usize] += f64::from(*slope);
            }
        }
        if let Some(capped) = capped {
            for at in panels.clone().map(|panel| panel * LANES) {
                let slope = L::load(place.slopes.add(at));
                let chained = L::mul(slope, L::load(capped.add(at)));
                let unseen = is_hidden::<L>(L::load(place.weights.add(at)));
                L::store(place.slopes.add(at), L::select(unseen, hidden, chained));
            }
        }
        if let Some(far) = place.far {
            let near = std::slice::from_raw_parts_mut(place.slopes.add(keys.start), keys.len());
            let far = std::slice::from_raw_parts_mut(far.add(keys.start), panels.len() * LANES);
            let (far, behind) = far.split_at_mut(keys.len());
            behind.fill(HIDDEN);
            for ((near, far), position) in near.iter_mut().zip(far).zip(&chunk.positions[keys]) {
                let is_far = chunk.is_far(row.position, *position);
                (*near, *far) = if is_far { (HIDDEN, *near) } else { (*near, HIDDEN) };
            }
        }
    }
}
