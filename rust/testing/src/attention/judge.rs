//! How far a result of attention may be from the oracle's.

use super::{Case, Result32};
use crate::numbers::unit;
use crate::oracle::attention as oracle;
use farspan_core::Dtype;

/// Holds a result to the rounding of float32 arithmetic, and of the output's type.
pub fn float32(case: &Case, result: &Result32) {
    let (truth, truth_lse) = oracle::attention(&case.oracle);
    let score = float32_score(case, &truth_lse);
    let unit = if case.dtype == Dtype::F32 { 0.0 } else { unit(case.dtype) };
    for (i, (x, y)) in result.output.iter().zip(&truth).enumerate() {
        let error = (f64::from(*x) - y).abs();
        assert!(error <= score * 4.0 + unit * (y.abs() + 1e-4), "output {i}: {x} and {y}, allowed {score}, {case:?}");
    }
    for (i, (x, y)) in result.lse.iter().zip(&truth_lse).enumerate() {
        let same = f64::from(*x) == *y;
        assert!(same || (f64::from(*x) - y).abs() <= 2.0 * score, "lse {i}: {x} and {y}, allowed {score}, {case:?}");
    }
}

/// Holds a result to the roundings of its arithmetic: of weights and output to the type of the values, of turned
/// queries and keys to theirs, of everything else to float32.
pub fn tensor_cores(case: &Case, result: &Result32) {
    let (truth, truth_lse) = oracle::attention(&case.oracle);
    // The weighted mean of the values' sizes: what a relative error of the weights is an error of.
    let mut sizes = case.oracle.clone();
    sizes.value.iter_mut().for_each(|x| *x = x.abs());
    let (sizes, _) = oracle::attention(&sizes);
    let score = tensor_core_score(case, &truth_lse);
    for (i, (x, y)) in result.output.iter().zip(&truth).enumerate() {
        let allowed = sizes[i] * (2.0 * score + 1.5 * unit(case.dtype)) + unit(case.dtype) * y.abs() + 1e-7;
        let error = (f64::from(*x) - y).abs();
        assert!(error <= allowed, "output {i}: {x} and {y}, allowed {allowed}, {case:?}");
    }
    for (i, (x, y)) in result.lse.iter().zip(&truth_lse).enumerate() {
        let same = f64::from(*x) == *y;
        assert!(same || (f64::from(*x) - y).abs() <= score, "lse {i}: {x} and {y}, allowed {score}, {case:?}");
    }
}

/// How far float32 arithmetic may be from a score of a case with this LSE.
pub fn float32_score(case: &Case, lse: &[f64]) -> f64 {
    let spread = case.oracle.query.iter().chain(&case.oracle.key).fold(0.0f32, |top, x| top.max(x.abs()));
    2e-6 * (1.0 + largest_of(lse) + f64::from(spread).powi(2) * case.oracle.shape.head_dim as f64 / 8.0)
}

/// The same where turned queries and keys are rounded to their type.
pub fn tensor_core_score(case: &Case, lse: &[f64]) -> f64 {
    let o = &case.oracle;
    let largest = |x: &[f32]| x.iter().filter(|x| x.is_finite()).fold(0.0f64, |top, x| top.max(f64::from(x.abs())));
    let factor = f64::from(o.rules.scale) * o.query_scale.as_ref().map_or(1.0, |x| largest(x));
    let magnitude = o.rotary.as_ref().map_or(1.0, |rotary| f64::from(rotary.magnitude).powi(2).max(1.0));
    let product = largest(&o.query) * largest(&o.key) * magnitude * o.shape.head_dim as f64 * factor / 3.0;
    let turned = if o.rotary.is_some() { unit(case.dtype) } else { 0.0 };
    2e-6 * (1.0 + largest_of(lse)) + product * (4e-7 + turned)
}

fn largest_of(lse: &[f64]) -> f64 {
    lse.iter().filter(|x| x.is_finite()).fold(0.0, |top, x| top.max(x.abs()))
}
