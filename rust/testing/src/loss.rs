//! Random losses over a vocabulary, and the suite of the instruction sets that compute them and their gradients.

use crate::cpu::Cpu;
use crate::numbers::{Stored, bits, narrow, normals, unit, widen};
use crate::oracle::loss::{OfRow, cross_entropy, divergence, score};
use crate::unembed::{self, Case as Unembedding, of_bias};
use farspan_core::Dtype;
use farspan_core::loss::{CrossEntropy, Reduction, ScoreSlopes, Scored};
use farspan_cpu::loss::{self as losses, Gradients, Lses, Sides};
use farspan_cpu::unembed::{Problem, ScoreOut};
use farspan_cpu::{Typed, map};
use ndarray::ArrayViewMut2;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

/// Instantiates the suite.
#[macro_export]
macro_rules! loss_suite {
    ($name:ident = $backend:expr) => {
        $crate::instantiate! {
            $name = $backend, [$crate::loss]:
            losses_and_gradients_meet_the_oracle
            threads_and_other_rows_show_in_no_bit
            what_does_not_count_has_no_influence
            blocks_of_rows_and_tokens_are_added_up
        }
    };
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

const IGNORED: i64 = -100;

impl Case {
    fn problem(&self) -> Problem<'_> {
        let case = &self.unembedding;
        Problem { hidden: case.hidden.matrix(), weight: case.weight.matrix(), rules: case.rules(), shard: None }
    }

    fn rows(&self) -> usize {
        self.unembedding.hidden.rows
    }

    fn targets(&self) -> Vec<i64> {
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

    /// Loss and gradients.
    fn run(&self) -> Found {
        let (problem, rows) = (self.problem(), self.rows());
        let Unembedding { hidden, weight, .. } = &self.unembedding;
        let mut of_hidden = Buffer::new(hidden);
        let mut of_weight = Buffer::new(weight);
        let mut bias = vec![7.0; weight.rows];
        let out = Gradients { hidden: Some(of_hidden.view()), weight: Some(of_weight.view()), bias: Some(&mut bias) };
        let [mut loss, mut max, mut log_sum, mut other_max, mut other_sum] = [(); 5].map(|()| vec![7.0; rows]);
        let targets = self.targets();
        match &self.loss {
            Loss::CrossEntropy { .. } => {
                let settings = self.settings(&targets);
                let lse = Lses { max: &mut max[..], log_sum: &mut log_sum };
                losses::linear_cross_entropy(&problem, &settings, &mut loss, lse).unwrap();
                let lse = Lses { max: &max[..], log_sum: &log_sum };
                losses::linear_cross_entropy_gradient(&problem, &settings, lse, &self.upstream, out).unwrap();
            }
            Loss::Score(by) => {
                let mut rank = vec![0; rows];
                let results = ScoreOut {
                    logprob: &mut loss,
                    rank: &mut rank,
                    entropy: &mut other_max,
                    lse: &mut max,
                    top_token: &mut [],
                    top_logprob: &mut [],
                };
                farspan_cpu::unembed::score(&problem, &targets, 0, results).unwrap();
                let [logprob, entropy, by_lse] =
                    by.map(|by| self.upstream.iter().map(|up| up * by).collect::<Vec<f32>>());
                let scored = Scored { targets: &targets, entropy: &other_max, lse: &max, top_token: &[] };
                let slopes = ScoreSlopes { logprob: &logprob, entropy: &entropy, lse: &by_lse, top_logprob: &[] };
                losses::score_gradient(&problem, &scored, &slopes, out).unwrap();
                loss.clear();
            }
            Loss::Divergence { hidden, weight, bias, temperature } => {
                let mut rules = problem.rules;
                rules.bias = bias.as_deref();
                let target = Problem { hidden: hidden.matrix(), weight: weight.matrix(), rules, shard: None };
                let sides = Sides { model: &problem, target: &target, temperature: *temperature };
                let own = Lses { max: &mut max[..], log_sum: &mut log_sum };
                let other = Lses { max: &mut other_max[..], log_sum: &mut other_sum };
                losses::divergence(&sides, &mut loss, [own, other]).unwrap();
                let own = Lses { max: &max[..], log_sum: &log_sum };
                let other = Lses { max: &other_max[..], log_sum: &other_sum };
                losses::divergence_gradient(&sides, [own, other], &self.upstream, out).unwrap();
            }
        }
        Found { loss, hidden: widen(&of_hidden.0), weight: widen(&of_weight.0), bias }
    }

    fn settings<'a>(&'a self, targets: &'a [i64]) -> CrossEntropy<'a> {
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

/// A gradient as large as a matrix.
struct Buffer(Typed<Vec<f32>, Vec<u16>>, (usize, usize));

impl Buffer {
    fn new(like: &Stored) -> Buffer {
        Buffer(narrow(&vec![7.0; like.rows * like.columns], like.dtype), (like.rows, like.columns))
    }

    fn view(&mut self) -> Typed<ArrayViewMut2<'_, f32>, ArrayViewMut2<'_, u16>> {
        map!(x in &mut self.0 => ArrayViewMut2::from_shape(self.1, x).unwrap())
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

fn runner(cpu: &Cpu) -> TestRunner {
    TestRunner::new(ProptestConfig::with_cases(if cpu.name() == "portable" { 25 } else { 100 }))
}

/// Gradients that follow from slopes, and how far each may be from them.
struct Expected {
    truth: Vec<f64>,
    allowed: Vec<f64>,
}

impl Expected {
    fn new(count: usize) -> Expected {
        Expected { truth: vec![0.0; count], allowed: vec![1e-6; count] }
    }

    fn add(&mut self, at: usize, slope: f64, off: f64, factor: f64) {
        self.truth[at] += slope * factor;
        self.allowed[at] += off * factor.abs();
    }

    fn judge(&self, got: &[f32], dtype: Dtype, what: &str) -> Result<(), TestCaseError> {
        for (at, ((got, truth), allowed)) in got.iter().zip(&self.truth).zip(&self.allowed).enumerate() {
            let (got, allowed) = (f64::from(*got), allowed + 1.01 * unit(dtype) * truth.abs());
            prop_assert!((got - truth).abs() <= allowed, "{what} [{at}]: {got}, not {truth}, by {allowed:e}");
        }
        Ok(())
    }
}

fn judge(case: &Case, found: &Found) -> Result<(), TestCaseError> {
    let Unembedding { hidden, weight, bias, softcap, scale, valid_vocab, .. } = &case.unembedding;
    let dim = hidden.columns;
    let weights: Vec<_> = (0..*valid_vocab).map(|token| weight.f64_row(token)).collect();
    let mut of_hidden = Expected::new(hidden.rows * dim);
    let mut of_weight = Expected::new(weight.rows * dim);
    let mut of_bias = Expected::new(weight.rows);
    for row in (0..hidden.rows).filter(|&row| !case.ignores(row)) {
        let logits = case.unembedding.logits(row);
        let truth = case.truth(row, &logits);
        let upstream = f64::from(case.upstream[row]);
        let size = logits.iter().filter(|l| l.is_finite()).fold(0.0f64, |size, l| size.max(l.abs()));
        let coarse = 2e-6 * (1.0 + size) * f64::from(scale.abs().max(1.0)) * (1.0 + dim as f64 / 50.0);
        if let Some(&loss) = found.loss.get(row) {
            let (loss, allowed) = (f64::from(loss), 30.0 * coarse * (1.0 + size));
            prop_assert!((loss - truth.loss).abs() <= allowed, "loss of row {row}: {loss}, not {}", truth.loss);
        }
        let x = hidden.f64_row(row);
        for (token, slope) in truth.slopes.iter().enumerate() {
            let added = bias.as_ref().map_or(0.0, |bias| f64::from(bias[token]));
            if added == f64::NEG_INFINITY {
                continue;
            }
            let cap = softcap.map_or(0.0, |cap| (logits[token] - added) / f64::from(cap));
            let chain = f64::from(*scale) * (1.0 - cap * cap);
            let off = upstream.abs() * coarse * 10.0 * (slope.abs() + (logits[token] - size).exp() + 0.05);
            of_bias.add(token, upstream * slope, off, 1.0);
            for column in 0..dim {
                of_hidden.add(row * dim + column, upstream * slope, off, chain * weights[token][column]);
                of_weight.add(token * dim + column, upstream * slope, off, chain * x[column]);
            }
        }
    }
    of_hidden.judge(&found.hidden, hidden.dtype, "gradient of hidden")?;
    of_weight.judge(&found.weight, weight.dtype, "gradient of weight")?;
    of_bias.judge(&found.bias, Dtype::F32, "gradient of bias")
}

pub fn losses_and_gradients_meet_the_oracle(cpu: &Cpu) {
    runner(cpu).run(&cases(), |case| judge(&case, &cpu.alone(0, || case.run()))).unwrap();
}

pub fn threads_and_other_rows_show_in_no_bit(cpu: &Cpu) {
    let strategy = (cases(), any::<prop::sample::Index>());
    let checked = runner(cpu).run(&strategy, |(case, pick)| {
        let (whole, rows) = (cpu.alone(0, || case.run()), case.rows());
        prop_assert_eq!(whole.bits(), cpu.alone(1, || case.run()).bits(), "one thread");
        prop_assert_eq!(whole.bits(), cpu.alone(2, || case.run()).bits(), "three threads");
        for other in Cpu::all() {
            prop_assert_eq!(whole.bits(), other.alone(0, || case.run()).bits(), "{}", other.name());
        }
        if rows > 0 {
            let (row, dim) = (pick.index(rows), case.unembedding.hidden.columns);
            let alone = cpu.alone(0, || case.pick(&[row]).run());
            prop_assert_eq!(bits(&whole.hidden[row * dim..(row + 1) * dim]), bits(&alone.hidden), "row {} alone", row);
            if !whole.loss.is_empty() {
                prop_assert_eq!(bits(&whole.loss[row..=row]), bits(&alone.loss), "the loss of row {} alone", row);
            }
        }
        Ok(())
    });
    checked.unwrap();
}

/// A cross-entropy of `rows` rows over `vocab` tokens.
fn entropy(rows: usize, vocab: usize, dim: usize) -> Case {
    let mut unembedding = of_bias(vec![0.0; vocab], rows);
    unembedding.hidden = Stored::new(&normals(1, rows * dim), rows, dim, 0, Dtype::F32);
    unembedding.weight = Stored::new(&normals(2, vocab * dim), vocab, dim, 0, Dtype::F32);
    unembedding.targets = (0..rows as i64).map(|row| row * 7 % (vocab as i64 / 2)).collect();
    let loss = Loss::CrossEntropy {
        label_smoothing: 0.0,
        class_weight: None,
        z_loss: 0.1,
        ignored: (0..rows).map(|row| row % 3 == 1).collect(),
    };
    Case { upstream: normals(3, rows), unembedding, loss }
}

pub fn what_does_not_count_has_no_influence(cpu: &Cpu) {
    let (rows, vocab, dim) = (7, 900, 20);
    let mut case = entropy(rows, vocab, dim);
    case.unembedding.valid_vocab = 800;
    case.unembedding.bias.as_mut().unwrap()[500..600].fill(f32::NEG_INFINITY);
    let clean = cpu.alone(0, || case.run());
    for filling in [f32::NAN, f32::INFINITY] {
        let (mut hidden, mut weight) = (normals(1, rows * dim), normals(2, vocab * dim));
        hidden[dim..2 * dim].fill(filling);
        weight[500 * dim..600 * dim].fill(filling);
        weight[800 * dim..].fill(filling);
        let mut filled = case.clone();
        filled.unembedding.hidden = Stored::new(&hidden, rows, dim, 0, Dtype::F32);
        filled.unembedding.weight = Stored::new(&weight, vocab, dim, 0, Dtype::F32);
        assert_eq!(clean.bits(), cpu.alone(0, || filled.run()).bits(), "filled with {filling}");
    }
    assert!(clean.hidden[dim..2 * dim].iter().all(|x| *x == 0.0), "an ignored row has no gradient");
    assert!(clean.weight[500 * dim..600 * dim].iter().chain(&clean.weight[800 * dim..]).all(|x| *x == 0.0));
    assert!(clean.bias[500..600].iter().chain(&clean.bias[800..]).all(|x| *x == 0.0));
    assert_eq!(clean.loss[1], 0.0);
}

pub fn blocks_of_rows_and_tokens_are_added_up(cpu: &Cpu) {
    let case = entropy(1200, 1000, 3);
    let found = cpu.alone(0, || case.run());
    judge(&case, &found).unwrap();
    for variation in [1, 2] {
        assert_eq!(found.bits(), cpu.alone(variation, || case.run()).bits(), "another number of threads");
    }
}
