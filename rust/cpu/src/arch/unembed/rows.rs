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

/// Of `l - max`: the sums of `exp(x)` and, with `MOMENT`, of `exp(x) x`; with `TEMPERED` both again of
/// `x = (l - max) * inverse_temperature`. Lane by lane, then one tree. `max` is finite and at least every logit.
#[inline(always)]
pub(crate) unsafe fn sums<L: Lanes, const TEMPERED: bool, const MOMENT: bool>(
    row: &[f32],
    max: f32,
    inverse_temperature: f32,
) -> [f32; 4] {
    // SAFETY: of the caller; every vector lies inside the row.
    unsafe {
        // Far below what exp can tell from 0, and finite, so that 0 times it is 0.
        let lowest = L::splat(-1000.0);
        let zero = L::splat(0.0);
        let [mut sum, mut moment, mut tempered, mut tempered_moment] = [zero; 4];
        for vector in row.chunks_exact(LANES) {
            let gap = L::sub(L::load(vector.as_ptr()), L::splat(max));
            let mass = math::exp::<L>(gap);
            sum = L::add(sum, mass);
            if MOMENT {
                moment = L::fma(mass, L::max(gap, lowest), moment);
            }
            if TEMPERED {
                let gap = L::mul(gap, L::splat(inverse_temperature));
                let mass = math::exp::<L>(gap);
                tempered = L::add(tempered, mass);
                if MOMENT {
                    tempered_moment = L::fma(mass, L::max(gap, lowest), tempered_moment);
                }
            }
        }
        [L::sum(sum), L::sum(moment), L::sum(tempered), L::sum(tempered_moment)]
    }
}

/// Sum over the entries above -inf of `l - centre`, or of its square, lane by lane, then one tree.
#[inline(always)]
pub(crate) unsafe fn deviations<L: Lanes, const SQUARED: bool>(row: &[f32], centre: f32) -> f32 {
    // SAFETY: of the caller; every vector lies inside the row.
    unsafe {
        let (nothing, zero) = (L::splat(f32::NEG_INFINITY), L::splat(0.0));
        let mut sum = zero;
        for vector in row.chunks_exact(LANES) {
            let l = L::load(vector.as_ptr());
            let step = L::select(L::gt(l, nothing), L::sub(l, L::splat(centre)), zero);
            sum = if SQUARED { L::fma(step, step, sum) } else { L::add(sum, step) };
        }
        L::sum(sum)
    }
}

/// -inf where the bit of an entry is 0: bit i % 32 of word i / 32, words that are missing count as 0.
#[inline(always)]
pub(crate) unsafe fn keep_bits<L: Lanes>(row: &mut [f32], words: &[i32]) {
    for (i, vector) in row.chunks_exact_mut(LANES).enumerate() {
        let word = words.get(i * LANES / 32).copied().unwrap_or(0) as u32;
        let bits = (word >> (i * LANES % 32)) as u16;
        // SAFETY: of the caller; the vector lies inside the row.
        unsafe {
            let l = L::load(vector.as_ptr());
            L::store(vector.as_mut_ptr(), L::select(L::from_mask(bits), l, L::splat(f32::NEG_INFINITY)));
        }
    }
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
