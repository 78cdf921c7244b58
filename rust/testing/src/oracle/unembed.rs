//! The unembedding as a schoolbook would have it: all logits in float64, then what is asked of them.

use farspan_core::noise::{DOMAIN, NoiseKey, philox};
use farspan_core::unembed::Rules;

/// The logits of one row over the tokens that exist; `weight` has a row for each token of the vocabulary.
pub fn logits(hidden: &[f64], weight: &[Vec<f64>], rules: &Rules<&[f32]>) -> Vec<f64> {
    let valid = rules.valid_vocab.unwrap_or(weight.len());
    weight[..valid].iter().enumerate().map(|(token, weight)| logit(hidden, weight, token, rules)).collect()
}

fn logit(hidden: &[f64], weight: &[f64], token: usize, rules: &Rules<&[f32]>) -> f64 {
    let dot: f64 = hidden.iter().zip(weight).map(|(h, w)| h * w).sum();
    let mut logit = f64::from(rules.scale) * dot;
    if let Some(softcap) = rules.softcap.map(f64::from) {
        logit = softcap * (logit / softcap).tanh();
    }
    match rules.bias.map(|bias| bias[token]) {
        None => logit,
        Some(f32::NEG_INFINITY) => f64::NEG_INFINITY,
        Some(bias) => logit + f64::from(bias),
    }
}

/// `log(sum(exp(l)))`.
pub fn lse(logits: &[f64]) -> f64 {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if max == f64::NEG_INFINITY {
        return max;
    }
    max + logits.iter().map(|l| (l - max).exp()).sum::<f64>().ln()
}

/// Entropy of `softmax(l)` in nats.
pub fn entropy(logits: &[f64]) -> f64 {
    let lse = lse(logits);
    logits.iter().filter(|l| **l > f64::NEG_INFINITY).map(|l| (lse - l) * (l - lse).exp()).sum()
}

/// The noise of a token. Within 1e-15 of the definition, but for the half of the interval next to 1, where t itself is
/// rounded to float64.
pub fn noise(key: &NoiseKey, token: u32) -> f64 {
    let words = philox([token >> 1, key.position, key.stream, DOMAIN], [key.seed as u32, (key.seed >> 32) as u32]);
    let [low, high] = if token & 1 == 0 { [words[0], words[1]] } else { [words[2], words[3]] };
    let t = ((u64::from(high) << 32 | u64::from(low)) as f64 + 0.5) / 2f64.powi(64);
    -(-(-t).ln_1p()).ln()
}

/// The place of the largest score, ties to the lowest id, and by how much it won.
pub fn best(scores: &[f64]) -> (usize, f64) {
    let first = (0..scores.len()).fold(0, |best, i| if scores[i] > scores[best] { i } else { best });
    let rival =
        scores.iter().enumerate().filter(|(i, _)| *i != first).map(|(_, s)| *s).fold(f64::NEG_INFINITY, f64::max);
    (first, scores[first] - rival)
}

/// `l / temperature + noise`, or the logits themselves at temperature 0.
pub fn perturbed(logits: &[f64], key: &NoiseKey, temperature: f64) -> Vec<f64> {
    if temperature == 0.0 {
        return logits.to_vec();
    }
    logits.iter().zip(0..).map(|(l, token)| l / temperature + noise(key, token)).collect()
}

/// All tokens by falling logit, equal ones by id.
pub fn ranking(logits: &[f64]) -> Vec<usize> {
    let mut tokens: Vec<usize> = (0..logits.len()).collect();
    tokens.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    tokens
}
