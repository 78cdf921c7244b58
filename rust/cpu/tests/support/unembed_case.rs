//! Random unembedding problems, held as plain arrays, run by the backend and judged by the oracle.

use farspan_core::Dtype;
use farspan_core::noise::NoiseKey;
use farspan_core::oracle::unembed as oracle;
use farspan_core::unembed::{Draws, Rules};
use farspan_cpu::matrix::Matrix;
use farspan_cpu::unembed::{Problem, Samples, ScoreOut, TopOut, greedy, sample, score, top};
use half::{bf16, f16};
use ndarray::{ArrayView2, s};
use proptest::prelude::*;

/// A matrix of one of the element types, with room between its rows.
#[derive(Clone, Debug)]
pub struct Stored {
    pub dtype: Dtype,
    pub rows: usize,
    pub columns: usize,
    stride: usize,
    wide: Vec<f32>,
    bits: Vec<u16>,
}

impl Stored {
    /// Rounds `values`, `[rows, columns]`, to `dtype`; `gap` elements of NaN lie between the rows.
    pub fn new(values: &[f32], rows: usize, columns: usize, gap: usize, dtype: Dtype) -> Stored {
        let stride = (columns + gap).max(1);
        let mut wide = vec![f32::NAN; rows * stride];
        for row in 0..rows {
            wide[row * stride..][..columns].copy_from_slice(&values[row * columns..][..columns]);
        }
        let bits = wide
            .iter()
            .map(|&x| if dtype == Dtype::F16 { f16::from_f32(x).to_bits() } else { bf16::from_f32(x).to_bits() });
        let bits: Vec<u16> = bits.collect();
        let widen = |b: u16| if dtype == Dtype::F16 { f16::from_bits(b).to_f32() } else { bf16::from_bits(b).to_f32() };
        if dtype != Dtype::F32 {
            wide = bits.iter().map(|&b| widen(b)).collect();
        }
        Stored { dtype, rows, columns, stride, wide, bits }
    }

    pub fn matrix(&self) -> Matrix<'_> {
        let (shape, columns) = ((self.rows, self.stride), s![.., ..self.columns]);
        let bits = || ArrayView2::from_shape(shape, &self.bits).unwrap().slice_move(columns);
        match self.dtype {
            Dtype::F32 => Matrix::F32(ArrayView2::from_shape(shape, &self.wide).unwrap().slice_move(columns)),
            Dtype::Bf16 => Matrix::Bf16(bits()),
            Dtype::F16 => Matrix::F16(bits()),
        }
    }

    /// The values of a row.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.wide[row * self.stride..][..self.columns]
    }

    pub fn f64_row(&self, row: usize) -> Vec<f64> {
        self.row(row).iter().map(|&x| f64::from(x)).collect()
    }

    /// A matrix of these rows.
    pub fn pick(&self, rows: &[usize]) -> Stored {
        let values: Vec<f32> = rows.iter().flat_map(|&row| self.row(row).to_vec()).collect();
        Stored::new(&values, rows.len(), self.columns, 1, self.dtype)
    }
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

fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|x| if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() }).collect()
}

impl Case {
    pub fn problem(&self) -> Problem<'_> {
        let rules = Rules {
            scale: self.scale,
            softcap: self.softcap,
            bias: self.bias.as_deref(),
            valid_vocab: Some(self.valid_vocab),
        };
        Problem { hidden: self.hidden.matrix(), weight: self.weight.matrix(), rules, shard: None }
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

    pub fn choose(&self, sampled: bool) -> Chosen {
        let rows = self.hidden.rows;
        let mut samples = Samples::new(rows, 1, 0);
        if sampled {
            let draws = Draws {
                seed: &self.seed,
                position: &self.position,
                stream: &self.stream,
                temperature: &self.temperature,
            };
            sample(&self.problem(), &draws, None, samples.out()).unwrap();
        } else {
            greedy(&self.problem(), samples.out()).unwrap();
        }
        let Samples { token, flag, logprob, raw_logprob, lse, .. } = samples;
        Chosen { token, flag, numbers: [bits(&logprob), bits(&raw_logprob), bits(&lse)] }
    }

    pub fn run(&self) -> Results {
        let rows = self.hidden.rows;
        let mut results = Results { greedy: self.choose(false), sample: self.choose(true), ..Results::default() };
        if self.valid_vocab > 0 {
            let [mut logprob, mut entropy, mut lse] = [(); 3].map(|()| vec![7.0; rows]);
            let mut rank = vec![7; rows];
            let k = self.k.min(128);
            let (mut top_token, mut top_logprob) = (vec![7; rows * k], vec![7.0; rows * k]);
            let out = ScoreOut {
                logprob: &mut logprob,
                rank: &mut rank,
                entropy: &mut entropy,
                lse: &mut lse,
                top_token: &mut top_token,
                top_logprob: &mut top_logprob,
            };
            score(&self.problem(), &self.targets, k, out).unwrap();
            results.score = [bits(&logprob), bits(&entropy), bits(&lse)];
            results.rank = rank;
            self.check_lists(&top_token, &top_logprob, k);
        }
        let (mut token, mut logit, mut lse) = (vec![7; rows * self.k], vec![7.0; rows * self.k], vec![7.0; rows]);
        let out = TopOut { token: &mut token, logit: &mut logit, lse: &mut lse };
        top(&self.problem(), self.k, out).unwrap();
        results.top_token = token;
        results.top = [bits(&logit), bits(&lse)];
        results
    }

    /// The lists that `score` gives beside are those of `top`, as log-probabilities.
    fn check_lists(&self, token: &[i64], logprob: &[f32], k: usize) {
        let rows = self.hidden.rows;
        let (mut wanted, mut logit, mut lse) = (vec![7; rows * k], vec![7.0; rows * k], vec![7.0; rows]);
        let out = TopOut { token: &mut wanted, logit: &mut logit, lse: &mut lse };
        top(&self.problem(), k, out).unwrap();
        assert_eq!(token, wanted);
        for (at, (&logprob, &logit)) in logprob.iter().zip(&logit).enumerate() {
            let wanted = logit - lse[at / k];
            let near = (logprob - wanted).abs() <= 1e-5 * (1.0 + logit.abs());
            assert!(near || (logprob.is_nan() && wanted.is_nan()) || !wanted.is_finite(), "{logprob} is not {wanted}");
        }
    }

    /// The oracle's logits of a row.
    pub fn logits(&self, row: usize) -> Vec<f64> {
        let weight: Vec<_> = (0..self.weight.rows).map(|token| self.weight.f64_row(token)).collect();
        oracle::logits(&self.hidden.f64_row(row), &weight, &self.problem().rules)
    }

    /// How far a float32 logit of this row may be from the oracle's: sums of `columns` rounded products.
    pub fn allowed(&self, row: usize) -> f64 {
        let hidden = self.hidden.f64_row(row);
        let sizes = (0..self.weight.rows).map(|token| {
            let weight = self.weight.f64_row(token);
            hidden.iter().zip(&weight).map(|(h, w)| (h * w).abs()).filter(|x| x.is_finite()).sum::<f64>()
        });
        let largest = sizes.fold(0.0, f64::max) * f64::from(self.scale.abs());
        let bias = self.bias.iter().flatten().filter(|b| b.is_finite()).fold(0f64, |m, b| m.max(f64::from(b.abs())));
        let steps = self.hidden.columns.div_ceil(16) as f64 + 8.0;
        f64::from(f32::EPSILON) * (0.5 * steps * largest + 4.0 * (1.0 + bias) + f64::from(self.softcap.unwrap_or(0.0)))
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

/// Numbers from a seed: Philox, four uniforms summed, close enough to normal.
pub fn normals(seed: u64, count: usize) -> Vec<f32> {
    let of = |i: usize| {
        let words = farspan_core::noise::philox([i as u32, 0, 0, 99], [seed as u32, (seed >> 32) as u32]);
        (words.iter().map(|w| *w as f32 / 2f32.powi(32)).sum::<f32>() - 2.0) * 1.7
    };
    (0..count).map(of).collect()
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
