//! Losses and their slopes as a schoolbook would have them: all logits of a row in float64.

use super::unembed::{entropy, lse};
use farspan_core::loss::CrossEntropy;

/// What a row loses by each of its logits, and its loss, for any function of the logits: the slope is what the
/// schoolbook says it is, not what a difference quotient would.
#[derive(Clone, Debug)]
pub struct OfRow {
    pub loss: f64,
    /// One for each token that exists.
    pub slopes: Vec<f64>,
}

fn softmax(logits: &[f64]) -> Vec<f64> {
    let lse = lse(logits);
    logits.iter().map(|l| (l - lse).exp()).collect()
}

/// The cross-entropy of a counted row, without any reduction.
pub fn cross_entropy(logits: &[f64], settings: &CrossEntropy, row: usize) -> OfRow {
    let class = |token: usize| settings.class_weight.map_or(1.0, |weights| f64::from(weights[token]));
    let (target, count) = (settings.targets[row] as usize, logits.len() as f64);
    let (lse, p) = (lse(logits), softmax(logits));
    let share = |token: usize| {
        let own = if token == target { (1.0 - settings.label_smoothing) * class(target) } else { 0.0 };
        own + settings.label_smoothing / count * class(token)
    };
    let total: f64 = (0..logits.len()).map(share).sum();
    let z = settings.z_loss * class(target);
    let wanted = (0..logits.len()).filter(|&token| share(token) > 0.0);
    OfRow {
        loss: wanted.map(|token| share(token) * (lse - logits[token])).sum::<f64>() + z * lse * lse,
        slopes: p.iter().enumerate().map(|(token, p)| p * (total + 2.0 * z * lse) - share(token)).collect(),
    }
}

/// `by[0] * logprob + by[1] * entropy + by[2] * lse`.
pub fn score(logits: &[f64], target: usize, by: [f64; 3]) -> OfRow {
    let (all, p, entropy) = (lse(logits), softmax(logits), entropy(logits));
    let slope = |(token, p): (usize, &f64)| {
        let logprob = if token == target { 1.0 } else { 0.0 } - p;
        let surprise = if *p > 0.0 { -p * (p.ln() + entropy) } else { 0.0 };
        by[0] * logprob + by[1] * surprise + by[2] * p
    };
    OfRow {
        loss: by[0] * (logits[target] - all) + by[1] * entropy + by[2] * all,
        slopes: p.iter().enumerate().map(slope).collect(),
    }
}

/// `KL(softmax(target / temperature) || softmax(logits / temperature))`.
pub fn divergence(logits: &[f64], target: &[f64], temperature: f64) -> OfRow {
    let [own, other] = [logits, target].map(|l| l.iter().map(|l| l / temperature).collect::<Vec<_>>());
    let (own_lse, other_lse) = (lse(&own), lse(&other));
    let (p, q) = (softmax(&own), softmax(&other));
    let gap = |token: usize| (other[token] - other_lse) - (own[token] - own_lse);
    let terms = (0..own.len()).filter(|&token| other[token] > f64::NEG_INFINITY);
    OfRow {
        loss: terms.map(|token| q[token] * gap(token)).sum(),
        slopes: p.iter().zip(&q).map(|(p, q)| (p - q) / temperature).collect(),
    }
}
