//! What a row of logits loses, and the slope of that loss by each of its logits: the mathematics of the losses over a
//! vocabulary, row by row.

mod divergence;
mod entropy;
mod scored;

use crate::elementary::ln;

pub use divergence::{Pair, check_temperature, target_name};
pub use entropy::{CrossEntropy, Reduction, Weighing, check_class_weight, check_factors};
pub use scored::{ScoreSlopes, Scored};

/// The slope of a row's loss by the logits `l` of its tokens, all of which have one form. With
/// `gap = l / temperature - max - log_sum` and `p = exp(gap)` it is
///
/// `p * (constant + per_gap * gap) - per_class * class_weight[token] - per_target * q`,
///
/// and more at [`Single`] tokens. `q` is the probability of a target distribution, where there is one.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Slope {
    /// `log(sum(exp(l / temperature)))`
    pub lse: Lse,
    /// What the probability is multiplied with.
    pub constant: f32,
    /// What the probability times its logarithm is multiplied with.
    pub per_gap: f32,
    /// What the token's class weight is multiplied with, 1 where there are none.
    pub per_class: f32,
    /// What the probability under the target is multiplied with.
    pub per_target: f32,
    /// The lse of the target.
    pub target_lse: Lse,
}

/// `log(sum(exp(l)))` in two parts: their sum as one float32 would lose what probabilities of large logits are made of.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Lse {
    /// The largest l.
    pub max: f32,
    /// `log(sum(exp(l - max)))`
    pub log_sum: f32,
}

impl Lse {
    /// Of the sum of `exp(l - max)`.
    pub fn new(max: f32, sum: f32) -> Lse {
        Lse { max, log_sum: if sum > 0.0 { ln(sum) } else { 0.0 } }
    }

    /// Their sum.
    pub fn whole(&self) -> f64 {
        f64::from(self.max) + f64::from(self.log_sum)
    }
}

/// What is added to the slope at one token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Single {
    /// Its id.
    pub token: usize,
    /// What is added.
    pub slope: f32,
}
