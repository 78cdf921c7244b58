//! Random losses over a vocabulary, and the suite of the backends that compute them and their gradients.

pub mod suite;

use crate::numbers::{Stored, bits, normals};
use crate::oracle::loss::{OfRow, cross_entropy, divergence, score};
use crate::unembed::{self, Case as Unembedding};
use farspan_core::Dtype;
use farspan_core::loss::{CrossEntropy, Reduction};
use proptest::prelude::*;

/// What computes losses and their gradients.
pub trait Backend {
    /// Random problems that a test of it takes.
    fn cases(&self) -> u32;

    /// Under how many other circumstances a call can be made.
    fn variations(&self) -> u64;

    /// Loss and gradients. The circumstances of a `variation` must not show in any number.
    fn run(&self, case: &Case, variation: u64) -> Found;

    /// How far a slope may be from what it is, relative to it, where products take it.
    fn rounding(&self, dtype: Dtype) -> f64;
}

/// A loss of some rows.
#[derive(Clone, Debug)]
pub struct Case {
    pub unembedding: Unembedding,
    pub loss: Loss,
    /// The slopes of a result by each row's part.
    pub upstream: Vec<f32>,
}

#[derive(Clone, Debug)]
pub enum Loss {
    CrossEntropy {
        label_smoothing: f64,
        class_weight: Option<Vec<f32>>,
        z_loss: f64,
        ignored: Vec<bool>,
    },
    /// With slopes by logprob, entropy and lse, that of a row times these.
    Score([f32; 3]),
    Divergence {
        hidden: Stored,
        weight: Stored,
        bias: Option<Vec<f32>>,
        temperature: f32,
    },
}

/// All numbers that a loss gives.
#[derive(Clone, Debug)]
pub struct Found {
    /// Of each row; nothing of a score.
    pub loss: Vec<f32>,
    pub hidden: Vec<f32>,
    pub weight: Vec<f32>,
    pub bias: Vec<f32>,
}

impl Found {
    fn bits(&self) -> [Vec<u32>; 4] {
        [&self.loss, &self.hidden, &self.weight, &self.bias].map(|numbers| bits(numbers))
    }
}

/// The target of rows that do not count.
pub const IGNORED: i64 = -100;

impl Case {
    pub fn rows(&self) -> usize {
        self.unembedding.hidden.rows
    }

    pub fn targets(&self) -> Vec<i64> {
        let targets = self.unembedding.targets.iter().enumerate();
        targets.map(|(row, target)| if self.ignores(row) { IGNORED } else { *target }).collect()
    }

    fn ignores(&self, row: usize) -> bool {
        matches!(&self.loss, Loss::CrossEntropy { ignored, .. } if ignored[row])
    }

    /// The same for some of its rows.
    fn pick(&self, rows: &[usize]) -> Case {
        let mut loss = self.loss.clone();
        match &mut loss {
            Loss::CrossEntropy { ignored, .. } => *ignored = rows.iter().map(|&row| ignored[row]).collect(),
            Loss::Score(_) => {}
            Loss::Divergence { hidden, .. } => *hidden = hidden.pick(rows),
        }
        let upstream = rows.iter().map(|&row| self.upstream[row]).collect();
        Case { unembedding: self.unembedding.pick(rows), loss, upstream }
    }

    pub fn settings<'a>(&'a self, targets: &'a [i64]) -> CrossEntropy<'a> {
        let Loss::CrossEntropy { label_smoothing, class_weight, z_loss, .. } = &self.loss else {
            panic!("another loss")
        };
        CrossEntropy {
            targets,
            ignore_index: IGNORED,
            label_smoothing: *label_smoothing,
            class_weight: class_weight.as_deref(),
            z_loss: *z_loss,
            reduction: Reduction::None,
        }
    }

    /// What the oracle says of a row.
    fn truth(&self, row: usize, logits: &[f64]) -> OfRow {
        let targets = self.targets();
        match &self.loss {
            Loss::CrossEntropy { .. } => cross_entropy(logits, &self.settings(&targets), row),
            Loss::Score(by) => score(logits, targets[row] as usize, by.map(f64::from)),
            Loss::Divergence { hidden, weight, bias, temperature } => {
                let other = Unembedding {
                    hidden: hidden.clone(),
                    weight: weight.clone(),
                    bias: bias.clone(),
                    ..self.unembedding.clone()
                };
                divergence(logits, &other.logits(row), f64::from(*temperature))
            }
        }
    }
}

/// Sizes, rules and settings that reach every branch.
pub fn cases() -> impl Strategy<Value = Case> {
    let kind = (0usize..3, 0.0f64..1.0, -0.2f64..0.3, any::<[bool; 3]>(), 0.4f32..3.0, any::<u64>());
    (unembed::cases(), kind).prop_map(|(mut unembedding, (kind, smoothing, z_loss, on, temperature, seed))| {
        // Few tokens are banned elsewhere too; here none may be a target.
        let (rows, vocab) = (unembedding.hidden.rows, unembedding.weight.rows);
        if let Some(bias) = &unembedding.bias {
            let exist = unembedding.valid_vocab;
            let allowed: Vec<i64> = (0..exist).filter(|&v| bias[v] > f32::NEG_INFINITY).map(|v| v as i64).collect();
            match allowed.is_empty() {
                true => unembedding.bias = None,
                false => unembedding.targets.iter_mut().for_each(|t| *t = allowed[*t as usize % allowed.len()]),
            }
        }
        let banned = unembedding.bias.iter().flatten().any(|b| *b == f32::NEG_INFINITY);
        let numbers = |i: u64, count: usize| normals(seed ^ i, count);
        let loss = match kind {
            0 => Loss::CrossEntropy {
                // A banned token has no share of a target's.
                label_smoothing: if on[0] && !banned { smoothing } else { 0.0 },
                class_weight: on[1].then(|| numbers(1, vocab).iter().map(|x| x.abs()).collect()),
                z_loss: if on[2] { z_loss } else { 0.0 },
                ignored: numbers(2, rows).iter().map(|x| *x > 1.0).collect(),
            },
            1 => Loss::Score([1.0, -0.7, 0.4]),
            _ => {
                let (dim, dtype) = (1 + seed as usize % 40, unembedding.hidden.dtype);
                let weight = numbers(4, vocab * dim).iter().map(|x| x / (dim as f32).sqrt()).collect::<Vec<_>>();
                Loss::Divergence {
                    hidden: Stored::new(&numbers(3, rows * dim), rows, dim, 1, dtype),
                    weight: Stored::new(&weight, vocab, dim, 2, dtype),
                    bias: unembedding.bias.clone(),
                    temperature,
                }
            }
        };
        Case { upstream: numbers(5, rows), unembedding, loss }
    })
}
