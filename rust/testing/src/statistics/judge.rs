//! How far statistics may be from the oracle's.

use super::Statistics;
use crate::attention::Case;
use crate::attention::judge::{float32_score, tensor_core_score};
use crate::oracle::statistics::statistics;

/// Holds statistics to the rounding of float32 arithmetic.
pub fn float32(case: &Case, found: &Statistics<f32>) {
    let truth = statistics(&case.oracle);
    within(case, found, &truth, float32_score(case, &truth.lse));
}

/// Holds statistics to the roundings of tensor cores: of turned queries and keys to their type, else to float32.
pub fn tensor_cores(case: &Case, found: &Statistics<f32>) {
    let truth = statistics(&case.oracle);
    within(case, found, &truth, tensor_core_score(case, &truth.lse));
}

/// Holds statistics to an error of the scores: it enters the exponent of each share, which a statistic multiplies with
/// what it is the mean of.
fn within(case: &Case, found: &Statistics<f32>, truth: &Statistics<f64>, score: f64) {
    let o = &case.oracle;
    let widest = o.sequences.iter().map(|s| s.keys + s.queries).max().unwrap_or(0) as f64;
    let entropy = truth.entropy.iter().fold(0.0f64, |top, x| top.max(*x));
    for ((name, x), (_, y)) in found.named().into_iter().zip(truth.named()) {
        let allowed = match name {
            "entropy" => 4.0 * score * (1.0 + entropy),
            "distance" => 2.0 * score * widest,
            _ => 2.0 * score,
        };
        assert_eq!(x.len(), y.len(), "{name}");
        for (i, (x, y)) in x.iter().zip(y).enumerate() {
            let same = f64::from(*x) == *y;
            assert!(
                same || (f64::from(*x) - y).abs() <= allowed,
                "{name} {i}: {x} and {y}, allowed {allowed}, {case:?}"
            );
        }
    }
}
