//! Kernels of what a transformer does to one row by itself: RMS normalisation and activations.

mod gradient;

pub(crate) use gradient::{Activated, Normalized};

use super::lanes::{LANES, Lanes};
use super::math;
use super::portable::Portable;
use std::f32::consts::FRAC_2_SQRT_PI;

/// A function between the two products of an MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x / (1 + exp(-x))`
    Silu,
    /// `x / (1 + exp(-2 u))`, `u = sqrt(2 / pi) * (x + 0.044715 x^3)`: GELU in its tanh form.
    GeluTanh,
    /// `x / 2 * (1 + erf(x / sqrt(2)))`: GELU itself.
    Gelu,
    /// `max(x, 0)`
    Relu,
}

/// `2 sqrt(2 / pi)`.
const GELU_SLOPE: f32 = 1.595_769;

const GELU_CUBE: f32 = 0.044_715;
/// The largest argument that the exponential takes; beyond it the quotient below is 0 to every digit that matters.
const EXP_HIGH: f32 = 88.0;

/// From here on `erf` is 1 to every digit of a float32.
const ERF_END: f32 = 3.925;
/// `erf(z) = z * above(z^2) / below(z^2)` up to there, to 2e-8 of itself. A least-squares fit, lowest power first.
const ERF_ABOVE: [f32; 6] =
    [FRAC_2_SQRT_PI, 0.190_591_9, 0.052_769_024, 0.003_772_463_9, 0.000_284_840_5, 2.046_026_8e-6];
const ERF_BELOW: [f32; 6] = [1.0, 0.502_240_4, 0.114_181_93, 0.014_983_024, 0.001_163_834_9, 3.804_761_2e-5];

/// Gate, up where there is one, which activation, where the results go.
type Activate = unsafe fn(&[f32], Option<&[f32]>, Activation, &mut [f32]);

/// The functions of one machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernels {
    normalize: unsafe fn(&[f32], &[f32], f32, &mut [f32]),
    activate: Activate,
    add: unsafe fn(&[f32], &[f32], &mut [f32]),
    normalize_gradient: unsafe fn(&Normalized, &mut [f32], &mut [f32]),
    activate_gradient: unsafe fn(&Activated, &mut [f32], &mut [f32]),
}

impl Kernels {
    /// `out = x / sqrt(mean(x^2) + eps) * weight`
    pub(crate) fn normalize(&self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        assert!(x.len() == out.len() && x.len() == weight.len());
        // SAFETY: the table is made for a machine that is available; the rows are equally long.
        unsafe { (self.normalize)(x, weight, eps, out) }
    }

    /// `out = activation(x)`, times `up` where there is one.
    pub(crate) fn activate(&self, x: &[f32], up: Option<&[f32]>, activation: Activation, out: &mut [f32]) {
        assert!(x.len() == out.len() && up.is_none_or(|up| up.len() == x.len()));
        // SAFETY: as above.
        unsafe { (self.activate)(x, up, activation, out) }
    }

    /// `out = x + y`
    pub(crate) fn add(&self, x: &[f32], y: &[f32], out: &mut [f32]) {
        assert!(x.len() == out.len() && y.len() == out.len());
        // SAFETY: as above.
        unsafe { (self.add)(x, y, out) }
    }

    /// The slope of a result by a row that was normalised; that by the weight is added to `of_weight`.
    pub(crate) fn normalize_gradient(&self, row: &Normalized, out: &mut [f32], of_weight: &mut [f32]) {
        row.check(out, of_weight);
        // SAFETY: as above.
        unsafe { (self.normalize_gradient)(row, out, of_weight) }
    }

    /// The slope of a result by a row that went through an activation, and that by what it was multiplied with.
    pub(crate) fn activate_gradient(&self, row: &Activated, out: &mut [f32], of_up: &mut [f32]) {
        row.check(out, of_up);
        // SAFETY: as above.
        unsafe { (self.activate_gradient)(row, out, of_up) }
    }
}

/// # Safety
/// As [`Lanes`]; `at <= row.len()`.
#[inline(always)]
unsafe fn load<L: Lanes>(row: &[f32], at: usize) -> L::F {
    let count = row.len() - at;
    // SAFETY: the caller's; what lies behind the row is not read.
    unsafe {
        let start = row.as_ptr().add(at);
        if count < LANES { L::load_part(start, count) } else { L::load(start) }
    }
}

/// # Safety
/// As [`Lanes`]; `at <= row.len()`.
#[inline(always)]
unsafe fn store<L: Lanes>(row: &mut [f32], at: usize, x: L::F) {
    let count = row.len() - at;
    // SAFETY: the caller's; what lies behind the row is not written.
    unsafe {
        let start = row.as_mut_ptr().add(at);
        if count < LANES { L::store_part(start, x, count) } else { L::store(start, x) }
    }
}

/// # Safety
/// As [`Lanes`]; all rows are equally long.
#[inline(always)]
unsafe fn normalize<L: Lanes>(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    // SAFETY: the caller's.
    unsafe {
        let mut squares = L::splat(0.0);
        for at in (0..x.len()).step_by(LANES) {
            let part = load::<L>(x, at);
            squares = L::fma(part, part, squares);
        }
        let scale = L::splat(1.0 / (L::sum(squares) / x.len() as f32 + eps).sqrt());
        for at in (0..x.len()).step_by(LANES) {
            let part = L::mul(L::mul(load::<L>(x, at), scale), load::<L>(weight, at));
            store::<L>(out, at, part);
        }
    }
}

/// # Safety
/// As [`Lanes`]; all rows are equally long.
#[inline(always)]
unsafe fn add<L: Lanes>(x: &[f32], y: &[f32], out: &mut [f32]) {
    // SAFETY: the caller's.
    unsafe {
        for at in (0..x.len()).step_by(LANES) {
            store::<L>(out, at, L::add(load::<L>(x, at), load::<L>(y, at)));
        }
    }
}

/// # Safety
/// As [`Lanes`]; all rows are equally long.
#[inline(always)]
unsafe fn activate<L: Lanes>(x: &[f32], up: Option<&[f32]>, activation: Activation, out: &mut [f32]) {
    // SAFETY: the caller's.
    unsafe {
        for at in (0..x.len()).step_by(LANES) {
            let mut y = activated::<L>(load::<L>(x, at), activation);
            if let Some(up) = up {
                y = L::mul(y, load::<L>(up, at));
            }
            store::<L>(out, at, y);
        }
    }
}

/// # Safety
/// As [`Lanes`].
#[inline(always)]
unsafe fn activated<L: Lanes>(x: L::F, activation: Activation) -> L::F {
    // SAFETY: the caller's.
    unsafe {
        let slope = match activation {
            Activation::Relu => return L::select(L::gt(L::splat(0.0), x), L::splat(0.0), x),
            Activation::Silu => x,
            Activation::Gelu => return gelu::<L>(x),
            Activation::GeluTanh => {
                let cubic = L::fma(L::mul(L::mul(x, x), x), L::splat(GELU_CUBE), x);
                L::mul(cubic, L::splat(GELU_SLOPE))
            }
        };
        let decay = math::exp::<L>(L::min(L::sub(L::splat(0.0), slope), L::splat(EXP_HIGH)));
        L::div(x, L::add(L::splat(1.0), decay))
    }
}

/// # Safety
/// As [`Lanes`].
#[inline(always)]
unsafe fn gelu<L: Lanes>(x: L::F) -> L::F {
    // SAFETY: the caller's.
    unsafe {
        let z = L::mul(x, L::splat(std::f32::consts::FRAC_1_SQRT_2));
        let square = L::mul(z, z);
        let erf = L::div(L::mul(z, polynomial::<L>(square, ERF_ABOVE)), polynomial::<L>(square, ERF_BELOW));
        let half = L::mul(x, L::splat(0.5));
        let inside = L::fma(half, erf, half);
        let outside = L::select(L::gt(L::splat(0.0), x), L::splat(0.0), x);
        L::select(L::gt(square, L::splat(ERF_END * ERF_END)), outside, inside)
    }
}

/// # Safety
/// As [`Lanes`].
#[inline(always)]
unsafe fn polynomial<L: Lanes>(x: L::F, coefficients: [f32; 6]) -> L::F {
    let [rest @ .., last] = coefficients;
    // SAFETY: the caller's.
    unsafe { rest.iter().rev().fold(L::splat(last), |sum, c| L::fma(sum, x, L::splat(*c))) }
}

/// Compiles the kernels for one machine.
macro_rules! compile {
    ($module:ident, $machine:ty $(, $feature:literal)?) => {
        mod $module {
            use super::*;

            $(#[target_feature(enable = $feature)])?
            unsafe fn normalize(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
                // SAFETY: the caller's.
                unsafe { super::normalize::<$machine>(x, weight, eps, out) }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn activate(x: &[f32], up: Option<&[f32]>, activation: Activation, out: &mut [f32]) {
                // SAFETY: the caller's.
                unsafe { super::activate::<$machine>(x, up, activation, out) }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn add(x: &[f32], y: &[f32], out: &mut [f32]) {
                // SAFETY: the caller's.
                unsafe { super::add::<$machine>(x, y, out) }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn normalize_gradient(row: &Normalized, out: &mut [f32], of_weight: &mut [f32]) {
                // SAFETY: the caller's.
                unsafe { gradient::normalize::<$machine>(row, out, of_weight) }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn activate_gradient(row: &Activated, out: &mut [f32], of_up: &mut [f32]) {
                // SAFETY: the caller's.
                unsafe { gradient::activate::<$machine>(row, out, of_up) }
            }

            pub(super) const KERNELS: Kernels =
                Kernels { normalize, activate, add, normalize_gradient, activate_gradient };
        }
    };
}

compile!(portable, Portable);
#[cfg(target_arch = "x86_64")]
compile!(avx2, super::super::avx2::Avx2, "avx2,fma,f16c");
#[cfg(target_arch = "x86_64")]
compile!(avx512, super::super::avx512::Avx512, "avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx2,fma,f16c");

kernels_by_machine!();

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::{MACHINES, Machine};

    /// Calls a kernel that writes two rows.
    type Writes<'a> = &'a dyn Fn(Kernels, &mut [f32], &mut [f32]);

    const ALL: [Activation; 4] = [Activation::Silu, Activation::GeluTanh, Activation::Gelu, Activation::Relu];

    fn numbers(count: usize, spread: f32) -> Vec<f32> {
        let mut state = 12345u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 8_388_608.0 - 1.0
        };
        (0..count).map(|_| next() * spread).collect()
    }

    fn truth(x: f64, activation: Activation) -> f64 {
        match activation {
            Activation::Silu => x / (1.0 + (-x).exp()),
            Activation::GeluTanh => {
                0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
            }
            Activation::Gelu => 0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2)),
            Activation::Relu => x.max(0.0),
        }
    }

    /// By a series whose terms have one sign.
    fn erf(z: f64) -> f64 {
        let (mut term, mut sum) = (z, z);
        for n in 1..400 {
            term *= 2.0 * z * z / f64::from(2 * n + 1);
            sum += term;
        }
        if z.abs() > 6.0 { z.signum() } else { sum * (-z * z).exp() * std::f64::consts::FRAC_2_SQRT_PI }
    }

    #[test]
    fn every_machine_has_the_bits_of_the_portable_one() {
        let definition = kernels(Machine::Portable);
        for machine in MACHINES.into_iter().filter(|m| m.is_available()) {
            for length in [1, 2, 15, 16, 17, 31, 48, 100] {
                let (x, weight) = (numbers(length, 9.0), numbers(length, 2.0));
                let (mut first, mut second) = (vec![0.0; length], vec![0.0; length]);
                definition.normalize(&x, &weight, 1e-6, &mut first);
                kernels(machine).normalize(&x, &weight, 1e-6, &mut second);
                assert_eq!(first, second, "{} rows of {length}", machine.name());
                for activation in ALL {
                    definition.activate(&x, Some(&weight), activation, &mut first);
                    kernels(machine).activate(&x, Some(&weight), activation, &mut second);
                    assert_eq!(first, second, "{} {activation:?} of {length}", machine.name());
                }
                let same = |gradient: Writes| {
                    let [first, second] = [Machine::Portable, machine].map(|machine| {
                        let (mut one, mut two) = (vec![0.0; length], vec![1.0; length]);
                        gradient(kernels(machine), &mut one, &mut two);
                        (one, two)
                    });
                    assert_eq!(first, second, "{} slopes of {length}", machine.name());
                };
                let slope = numbers(length, 1.0);
                let row = Normalized { x: &x, weight: &weight, eps: 1e-6, slope: &slope, beside: Some(&weight) };
                same(&|kernels, one, two| kernels.normalize_gradient(&row, one, two));
                same(&|kernels, one, _| kernels.add(&x, &weight, one));
                for activation in ALL {
                    let row = Activated { x: &x, up: Some(&weight), activation, slope: &slope };
                    same(&|kernels, one, two| kernels.activate_gradient(&row, one, two));
                }
            }
        }
    }

    #[test]
    fn activations_follow_their_formulas() {
        let x = [numbers(4000, 100.0), numbers(4000, 4.0), vec![0.0, -0.0, 1e-30, -1e-30]].concat();
        let mut out = vec![0.0; x.len()];
        for activation in ALL {
            kernels(Machine::Portable).activate(&x, None, activation, &mut out);
            for (x, y) in x.iter().zip(&out) {
                let (true_value, y) = (truth(f64::from(*x), activation), f64::from(*y));
                assert!((y - true_value).abs() <= 1e-6 * true_value.abs() + 1e-6, "{activation:?}({x}) = {y}");
            }
        }
    }

    #[test]
    fn slopes_of_activations_are_those_of_their_formulas() {
        let x = [numbers(4000, 100.0), numbers(4000, 4.0)].concat();
        let (ones, mut out) = (vec![1.0; x.len()], vec![0.0; x.len()]);
        for activation in ALL {
            let row = Activated { x: &x, up: None, activation, slope: &ones };
            kernels(Machine::Portable).activate_gradient(&row, &mut out, &mut []);
            for (x, y) in x.iter().zip(&out) {
                let (x, step) = (f64::from(*x), 1e-5);
                let slope = (truth(x + step, activation) - truth(x - step, activation)) / (2.0 * step);
                let near_kink = activation == Activation::Relu && x.abs() < step;
                assert!((f64::from(*y) - slope).abs() <= 3e-6 || near_kink, "{activation:?}'({x}) = {y}, not {slope}");
            }
        }
    }

    #[test]
    fn slopes_of_a_norm_are_those_of_its_formula() {
        for length in [1, 7, 64, 100] {
            let (x, weight, slope) = (numbers(length, 3.0), numbers(length, 2.0), numbers(length, 1.5));
            let (mut out, mut of_weight) = (vec![0.0; length], vec![0.0; length]);
            let (eps, wide) = (1e-3, |x: &f32| f64::from(*x));
            let row = Normalized { x: &x, weight: &weight, eps: eps as f32, slope: &slope, beside: Some(&slope) };
            kernels(Machine::Portable).normalize_gradient(&row, &mut out, &mut of_weight);
            let result = |x: &[f64], weight: &[f64]| {
                let mean = x.iter().map(|x| x * x).sum::<f64>() / length as f64;
                let normal = x.iter().zip(weight).map(|(x, w)| x / (mean + eps).sqrt() * w);
                normal.zip(x).zip(&slope).map(|((y, x), s)| (y + x) * wide(s)).sum::<f64>()
            };
            let (x, weight): (Vec<_>, Vec<_>) = (x.iter().map(wide).collect(), weight.iter().map(wide).collect());
            let pushed = |numbers: &[f64], i: usize, by: f64| {
                let mut numbers = numbers.to_vec();
                numbers[i] += by;
                numbers
            };
            for i in 0..length {
                let by_x = (result(&pushed(&x, i, 1e-5), &weight) - result(&pushed(&x, i, -1e-5), &weight)) / 2e-5;
                let by_weight = (result(&x, &pushed(&weight, i, 1e-5)) - result(&x, &pushed(&weight, i, -1e-5))) / 2e-5;
                assert!((wide(&out[i]) - by_x).abs() <= 1e-5, "{length}: {} not {by_x}", out[i]);
                assert!((wide(&of_weight[i]) - by_weight).abs() <= 1e-5, "{length}: {} not {by_weight}", of_weight[i]);
            }
        }
    }

    #[test]
    fn nan_stays_nan() {
        for activation in ALL {
            let mut out = [0.0];
            kernels(Machine::Portable).activate(&[f32::NAN], None, activation, &mut out);
            assert!(out[0].is_nan(), "{activation:?}");
        }
    }

    #[test]
    fn normalised_rows_have_mean_square_one() {
        for length in [1, 7, 64, 1000] {
            let (x, mut out) = (numbers(length, 3.0), vec![0.0; length]);
            kernels(Machine::Portable).normalize(&x, &vec![1.0; length], 0.0, &mut out);
            let mean = out.iter().map(|y| f64::from(*y).powi(2)).sum::<f64>() / length as f64;
            assert!((mean - 1.0).abs() < 1e-5, "{length}: {mean}");
        }
    }
}
