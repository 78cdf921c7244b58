//! What the losses ask of a row of logits or of products. Rows are whole numbers of vectors.

use crate::arch::lanes::{LANES, Lanes};
use crate::arch::math;
use crate::arch::unembed::Rule;
use farspan_core::loss::Slope;

/// Far below what exp can tell from 0, and finite, so that 0 times it is 0.
const LOWEST: f32 = -1000.0;

/// Sum of `weight * l` over the first `count` entries, weights 1 where there are none: lane by lane, then one tree.
///
/// # Safety
/// As [`Lanes`]; the row has whole vectors for `count` entries, and there are as many weights.
#[inline(always)]
pub(crate) unsafe fn weighted_sum<L: Lanes>(row: &[f32], count: usize, weights: Option<&[f32]>) -> f32 {
    // SAFETY: the caller's.
    unsafe {
        let mut sum = L::splat(0.0);
        for at in (0..count).step_by(LANES) {
            let here = (count - at).min(LANES);
            let l = L::load_part(row.as_ptr().add(at), here);
            sum = match weights {
                Some(weights) => L::fma(L::load_part(weights.as_ptr().add(at), here), l, sum),
                None => L::add(sum, l),
            };
        }
        L::sum(sum)
    }
}

/// Of logits l and target logits t, both times `inverse_temperature`: the sums of `exp(l - max)`, of
/// `exp(t - target_max)` and of `exp(t - target_max) * (t - l)` where both are above -inf, and whether an l is -inf
/// where t is not.
///
/// # Safety
/// As [`Lanes`]; both rows are whole vectors and equally long.
#[inline(always)]
pub(crate) unsafe fn pair_sums<L: Lanes>(
    row: &[f32],
    target: &[f32],
    (max, target_max): (f32, f32),
    inverse_temperature: f32,
) -> ([f32; 3], bool) {
    // SAFETY: the caller's.
    unsafe {
        let (nothing, inverse) = (L::splat(f32::NEG_INFINITY), L::splat(inverse_temperature));
        let (below, target_below) = (L::splat(-max), L::splat(-target_max));
        let [mut sum, mut target_sum, mut cross] = [L::splat(0.0); 3];
        let mut impossible = 0;
        for at in (0..row.len()).step_by(LANES) {
            let (l, t) = (L::load(row.as_ptr().add(at)), L::load(target.as_ptr().add(at)));
            sum = L::add(sum, math::exp::<L>(L::fma(l, inverse, below)));
            let q = math::exp::<L>(L::fma(t, inverse, target_below));
            target_sum = L::add(target_sum, q);
            let (allowed, possible) = (L::gt(t, nothing), L::gt(l, nothing));
            impossible |= L::to_mask(allowed) & !L::to_mask(possible);
            let gap = L::select(possible, L::mul(L::sub(t, l), inverse), L::splat(0.0));
            cross = L::fma(q, L::select(allowed, gap, L::splat(0.0)), cross);
        }
        ([L::sum(sum), L::sum(target_sum), L::sum(cross)], impossible != 0)
    }
}

/// How products become slopes, for the tokens of one row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sloping<'a> {
    pub rule: Rule<'a>,
    pub slope: Slope,
    pub inverse_temperature: f32,
    /// One per token.
    pub class_weight: Option<&'a [f32]>,
    /// Logits of the target, as many as the row has entries.
    pub target: Option<&'a [f32]>,
}

/// Turns the first `count` products of `row` into the slopes of the loss by their logits, and gives in `chain` the
/// slopes of logits by products. Both are 0 of banned tokens and behind the last one.
///
/// # Safety
/// As [`Lanes`]; `row` and `chain` are whole vectors and equally long, the lists of `how` are long enough.
#[inline(always)]
pub(crate) unsafe fn slopes<L: Lanes>(row: &mut [f32], chain: &mut [f32], count: usize, how: &Sloping) {
    // SAFETY: the caller's.
    unsafe {
        let Sloping { rule, slope, .. } = how;
        let (zero, nothing, scale) = (L::splat(0.0), L::splat(f32::NEG_INFINITY), L::splat(rule.scale));
        let inverse = L::splat(how.inverse_temperature);
        let whole = count.next_multiple_of(LANES).min(row.len());
        row[whole..].fill(0.0);
        chain[whole..].fill(0.0);
        for at in (0..whole).step_by(LANES) {
            let here = (count - at).min(LANES);
            let (place, chained) = (row.as_mut_ptr().add(at), chain.as_mut_ptr().add(at));
            let mut l = L::mul(L::load(place), scale);
            let mut by_product = scale;
            if let Some(softcap) = rule.softcap {
                let t = math::tanh::<L>(L::div(l, L::splat(softcap)));
                l = L::mul(L::splat(softcap), t);
                by_product = L::mul(scale, L::sub(L::splat(1.0), L::mul(t, t)));
            }
            let mut absent = 0;
            if let Some(bias) = rule.bias {
                let bias = L::load_part(bias.as_ptr().add(at), here);
                l = L::add(l, bias);
                absent = L::to_mask(L::eq(bias, nothing));
            }
            let gap = L::sub(L::fma(l, inverse, L::splat(-slope.lse.max)), L::splat(slope.lse.log_sum));
            let factor = L::fma(L::splat(slope.per_gap), L::max(gap, L::splat(LOWEST)), L::splat(slope.constant));
            let mut by_logit = L::mul(math::exp::<L>(gap), factor);
            if slope.per_class != 0.0 {
                let share = match how.class_weight {
                    Some(weights) => L::load_part(weights.as_ptr().add(at), here),
                    None => L::splat(1.0),
                };
                by_logit = L::sub(by_logit, L::mul(L::splat(slope.per_class), share));
            }
            if let Some(target) = how.target {
                let gap = L::fma(L::load(target.as_ptr().add(at)), inverse, L::splat(-slope.target_lse.max));
                let gap = L::sub(gap, L::splat(slope.target_lse.log_sum));
                by_logit = L::sub(by_logit, L::mul(L::splat(slope.per_target), math::exp::<L>(gap)));
            }
            let there = L::from_mask(!absent & L::to_mask(L::first(here)));
            L::store(place, L::select(there, by_logit, zero));
            L::store(chained, L::select(there, by_product, zero));
        }
    }
}

/// Adds the slopes by logits to `sums` and makes them slopes by products.
///
/// # Safety
/// As [`Lanes`]; the three are whole vectors and equally long.
#[inline(always)]
pub(crate) unsafe fn chain_on<L: Lanes>(row: &mut [f32], chain: &[f32], sums: &mut [f32]) {
    for at in (0..row.len()).step_by(LANES) {
        // SAFETY: the caller's.
        unsafe {
            let (place, sum) = (row.as_mut_ptr().add(at), sums.as_mut_ptr().add(at));
            let by_logit = L::load(place);
            L::store(sum, L::add(L::load(sum), by_logit));
            // What is absent stays 0 beside an infinite scale.
            L::store(place, L::mul(by_logit, L::load(chain.as_ptr().add(at))));
        }
    }
}
