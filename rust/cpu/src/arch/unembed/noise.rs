//! Noise, version 1, over lanes: the sequence of `farspan_core::noise`, operation by operation.

use crate::arch::lanes::{LANES, Lanes};
use farspan_core::elementary::{LN_2_HIGH, LN_2_LOW, LN_COEFFICIENTS, LN_OFFSET, LN_SMALLEST, MANTISSA};
use farspan_core::merge::Best;
use farspan_core::noise::{
    BOUND_OFFSET, BOUND_SLOPE, DOMAIN, MULTIPLIERS, NoiseKey, ROUNDS, TWO_TO_32, TWO_TO_MINUS_64, WEYL,
};

/// Tokens whose noise one step computes: each Philox call serves an even token and the odd one behind it.
pub(crate) const PAIRED: usize = 2 * LANES;

/// `farspan_core::elementary::ln` of each lane.
#[inline(always)]
unsafe fn ln<L: Lanes>(x: L::F) -> L::F {
    // SAFETY: of the caller.
    unsafe {
        let shifted = L::add_u(L::bits(x), L::splat_u(LN_OFFSET));
        let exponent = L::sub(L::from_int(L::shr::<23>(shifted)), L::splat(127.0));
        let mantissa = L::add_u(L::and_u(shifted, L::splat_u(MANTISSA)), L::splat_u(LN_SMALLEST));
        let f = L::sub(L::from_bits(mantissa), L::splat(1.0));
        let mut q = L::splat(LN_COEFFICIENTS[0]);
        for &coefficient in &LN_COEFFICIENTS[1..] {
            q = L::fma(q, f, L::splat(coefficient));
        }
        let near = L::fma(L::mul(f, f), L::fma(q, f, L::splat(-0.5)), f);
        L::fma(exponent, L::splat(LN_2_HIGH), L::fma(exponent, L::splat(LN_2_LOW), near))
    }
}

/// `farspan_core::noise::gumbel` of each lane.
#[inline(always)]
unsafe fn gumbel<L: Lanes>(high: L::U, low: L::U) -> L::F {
    // SAFETY: of the caller.
    unsafe {
        let (zero, one) = (L::splat_u(0), L::splat(1.0));
        let lower = L::eq_u(L::shr::<31>(high), zero);
        let flip = L::select_u(lower, zero, L::splat_u(u32::MAX));
        let (high, low) = (L::xor_u(high, flip), L::xor_u(low, flip));
        let last = L::add(L::from_int(L::and_u(low, L::splat_u(0xffff))), L::splat(0.5));
        let tail = L::fma(L::from_int(L::shr::<16>(low)), L::splat(65536.0), last);
        let part = L::mul(L::fma(L::from_int(high), L::splat(TWO_TO_32), tail), L::splat(TWO_TO_MINUS_64));
        let rest = L::sub(one, part);
        let argument = L::select(lower, rest, part);
        let dropped = L::select(lower, L::sub(part, L::sub(one, rest)), L::splat(0.0));
        let exponential = L::sub(L::div(dropped, argument), ln::<L>(argument));
        L::sub(L::splat(-0.0), ln::<L>(exponential))
    }
}

/// `farspan_core::noise::noise_bound` of each lane.
#[inline(always)]
unsafe fn noise_bound<L: Lanes>(high: L::U) -> L::F {
    // SAFETY: of the caller.
    unsafe {
        let bits = L::bits(L::from_int(L::shr::<8>(high)));
        L::fma(L::from_int(bits), L::splat(BOUND_SLOPE), L::splat(BOUND_OFFSET))
    }
}

/// Philox4x32-10 of sixteen counters `(counter + lane, position, stream, DOMAIN)`.
#[inline(always)]
unsafe fn philox<L: Lanes>(counter: L::U, key: &NoiseKey) -> [L::U; 4] {
    // SAFETY: of the caller.
    unsafe {
        let mut c = [counter, L::splat_u(key.position), L::splat_u(key.stream), L::splat_u(DOMAIN)];
        let [mut k0, mut k1] = [key.seed as u32, (key.seed >> 32) as u32];
        for _ in 0..ROUNDS {
            let (a_high, a_low) = L::mul_wide(c[0], MULTIPLIERS[0]);
            let (b_high, b_low) = L::mul_wide(c[2], MULTIPLIERS[1]);
            c = [
                L::xor_u(L::xor_u(b_high, c[1]), L::splat_u(k0)),
                b_low,
                L::xor_u(L::xor_u(a_high, c[3]), L::splat_u(k1)),
                a_low,
            ];
            (k0, k1) = (k0.wrapping_add(WEYL[0]), k1.wrapping_add(WEYL[1]));
        }
        c
    }
}

#[inline(always)]
unsafe fn counters<L: Lanes>(first_token: u32) -> L::U {
    const STEPS: [u32; LANES] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
    // SAFETY: of the caller; the array has sixteen entries.
    unsafe { L::add_u(L::splat_u(first_token >> 1), L::load_u(STEPS.as_ptr())) }
}

/// The noise of the tokens from `first_token`, which is even. `out` has a multiple of [`PAIRED`] entries.
#[inline(always)]
pub(crate) unsafe fn noise<L: Lanes>(first_token: u32, key: &NoiseKey, out: &mut [f32]) {
    for (i, pair) in out.chunks_exact_mut(PAIRED).enumerate() {
        // SAFETY: of the caller; a chunk has room for two vectors.
        unsafe {
            let x = philox::<L>(counters::<L>(first_token + (i * PAIRED) as u32), key);
            let high = L::interleave_u(x[1], x[3]);
            let low = L::interleave_u(x[0], x[2]);
            L::store(pair.as_mut_ptr(), gumbel::<L>(high.0, low.0));
            L::store(pair.as_mut_ptr().add(LANES), gumbel::<L>(high.1, low.1));
        }
    }
}

/// Lets each token of `logits` try to beat `best` with `logit * inverse_temperature + noise`.
///
/// The exact noise is evaluated only where a bound on it leaves the token a chance, so the result is that of evaluating
/// it everywhere. `first_token` is even, the length of `logits` a multiple of [`PAIRED`]; -inf entries are no tokens.
#[inline(always)]
pub(crate) unsafe fn best_perturbed<L: Lanes>(
    logits: &[f32],
    first_token: u32,
    key: &NoiseKey,
    inverse_temperature: f32,
    best: &mut Best,
) {
    // SAFETY: of the caller; every load is of a whole vector inside a chunk.
    unsafe {
        let inverse = L::splat(inverse_temperature);
        for (i, pair) in logits.chunks_exact(PAIRED).enumerate() {
            let token = first_token + (i * PAIRED) as u32;
            let x = philox::<L>(counters::<L>(token), key);
            let high = L::interleave_u(x[1], x[3]);
            let (l0, l1) = (L::load(pair.as_ptr()), L::load(pair.as_ptr().add(LANES)));
            let reach0 = L::fma(l0, inverse, noise_bound::<L>(high.0));
            let reach1 = L::fma(l1, inverse, noise_bound::<L>(high.1));
            let bar = L::splat(best.score);
            let chance0 = L::to_mask(L::ge(reach0, bar));
            let chance1 = L::to_mask(L::ge(reach1, bar));
            if chance0 | chance1 != 0 {
                let low = L::interleave_u(x[0], x[2]);
                let mut noise = [0.0; PAIRED];
                L::store(noise.as_mut_ptr(), gumbel::<L>(high.0, low.0));
                L::store(noise.as_mut_ptr().add(LANES), gumbel::<L>(high.1, low.1));
                let chances = u32::from(chance0) | u32::from(chance1) << LANES;
                try_each(chances, pair, inverse_temperature, &noise, token, best);
            }
        }
    }
}

/// Lets the tokens named by `chances` compete. Rare enough to stay out of the hot loop.
#[cold]
fn try_each(mut chances: u32, logits: &[f32], inverse: f32, noise: &[f32; PAIRED], first_token: u32, best: &mut Best) {
    while chances != 0 {
        let lane = chances.trailing_zeros();
        chances &= chances - 1;
        let logit = logits[lane as usize];
        let candidate = Best::perturbed(logit, inverse, noise[lane as usize], first_token + lane);
        if logit > f32::NEG_INFINITY && candidate.beats(best) {
            *best = candidate;
        }
    }
}
