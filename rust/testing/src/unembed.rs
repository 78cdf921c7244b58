//! Random problems of the unembedding, held as plain arrays, and the suite of their backends.

pub mod judge;
pub mod suite;

use crate::numbers::{Stored, normals};
use crate::oracle::unembed as oracle;
use farspan_core::Dtype;
use farspan_core::noise::NoiseKey;
use farspan_core::unembed::{Draws, HostDraws, Rules};
use proptest::prelude::*;

/// What runs the unembedding's operations.
pub trait Backend {
    /// Whether it is quick enough for problems of a few hundred thousand logits.
    const QUICK: bool;

    /// Random problems that a test of it takes.
    fn cases(&self) -> u32;

    /// Runs every operation. Calls of another `variation` are made under other circumstances, which must not show in
    /// any result.
    fn run(&self, case: &Case, variation: u64) -> Results;

    /// How far a logit of a row may be from the oracle's.
    fn allowed(&self, case: &Case, row: usize) -> f64;
}

/// A problem and the settings of each of its rows.
#[derive(Clone, Debug)]
pub struct Case {
    pub hidden: Stored,
    pub weight: Stored,
    pub scale: f32,
    pub softcap: Option<f32>,
    pub bias: Option<Vec<f32>>,
    pub valid_vocab: usize,
    pub seed: Vec<u64>,
    pub position: Vec<u32>,
    pub stream: Vec<u32>,
    pub temperature: Vec<f32>,
    pub targets: Vec<i64>,
    pub k: usize,
}

/// All results of all operations, by their bits, so that NaN equals itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Results {
    pub greedy: Chosen,
    pub sample: Chosen,
    pub score: [Vec<u32>; 3],
    pub rank: Vec<i64>,
    pub top_token: Vec<i64>,
    pub top: [Vec<u32>; 2],
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chosen {
    pub token: Vec<i64>,
    pub flag: Vec<i32>,
    /// logprob, raw_logprob, lse
    pub numbers: [Vec<u32>; 3],
}

impl Case {
    pub fn rules(&self) -> Rules<&[f32]> {
        Rules {
            scale: self.scale,
            softcap: self.softcap,
            bias: self.bias.as_deref(),
            valid_vocab: Some(self.valid_vocab),
        }
    }

    pub fn draws(&self) -> HostDraws<'_> {
        Draws { seed: &self.seed, position: &self.position, stream: &self.stream, temperature: &self.temperature }
    }

    pub fn key(&self, row: usize) -> NoiseKey {
        NoiseKey { seed: self.seed[row], stream: self.stream[row], position: self.position[row] }
    }

    /// The same problem for some of its rows, in this order.
    pub fn pick(&self, rows: &[usize]) -> Case {
        fn of<T: Copy>(all: &[T], rows: &[usize]) -> Vec<T> {
            rows.iter().map(|&row| all[row]).collect()
        }
        Case {
            hidden: self.hidden.pick(rows),
            seed: of(&self.seed, rows),
            position: of(&self.position, rows),
            stream: of(&self.stream, rows),
            temperature: of(&self.temperature, rows),
            targets: of(&self.targets, rows),
            ..self.clone()
        }
    }

    /// The oracle's logits of a row.
    pub fn logits(&self, row: usize) -> Vec<f64> {
        let weight: Vec<_> = (0..self.weight.rows).map(|token| self.weight.f64_row(token)).collect();
        oracle::logits(&self.hidden.f64_row(row), &weight, &self.rules())
    }

    /// What a row gave for its own part of the results.
    pub fn slice(&self, results: &Results, rows: &[usize]) -> Results {
        let each = |all: &Vec<u32>| rows.iter().map(|&r| all[r]).collect::<Vec<_>>();
        let chosen = |c: &Chosen| Chosen {
            token: rows.iter().map(|&r| c.token[r]).collect(),
            flag: rows.iter().map(|&r| c.flag[r]).collect(),
            numbers: c.numbers.each_ref().map(each),
        };
        let k = self.k;
        Results {
            greedy: chosen(&results.greedy),
            sample: chosen(&results.sample),
            score: if results.rank.is_empty() { Default::default() } else { results.score.each_ref().map(each) },
            rank: if results.rank.is_empty() { Vec::new() } else { rows.iter().map(|&r| results.rank[r]).collect() },
            top_token: rows.iter().flat_map(|&r| results.top_token[r * k..(r + 1) * k].to_vec()).collect(),
            top: [
                rows.iter().flat_map(|&r| results.top[0][r * k..(r + 1) * k].to_vec()).collect(),
                each(&results.top[1]),
            ],
        }
    }
}

/// Sizes, rules and settings that reach every branch.
pub fn cases() -> impl Strategy<Value = Case> {
    let vocab = prop_oneof![2 => 1usize..70, 2 => 500usize..600, 1 => 2000usize..2200, 1 => 4090usize..4200];
    let dim = prop_oneof![3 => 0usize..50, 1 => Just(64), 1 => 100usize..140];
    let rows = prop_oneof![4 => 0usize..6, 2 => 6usize..20, 1 => 60usize..140];
    let dtype = prop_oneof![2 => Just(Dtype::F32), 1 => Just(Dtype::Bf16), 1 => Just(Dtype::F16)];
    let sharpness = prop_oneof![Just(0.0f32), Just(1.0), Just(4.0)];
    let sizes = (rows, vocab, dim, dtype, sharpness, any::<u64>());
    let rules = (-2f32..2.0, prop::option::of(0.5f32..30.0), 0usize..3, 0.0f64..1.3, 0.0f64..1.0);
    (sizes, rules).prop_map(|((rows, vocab, dim, dtype, sharpness, seed), (scale, softcap, bias, valid, k))| {
        // The work of a test run is bounded: wide vocabularies come with few rows.
        let rows = if vocab > 1000 { rows.min(9) } else { rows };
        let mut values = normals(seed, (rows + vocab) * dim);
        values[rows * dim..].iter_mut().for_each(|x| *x *= sharpness / (dim as f32).sqrt());
        let bias = (bias > 0).then(|| {
            let mut bias = normals(seed ^ 1, vocab);
            if dim % 3 == 0 {
                bias.iter_mut().filter(|b| **b < -1.0).for_each(|b| *b = f32::NEG_INFINITY);
            }
            bias
        });
        let valid_vocab = ((vocab as f64 * valid) as usize).clamp(1, vocab);
        let settings = normals(seed ^ 2, rows * 4);
        let setting = |i: usize, row: usize| settings[i * rows + row].to_bits();
        let temperatures = [0.0, 1.0, 1e-6, 1e6, 0.7, 1.3, 1e-40];
        Case {
            hidden: Stored::new(&values[..rows * dim], rows, dim, seed as usize % 3, dtype),
            weight: Stored::new(&values[rows * dim..], vocab, dim, seed as usize % 5, dtype),
            scale,
            softcap,
            bias,
            valid_vocab,
            seed: (0..rows).map(|r| u64::from(setting(0, r)) << 32 | u64::from(setting(1, r))).collect(),
            position: (0..rows).map(|r| setting(2, r)).collect(),
            stream: (0..rows).map(|r| setting(3, r)).collect(),
            temperature: (0..rows).map(|r| temperatures[setting(0, r) as usize % temperatures.len()]).collect(),
            targets: (0..rows).map(|r| i64::from(setting(1, r)) % valid_vocab as i64).collect(),
            k: (valid_vocab as f64 * k * k * k) as usize,
        }
    })
}

/// Rows of logits that are the bias alone.
pub fn of_bias(bias: Vec<f32>, rows: usize) -> Case {
    let vocab = bias.len();
    Case {
        hidden: Stored::new(&vec![0.0; rows], rows, 1, 0, Dtype::F32),
        weight: Stored::new(&vec![0.0; vocab], vocab, 1, 0, Dtype::F32),
        scale: 1.0,
        softcap: None,
        bias: Some(bias),
        valid_vocab: vocab,
        seed: (0..rows as u64).collect(),
        position: vec![3; rows],
        stream: vec![0; rows],
        temperature: vec![1.0; rows],
        targets: vec![0; rows],
        k: vocab.min(4),
    }
}
