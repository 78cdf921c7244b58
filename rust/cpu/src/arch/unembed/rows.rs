//! What the epilogues ask of a row of logits: rules, maxima, softmax sums, comparisons.
//!
//! Rows are whole numbers of vectors; what lies behind the last token is -inf.

use crate::arch::lanes::{LANES, Lanes};
use crate::arch::math;

/// How products become logits, for the tokens of one row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rule<'a> {
    pub scale: f32,
    pub softcap: Option<f32>,
    /// One per token of the row.
    pub bias: Option<&'a [f32]>,
}

/// Turns the first `count` products of `row` into logits, the rest into -inf. The largest logit: NaN if any is NaN.
#[inline(always)]
pub(crate) unsafe fn apply_rule<L: Lanes>(row: &mut [f32], count: usize, rule: &Rule) -> f32 {
    // SAFETY: of the caller; every vector lies inside the row, and the bias is read within its length.
    unsafe {
        let nothing = L::splat(f32::NEG_INFINITY);
        let scale = L::splat(rule.scale);
        let mut max = nothing;
        let mut nan = 0;
        let (tokens, padding) = row.split_at_mut(count.next_multiple_of(LANES).min(row.len()));
        padding.fill(f32::NEG_INFINITY);
        for (i, vector) in tokens.chunks_exact_mut(LANES).enumerate() {
            let here = (count - i * LANES).min(LANES);
            let mut l = L::mul(L::load(vector.as_ptr()), scale);
            if let Some(softcap) = rule.softcap {
                l = L::mul(L::splat(softcap), math::tanh::<L>(L::div(l, L::splat(softcap))));
            }
            if let Some(bias) = rule.bias {
                let bias = L::load_part(bias[i * LANES..][..here].as_ptr(), here);
                l = L::select(L::eq(bias, nothing), nothing, L::add(l, bias));
            }
            if here < LANES {
                l = L::select(L::first(here), l, nothing);
            }
            L::store(vector.as_mut_ptr(), l);
            nan |= L::to_mask(L::is_nan(l));
            max = L::max(l, max);
        }
        if nan == 0 { L::maximum(max) } else { f32::NAN }
    }
}

/// `sum(exp(l - max))`, then, where asked for, `sum(exp((l - max) * inverse_temperature))` and
/// `sum(exp(l - max) * (l - max))`: lane by lane, then one tree. `max` is finite and at least every logit.
#[inline(always)]
pub(crate) unsafe fn sums<L: Lanes, const TEMPERED: bool, const MOMENT: bool>(
    row: &[f32],
    max: f32,
    inverse_temperature: f32,
) -> [f32; 3] {
    // SAFETY: of the caller; every vector lies inside the row.
    unsafe {
        // Far below what exp can tell from 0, and finite, so that 0 times it is 0.
        let lowest = L::splat(-1000.0);
        let zero = L::splat(0.0);
        let (mut sum, mut tempered, mut moment) = (zero, zero, zero);
        for vector in row.chunks_exact(LANES) {
            let gap = L::sub(L::load(vector.as_ptr()), L::splat(max));
            let mass = math::exp::<L>(gap);
            sum = L::add(sum, mass);
            if TEMPERED {
                tempered = L::add(tempered, math::exp::<L>(L::mul(gap, L::splat(inverse_temperature))));
            }
            if MOMENT {
                moment = L::fma(mass, L::max(gap, lowest), moment);
            }
        }
        [L::sum(sum), L::sum(tempered), L::sum(moment)]
    }
}

/// The first entry that is `value`, the length of the row without one.
#[inline(always)]
pub(crate) unsafe fn position<L: Lanes>(row: &[f32], value: f32) -> usize {
    for (i, vector) in row.chunks_exact(LANES).enumerate() {
        // SAFETY: of the caller; the vector lies inside the row.
        let found = unsafe { L::to_mask(L::eq(L::load(vector.as_ptr()), L::splat(value))) };
        if found != 0 {
            return i * LANES + found.trailing_zeros() as usize;
        }
    }
    row.len()
}

/// How many entries are above `value`, or in the first `ties` places at least `value`.
#[inline(always)]
pub(crate) unsafe fn count_above<L: Lanes>(row: &[f32], value: f32, ties: usize) -> usize {
    let mut count = 0;
    for (i, vector) in row.chunks_exact(LANES).enumerate() {
        // SAFETY: of the caller; the vector lies inside the row.
        unsafe {
            let (l, value) = (L::load(vector.as_ptr()), L::splat(value));
            let before = L::to_mask(L::first(ties.saturating_sub(i * LANES).min(LANES)));
            let above = L::to_mask(L::gt(l, value)) | L::to_mask(L::ge(l, value)) & before;
            count += above.count_ones() as usize;
        }
    }
    count
}

/// Writes the places of the entries that are at least `value` and says how many there are.
#[inline(always)]
pub(crate) unsafe fn places_at_least<L: Lanes>(row: &[f32], value: f32, places: &mut [u32]) -> usize {
    let mut count = 0;
    for (i, vector) in row.chunks_exact(LANES).enumerate() {
        // SAFETY: of the caller; the vector lies inside the row.
        let mut found = unsafe { L::to_mask(L::ge(L::load(vector.as_ptr()), L::splat(value))) };
        while found != 0 {
            places[count] = (i * LANES) as u32 + found.trailing_zeros();
            count += 1;
            found &= found - 1;
        }
    }
    count
}
