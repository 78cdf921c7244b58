//! The Kullback-Leibler divergence of a row's distribution from a target's, from sums over parts of the vocabulary.

use super::{Lse, Slope};
use crate::elementary::{exp, ln};
use crate::error::{Error, Result};

/// That a divergence at this temperature can be computed.
pub fn check_temperature(temperature: f32) -> Result<()> {
    match temperature.is_finite() && temperature > 0.0 && temperature.recip().is_finite() {
        true => Ok(()),
        false => Err(Error::argument("temperature", "a finite number above 0", temperature)),
    }
}

/// What an argument of a problem is called where the problem is a divergence's target.
pub fn target_name(argument: &'static str) -> &'static str {
    match argument {
        "hidden" => "target_hidden",
        "weight" => "target_weight",
        "bias" => "target_bias",
        other => other,
    }
}

/// Softmax sums of two distributions over the same tokens, each relative to its largest logit so far. Logits are over
/// the temperature.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pair {
    /// The largest logit of the model; -inf of nothing.
    pub max: f32,
    /// `sum(exp(l - max))`
    pub sum: f32,
    /// The largest logit of the target.
    pub target_max: f32,
    /// `sum(exp(t - target_max))`
    pub target_sum: f32,
    /// `sum(exp(t - target_max) * (t - l))` over the tokens that both allow.
    pub cross: f32,
    /// Whether the model bans a token that the target allows.
    pub impossible: bool,
}

impl Pair {
    /// Of no token.
    pub const NOTHING: Pair = Pair {
        max: f32::NEG_INFINITY,
        sum: 0.0,
        target_max: f32::NEG_INFINITY,
        target_sum: 0.0,
        cross: 0.0,
        impossible: false,
    };

    /// The sums of this part and of the next one. NaN stays.
    pub fn merge(self, next: Pair) -> Pair {
        let (max, target_max) = (larger(self.max, next.max), larger(self.target_max, next.target_max));
        let [own, others] = [self, next].map(|part| (step(part.max, max), step(part.target_max, target_max)));
        Pair {
            max,
            sum: self.sum * own.0 + next.sum * others.0,
            target_max,
            target_sum: self.target_sum * own.1 + next.target_sum * others.1,
            cross: self.cross * own.1 + next.cross * others.1,
            impossible: self.impossible || next.impossible,
        }
    }

    /// `log(sum(exp(l)))` of the model.
    pub fn lse(&self) -> Lse {
        Lse::new(self.max, self.sum)
    }

    /// The same of the target.
    pub fn target_lse(&self) -> Lse {
        Lse::new(self.target_max, self.target_sum)
    }

    /// `KL(target || model)`, never below 0; NaN where a logit is, or where either allows nothing.
    pub fn divergence(&self) -> f32 {
        let all = [self.max, self.target_max, self.cross];
        if all.iter().any(|x| !x.is_finite()) || self.sum.is_nan() || self.target_sum.is_nan() {
            return f32::NAN;
        }
        if self.impossible {
            return f32::INFINITY;
        }
        // The difference of the two lse, formed from what is exact where the sides are nearly equal.
        let difference = f64::from(self.max) - f64::from(self.target_max) + f64::from(ln(self.sum / self.target_sum));
        ((f64::from(self.cross) / f64::from(self.target_sum) + difference) as f32).max(0.0)
    }

    /// The slope of a row by its logits, given both lse and the slope of a result by its divergence.
    pub fn slope(lse: Lse, target_lse: Lse, inverse_temperature: f32, upstream: f32) -> Slope {
        let constant = upstream * inverse_temperature;
        Slope { lse, constant, per_target: constant, target_lse, ..Slope::default() }
    }
}

fn larger(a: f32, b: f32) -> f32 {
    if a.is_nan() || a > b { a } else { b }
}

/// What sums relative to `from` are multiplied with to be relative to `to`, which is at least as large.
fn step(from: f32, to: f32) -> f32 {
    if from == to || from == f32::NEG_INFINITY { 1.0 } else { exp(from - to) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One token of these logits.
    fn token(logit: f32, target: f32) -> Pair {
        let allowed = target > f32::NEG_INFINITY;
        Pair {
            max: logit,
            sum: if logit > f32::NEG_INFINITY { 1.0 } else { 0.0 },
            target_max: target,
            target_sum: if allowed { 1.0 } else { 0.0 },
            cross: if allowed && logit > f32::NEG_INFINITY { target - logit } else { 0.0 },
            impossible: allowed && logit == f32::NEG_INFINITY,
        }
    }

    fn of(tokens: &[(f32, f32)]) -> Pair {
        tokens.iter().fold(Pair::NOTHING, |pair, &(logit, target)| pair.merge(token(logit, target)))
    }

    #[test]
    fn the_sums_of_tokens_give_their_divergence() {
        let tokens = [(1.0f32, 0.5f32), (-3.0, 2.0), (4.0, 3.0), (0.0, f32::NEG_INFINITY)];
        let lse = |side: fn(&(f32, f32)) -> f32| tokens.iter().map(|x| f64::from(side(x)).exp()).sum::<f64>().ln();
        let (own, target) = (lse(|x| x.0), lse(|x| x.1));
        let each = tokens[..3].iter().map(|x| {
            let q = f64::from(x.1) - target;
            q.exp() * (q - (f64::from(x.0) - own))
        });
        let truth = each.sum::<f64>();
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]] {
            let pair = of(&order.map(|i| tokens[i]));
            assert!((f64::from(pair.divergence()) - truth).abs() < 1e-6, "{} is not {truth}", pair.divergence());
            assert!((pair.lse().whole() - own).abs() < 1e-6 && (pair.target_lse().whole() - target).abs() < 1e-6);
        }
    }

    #[test]
    fn a_target_has_names_of_its_own() {
        let refused = Error::argument("weight", "numbers", "none").renamed(target_name);
        assert_eq!(refused.to_string(), "target_weight: expected numbers, given none");
    }

    #[test]
    fn equal_sides_do_not_diverge() {
        assert_eq!(of(&[(1.0, 1.0), (80.25, 80.25), (-7.0, -7.0)]).divergence(), 0.0);
    }

    #[test]
    fn what_the_model_alone_bans_is_infinitely_far() {
        let banned = f32::NEG_INFINITY;
        assert_eq!(of(&[(0.0, 1.0), (banned, -500.0)]).divergence(), f32::INFINITY);
        assert_eq!(of(&[(0.0, 1.0), (banned, banned)]).divergence(), 0.0);
        assert!(of(&[(0.0, banned)]).divergence().is_nan());
        assert!(of(&[(f32::NAN, 1.0), (1.0, 1.0)]).divergence().is_nan());
    }
}
