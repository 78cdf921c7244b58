//! The slopes of what a transformer does to one row by itself.

use super::{Activation, ERF_ABOVE, ERF_BELOW, ERF_END, EXP_HIGH, GELU_CUBE, GELU_SLOPE, load, polynomial, store};
use crate::arch::lanes::{LANES, Lanes};
use crate::arch::math;
use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

/// A row that was normalised, and what is known of the slope of a result by what came of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Normalized<'a> {
    pub x: &'a [f32],
    pub weight: &'a [f32],
    pub eps: f32,
    /// The slope by the normalised row.
    pub slope: &'a [f32],
    /// The slope by x itself, where it is used beside its norm.
    pub beside: Option<&'a [f32]>,
}

impl Normalized<'_> {
    pub(super) fn check(&self, out: &[f32], of_weight: &[f32]) {
        let width = self.x.len();
        assert!(self.weight.len() == width && self.slope.len() == width && out.len() == width);
        assert!(of_weight.len() == width && self.beside.is_none_or(|beside| beside.len() == width));
    }
}

/// A row that went through an activation, and the slope of a result by what came of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Activated<'a> {
    pub x: &'a [f32],
    /// What the activation of x was multiplied with.
    pub up: Option<&'a [f32]>,
    pub activation: Activation,
    pub slope: &'a [f32],
}

impl Activated<'_> {
    pub(super) fn check(&self, out: &[f32], of_up: &[f32]) {
        let width = self.x.len();
        assert!(self.slope.len() == width && out.len() == width);
        assert!(self.up.map_or(of_up.is_empty(), |up| up.len() == width && of_up.len() == width));
    }
}

/// `out` is the slope by x; the slopes by the weight are added to `of_weight`.
///
/// # Safety
/// As [`Lanes`]; the row was checked.
#[inline(always)]
pub(super) unsafe fn normalize<L: Lanes>(row: &Normalized, out: &mut [f32], of_weight: &mut [f32]) {
    let count = row.x.len();
    // SAFETY: the caller's.
    unsafe {
        let (mut squares, mut along) = (L::splat(0.0), L::splat(0.0));
        for at in (0..count).step_by(LANES) {
            let x = load::<L>(row.x, at);
            let pushed = L::mul(load::<L>(row.slope, at), load::<L>(row.weight, at));
            squares = L::fma(x, x, squares);
            along = L::fma(x, pushed, along);
        }
        let shrink = 1.0 / (L::sum(squares) / count as f32 + row.eps).sqrt();
        // Where x points to, its own length pushes back.
        let back = L::splat(-shrink * shrink * (L::sum(along) / count as f32));
        let shrink = L::splat(shrink);
        for at in (0..count).step_by(LANES) {
            let (x, slope) = (load::<L>(row.x, at), load::<L>(row.slope, at));
            let pushed = L::mul(slope, load::<L>(row.weight, at));
            let mut found = L::mul(L::fma(x, back, pushed), shrink);
            if let Some(beside) = row.beside {
                found = L::add(found, load::<L>(beside, at));
            }
            store::<L>(out, at, found);
            store::<L>(of_weight, at, L::fma(slope, L::mul(x, shrink), load::<L>(of_weight, at)));
        }
    }
}

/// `out` is the slope by x, `of_up` that by up.
///
/// # Safety
/// As [`Lanes`]; the row was checked.
#[inline(always)]
pub(super) unsafe fn activate<L: Lanes>(row: &Activated, out: &mut [f32], of_up: &mut [f32]) {
    // SAFETY: the caller's.
    unsafe {
        for at in (0..row.x.len()).step_by(LANES) {
            let (x, slope) = (load::<L>(row.x, at), load::<L>(row.slope, at));
            let (value, own) = activated::<L>(x, row.activation);
            let by_value = match row.up {
                None => slope,
                Some(up) => {
                    store::<L>(of_up, at, L::mul(slope, value));
                    L::mul(slope, load::<L>(up, at))
                }
            };
            store::<L>(out, at, L::mul(by_value, own));
        }
    }
}

/// What the activation makes of x, and its slope.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
unsafe fn activated<L: Lanes>(x: L::F, activation: Activation) -> (L::F, L::F) {
    // SAFETY: the caller's.
    unsafe {
        let (zero, one) = (L::splat(0.0), L::splat(1.0));
        let (inner, own) = match activation {
            Activation::Relu => {
                let on = L::gt(x, zero);
                return (L::select(L::gt(zero, x), zero, x), L::select(on, one, zero));
            }
            Activation::Gelu => return gelu::<L>(x),
            Activation::Silu => (x, one),
            Activation::GeluTanh => {
                let square = L::mul(x, x);
                let cubic = L::fma(L::mul(square, x), L::splat(GELU_CUBE), x);
                let own = L::fma(square, L::splat(3.0 * GELU_CUBE * GELU_SLOPE), L::splat(GELU_SLOPE));
                (L::mul(cubic, L::splat(GELU_SLOPE)), own)
            }
        };
        // x * share, where share = 1 / (1 + exp(-inner)) has the slope share * (1 - share) * own.
        let decay = math::exp::<L>(L::min(L::sub(zero, inner), L::splat(EXP_HIGH)));
        let share = L::div(one, L::add(one, decay));
        let bent = L::mul(L::mul(x, own), L::mul(share, L::sub(one, share)));
        (L::mul(x, share), L::add(share, bent))
    }
}

/// GELU and its slope: the share of a normal distribution below x, and x times its density there.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
unsafe fn gelu<L: Lanes>(x: L::F) -> (L::F, L::F) {
    // SAFETY: the caller's.
    unsafe {
        let (zero, half, one) = (L::splat(0.0), L::splat(0.5), L::splat(1.0));
        let z = L::mul(x, L::splat(FRAC_1_SQRT_2));
        let square = L::mul(z, z);
        let erf = L::div(L::mul(z, polynomial::<L>(square, ERF_ABOVE)), polynomial::<L>(square, ERF_BELOW));
        let outside = L::select(L::gt(x, zero), one, zero);
        let far = L::gt(square, L::splat(ERF_END * ERF_END));
        let below = L::select(far, outside, L::fma(half, erf, half));
        let height = math::exp::<L>(L::sub(zero, L::min(square, L::splat(EXP_HIGH))));
        let density = L::mul(height, L::splat(0.5 * FRAC_1_SQRT_2 * FRAC_2_SQRT_PI));
        (L::mul(x, below), L::fma(x, density, below))
    }
}
