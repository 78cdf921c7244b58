//! exp and ln, each one fixed sequence of float32 operations: library functions differ between machines, these do not.

/// log2 e.
pub const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// ln 2 cut to 16 bits: its product with any exponent is exact.
pub const LN_2_HIGH: f32 = 0.693_145_75;
/// ln 2 minus [`LN_2_HIGH`].
pub const LN_2_LOW: f32 = 1.428_606_8e-6;

/// Below this, [`exp`] is 0: the result would not be a normal number.
pub const EXP_MINIMUM: f32 = -87.336_54;
/// P of `exp(r) = 1 + r + r^2 P(r)` on [-ln 2 / 2, ln 2 / 2], highest power first (Cephes).
pub const EXP_COEFFICIENTS: [f32; 6] = [1.987_569_2e-4, 1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];

/// e to the power `x`, for `x` up to 88, within 1e-7 of the result; 0 below [`EXP_MINIMUM`]; NaN stays NaN.
pub fn exp(x: f32) -> f32 {
    let n = (x * LOG2_E).round_ties_even();
    let r = n.mul_add(-LN_2_LOW, n.mul_add(-LN_2_HIGH, x));
    let mut p = EXP_COEFFICIENTS[0];
    for &coefficient in &EXP_COEFFICIENTS[1..] {
        p = p.mul_add(r, coefficient);
    }
    let power = p.mul_add(r * r, r) + 1.0;
    let scaled = power * f32::from_bits((n as i32).wrapping_add(127).cast_unsigned() << 23);
    if EXP_MINIMUM > x { 0.0 } else { scaled }
}

/// The bits of 2/3, the smallest reduced argument of [`ln`].
pub const LN_SMALLEST: u32 = 0x3f2a_aaab;
/// `bits + LN_OFFSET` carries into the exponent exactly where the mantissa reaches 4/3, so the reduced argument lies in
/// [2/3, 4/3) and the logarithm of a number near 1 keeps its relative accuracy.
pub const LN_OFFSET: u32 = 0x3f80_0000 - LN_SMALLEST;
/// The mantissa bits of a float32.
pub const MANTISSA: u32 = 0x007f_ffff;
/// Q of `ln(1 + f) = f - f^2 / 2 + f^3 Q(f)` on [-1/3, 1/3], highest power first; relative error 5e-9 before rounding.
pub const LN_COEFFICIENTS: [f32; 8] =
    [-0.128_916_79, 0.139_844_4, -0.121_842_62, 0.140_058_68, -0.166_804_88, 0.200_104_06, -0.249_997_97, 0.333_332_15];

/// Natural logarithm of a positive normal number, within 1.5 units in the last place.
///
/// Zero, subnormal, negative and non-finite arguments are outside its domain: callers exclude them.
pub fn ln(x: f32) -> f32 {
    let shifted = x.to_bits().wrapping_add(LN_OFFSET);
    let exponent = (shifted >> 23) as f32 - 127.0;
    let f = f32::from_bits((shifted & MANTISSA).wrapping_add(LN_SMALLEST)) - 1.0;
    let mut q = LN_COEFFICIENTS[0];
    for &coefficient in &LN_COEFFICIENTS[1..] {
        q = q.mul_add(f, coefficient);
    }
    let near = (f * f).mul_add(q.mul_add(f, -0.5), f);
    exponent.mul_add(LN_2_HIGH, exponent.mul_add(LN_2_LOW, near))
}

#[cfg(test)]
mod tests {
    use super::{exp, ln};

    /// The error relative to the result, in units of float32's epsilon.
    fn units(got: f32, truth: f64) -> f64 {
        (f64::from(got) / truth - 1.0).abs() / f64::from(f32::EPSILON)
    }

    #[test]
    fn ln_is_within_its_stated_error() {
        for step in 0..4_000_000u32 {
            let x = f32::from_bits(0x0080_0000 + step * 531);
            let truth = f64::from(x).ln();
            assert!(units(ln(x), truth) < 1.5, "ln({x}) = {}, not {truth}", ln(x));
        }
    }

    #[test]
    fn ln_keeps_relative_accuracy_around_one() {
        for step in 1..2_000_000u32 {
            for x in [f32::from_bits(0x3f80_0000 + step), f32::from_bits(0x3f80_0000 - step)] {
                let truth = f64::from(x).ln();
                assert!(units(ln(x), truth) < 1.5, "ln({x}) = {}, not {truth}", ln(x));
            }
        }
        assert_eq!(ln(1.0), 0.0);
    }

    #[test]
    fn exp_is_within_its_stated_error() {
        for step in 0..4_000_000 {
            let x = (-87.3 + f64::from(step) * 4.3e-5) as f32;
            assert!((f64::from(exp(x)) / f64::from(x).exp() - 1.0).abs() < 1e-7, "exp({x}) = {}", exp(x));
        }
        assert_eq!((exp(0.0), exp(-88.0), exp(-1e30), exp(f32::NEG_INFINITY)), (1.0, 0.0, 0.0, 0.0));
        assert!(exp(f32::NAN).is_nan());
    }
}
