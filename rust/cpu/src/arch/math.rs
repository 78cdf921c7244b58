//! Exponential and hyperbolic tangent as fixed sequences of operations over sixteen lanes.

use super::lanes::Lanes;

/// Below this argument [`exp`] gives 0: the smallest results would be denormal.
const EXP_LOW: f32 = -86.5;
const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// ln 2 in two parts; the first has so few bits that its products with exponents are exact.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;
/// Minimax on half an octave on either side of 0 (Cephes, `expf`), highest power first.
const EXP: [f32; 6] = [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_66, 0.5];
/// Odd part of tanh below [`TANH_POLYNOMIAL`] (Cephes, `tanhf`), highest power first.
const TANH: [f32; 5] = [-5.704_988_7e-3, 2.063_909e-2, -5.373_971_6e-2, 0.133_314_42, -0.333_332_8];
const TANH_POLYNOMIAL: f32 = 0.625;
/// From here on tanh is 1 in float32.
const TANH_ONE: f32 = 9.1;

/// `e ** x` for x up to 88, within 2 units in the last place; exactly 1 at 0, 0 below -86.5, NaN for NaN.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
pub(crate) unsafe fn exp<L: Lanes>(x: L::F) -> L::F {
    // SAFETY: the caller's.
    unsafe {
        let power = L::round(L::mul(x, L::splat(LOG2_E)));
        let r = L::fma(power, L::splat(-LN2_HIGH), x);
        let r = L::fma(power, L::splat(-LN2_LOW), r);
        let mut p = L::splat(EXP[0]);
        for c in &EXP[1..] {
            p = L::fma(p, r, L::splat(*c));
        }
        let y = L::add(L::fma(p, L::mul(r, r), r), L::splat(1.0));
        let y = L::from_bits(L::add_u(L::bits(y), L::shl::<23>(L::to_int(power))));
        L::select(L::gt(L::splat(EXP_LOW), x), L::splat(0.0), y)
    }
}

/// Hyperbolic tangent, within 3 units in the last place, NaN for NaN.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
pub(crate) unsafe fn tanh<L: Lanes>(x: L::F) -> L::F {
    // SAFETY: the caller's.
    unsafe {
        let sign = L::and_u(L::bits(x), L::splat_u(0x8000_0000));
        let size = L::from_bits(L::xor_u(L::bits(x), sign));
        let square = L::mul(x, x);
        let mut p = L::splat(TANH[0]);
        for c in &TANH[1..] {
            p = L::fma(p, square, L::splat(*c));
        }
        let small = L::fma(L::mul(p, square), x, x);
        let bounded = L::select(L::gt(size, L::splat(TANH_ONE)), L::splat(TANH_ONE), size);
        let e = exp::<L>(L::add(bounded, bounded));
        let large = L::sub(L::splat(1.0), L::div(L::splat(2.0), L::add(e, L::splat(1.0))));
        let large = L::from_bits(L::or_u(L::bits(large), sign));
        L::select(L::gt(L::splat(TANH_POLYNOMIAL), size), small, large)
    }
}

#[cfg(test)]
mod tests {
    use super::super::lanes::LANES;
    use super::super::portable::Portable;
    use super::*;

    fn worst(f: impl Fn([f32; LANES]) -> [f32; LANES], truth: impl Fn(f64) -> f64, from: f32, to: f32) -> f64 {
        let count = 200_000;
        let mut worst = 0.0f64;
        for i in (0..count).step_by(LANES) {
            let x: [f32; LANES] = std::array::from_fn(|j| from + (to - from) * (i + j) as f32 / count as f32);
            for (y, x) in f(x).into_iter().zip(x) {
                let true_value = truth(f64::from(x));
                let unit = f64::from((true_value as f32).abs().next_up()) - f64::from((true_value as f32).abs());
                worst = worst.max((f64::from(y) - true_value).abs() / unit);
            }
        }
        worst
    }

    #[test]
    fn exponential() {
        // SAFETY: the portable lanes run everywhere.
        let f = |x| unsafe { exp::<Portable>(x) };
        assert!(worst(f, f64::exp, -86.0, 88.0) < 2.0);
        assert!(worst(f, f64::exp, -1.0, 1.0) < 2.0);
        assert_eq!(f([0.0; LANES]), [1.0; LANES]);
        assert_eq!(f([f32::NEG_INFINITY; LANES]), [0.0; LANES]);
        assert_eq!(f([-1e30; LANES]), [0.0; LANES]);
        assert!(f([f32::NAN; LANES])[0].is_nan());
    }

    #[test]
    fn hyperbolic_tangent() {
        // SAFETY: the portable lanes run everywhere.
        let f = |x| unsafe { tanh::<Portable>(x) };
        assert!(worst(f, f64::tanh, -12.0, 12.0) < 3.0);
        assert!(worst(f, f64::tanh, -0.7, 0.7) < 3.0);
        assert_eq!(f([f32::INFINITY; LANES]), [1.0; LANES]);
        assert_eq!(f([f32::NEG_INFINITY; LANES]), [-1.0; LANES]);
        assert!(f([f32::NAN; LANES])[0].is_nan());
    }
}
