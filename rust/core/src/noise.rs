//! Noise, version 1: the Gumbel number of a token as a function of (seed, stream, position, token id) and nothing else.
//!
//! ```text
//! x0 x1 x2 x3 = Philox4x32-10(counter = (token >> 1, position, stream, 0), key = (seed low word, seed high word))
//! r           = token even: x0 + 2^32 x1, token odd: x2 + 2^32 x3
//! t           = (r + 0.5) / 2^64          in the open interval (0, 1)
//! noise       = -log(-log1p(-t))          standard Gumbel, from -3.8 to 65 ln 2 = 45.05
//! ```
//!
//! The map is a public, versioned contract. Its two logarithms are evaluated in float32 by the fixed sequence in
//! [`gumbel`], which the vector backends repeat, so every backend has the very same bits. Sixty-four random bits put
//! the largest noise at 45: a token 40 below the head still comes as often as it should.
//!
//! Philox: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).

use crate::elementary::ln;

/// Rounds of Philox4x32-10.
pub const ROUNDS: u32 = 10;
/// The two multipliers of Philox4x32.
pub const MULTIPLIERS: [u32; 2] = [0xd251_1f53, 0xcd9e_8d57];
/// What each round adds to the two key words.
pub const WEYL: [u32; 2] = [0x9e37_79b9, 0xbb67_ae85];
/// The last counter word of this noise; other values are reserved for other uses of the same settings.
pub const DOMAIN: u32 = 0;

/// Philox4x32-10: four random words of a counter under a key.
pub fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let [mut k0, mut k1] = key;
    for _ in 0..ROUNDS {
        let a = u64::from(MULTIPLIERS[0]) * u64::from(c0);
        let b = u64::from(MULTIPLIERS[1]) * u64::from(c2);
        [c0, c1, c2, c3] = [(b >> 32) as u32 ^ c1 ^ k0, b as u32, (a >> 32) as u32 ^ c3 ^ k1, a as u32];
        (k0, k1) = (k0.wrapping_add(WEYL[0]), k1.wrapping_add(WEYL[1]));
    }
    [c0, c1, c2, c3]
}

/// `-log(-log1p(-t))` with `t = (r + 0.5) / 2^64`, `r = low + 2^32 high`, within 2e-6 of the exact value.
///
/// Above 32 (once in 10^14 draws) half a unit of the float32 result is 1.9e-6 already; below 4 the error is under 5e-7.
pub fn gumbel(high: u32, low: u32) -> f32 {
    // In the upper half of the interval the complement 1 - t is the number that a float32 can hold exactly enough.
    let upper = high >> 31 != 0;
    let (high, low) = if upper { (!high, !low) } else { (high, low) };
    // (r + 0.5) / 2^64 or its complement, relative error 2^-23.5: at most 1/2.
    let tail = ((low >> 16) as f32).mul_add(65536.0, (low & 0xffff) as f32 + 0.5);
    let part = (high as f32).mul_add(TWO_TO_32, tail) * TWO_TO_MINUS_64;
    // -log(1 - t) loses a small t in 1 - t; what the subtraction dropped comes back as a correction.
    let rest = 1.0 - part;
    let (argument, dropped) = if upper { (part, 0.0) } else { (rest, part - (1.0 - rest)) };
    let exponential = dropped / argument - ln(argument);
    -ln(exponential)
}

/// 2^32.
pub const TWO_TO_32: f32 = 4_294_967_296.0;
/// 2^-64.
pub const TWO_TO_MINUS_64: f32 = 1.0 / (TWO_TO_32 * TWO_TO_32);

/// A line above the noise in the coordinates of the bits of a float32: see [`noise_bound`].
pub const BOUND_SLOPE: f32 = -8.262_958e-8;
/// The bound at zero bits: `(127 + 24) ln 2` and a margin of 1e-3 for the roundings of the bound and of the noise.
pub const BOUND_OFFSET: f32 = 104.667_22;

/// A number that [`gumbel`]`(high, _)` never exceeds, for the price of two conversions and one fma.
///
/// `-log1p(-t) >= t` gives `noise <= -ln t`; t is at least its leading 24 bits; and the bits of a float32 read as an
/// integer are 2^23 (127 + log2) or less. At most 0.07 above the noise where the noise is large.
pub fn noise_bound(high: u32) -> f32 {
    let bits = ((high >> 8) as f32).to_bits();
    (bits as i32 as f32).mul_add(BOUND_SLOPE, BOUND_OFFSET)
}

/// What the noise of a row depends on beside the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NoiseKey {
    /// Chosen by the user.
    pub seed: u64,
    /// Which of several sequences of one seed.
    pub stream: u32,
    /// The index in its sequence of the token to be drawn.
    pub position: u32,
}

/// The noise that token `token` gets.
pub fn noise(key: &NoiseKey, token: u32) -> f32 {
    let words = philox([token >> 1, key.position, key.stream, DOMAIN], [key.seed as u32, (key.seed >> 32) as u32]);
    let [low, high] = if token & 1 == 0 { [words[0], words[1]] } else { [words[2], words[3]] };
    gumbel(high, low)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition in float64; where t is near 1 its complement is taken in integers.
    fn truth(high: u32, low: u32) -> f64 {
        let r = u64::from(high) << 32 | u64::from(low);
        let scale = 2f64.powi(-64);
        let exponential =
            if high >> 31 == 0 { -(-(r as f64 + 0.5) * scale).ln_1p() } else { -((!r as f64 + 0.5) * scale).ln() };
        -exponential.ln()
    }

    /// Numbers of every magnitude from both ends of the interval, and some from its middle.
    fn numbers() -> impl Iterator<Item = (u32, u32)> {
        (0..3_000_000u32).flat_map(|i| {
            let [a, b, c, _] = philox([i, 0, 0, 7], [1, 2]);
            let r = (u64::from(a) << 32 | u64::from(b)) >> (c % 64);
            [r, !r].map(|r| ((r >> 32) as u32, r as u32))
        })
    }

    #[test]
    fn philox_gives_the_published_answers() {
        let cases = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, words) in cases {
            assert_eq!(philox(counter, key), words);
        }
    }

    #[test]
    fn the_noise_is_within_its_stated_error() {
        for (high, low) in numbers() {
            let (got, truth) = (f64::from(gumbel(high, low)), truth(high, low));
            let allowed = if truth < 4.0 { 5e-7 } else { 2e-6 };
            assert!((got - truth).abs() < allowed, "gumbel({high:#x}, {low:#x}) = {got}, not {truth}");
        }
    }

    #[test]
    fn the_ends_of_the_interval_are_finite() {
        assert!((f64::from(gumbel(0, 0)) - 65.0 * 2f64.ln()).abs() < 2e-6);
        assert!((f64::from(gumbel(u32::MAX, u32::MAX)) + (65.0 * 2f64.ln()).ln()).abs() < 5e-7);
    }

    #[test]
    fn the_bound_holds_and_is_tight_where_the_noise_is_large() {
        for (high, low) in numbers() {
            let (noise, bound) = (gumbel(high, low), noise_bound(high));
            assert!(noise <= bound, "the noise of ({high:#x}, {low:#x}) is {noise}, above its bound {bound}");
            assert!(!(4.0..9.0).contains(&noise) || bound < noise + 0.1, "the bound {bound} of {noise} is loose");
        }
    }

    #[test]
    fn even_and_odd_tokens_share_a_counter() {
        let words = philox([21, 5, 9, 0], [3, 4]);
        let key = NoiseKey { seed: 4 << 32 | 3, stream: 9, position: 5 };
        assert_eq!(noise(&key, 42), gumbel(words[1], words[0]));
        assert_eq!(noise(&key, 43), gumbel(words[3], words[2]));
    }
}
