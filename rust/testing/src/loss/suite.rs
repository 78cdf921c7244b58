//! What every backend of the losses has to do: meet the oracle with every option, and give a row the same bits in every
//! call.

use super::{Backend, Case, Found, Loss, cases};
use crate::numbers::{Stored, bits, normals, unit};
use crate::unembed::{Case as Unembedding, of_bias};
use farspan_core::Dtype;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

/// Instantiates the suite.
#[macro_export]
macro_rules! loss_suite {
    ($name:ident = $backend:expr) => {
        $crate::instantiate! {
            $name = $backend, [$crate::loss::suite]:
            losses_and_gradients_meet_the_oracle
            circumstances_and_other_rows_show_in_no_bit
            what_does_not_count_has_no_influence
            blocks_of_rows_and_tokens_are_added_up
        }
    };
}

fn runner<B: Backend>(backend: &B) -> TestRunner {
    TestRunner::new(ProptestConfig::with_cases(backend.cases()))
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

fn judge<B: Backend>(backend: &B, case: &Case, found: &Found) -> Result<(), TestCaseError> {
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
            let off = off + backend.rounding(hidden.dtype) * (upstream * slope).abs();
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

pub fn losses_and_gradients_meet_the_oracle<B: Backend>(backend: &B) {
    runner(backend).run(&cases(), |case| judge(backend, &case, &backend.run(&case, 0))).unwrap();
}

pub fn circumstances_and_other_rows_show_in_no_bit<B: Backend>(backend: &B) {
    let strategy = (cases(), any::<prop::sample::Index>());
    let checked = runner(backend).run(&strategy, |(case, pick)| {
        let (whole, rows) = (backend.run(&case, 0), case.rows());
        for variation in 1..backend.variations() {
            prop_assert_eq!(whole.bits(), backend.run(&case, variation).bits(), "circumstances {}", variation);
        }
        if rows > 0 {
            let (row, dim) = (pick.index(rows), case.unembedding.hidden.columns);
            let alone = backend.run(&case.pick(&[row]), 0);
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

pub fn what_does_not_count_has_no_influence<B: Backend>(backend: &B) {
    let (rows, vocab, dim) = (7, 900, 20);
    let mut case = entropy(rows, vocab, dim);
    case.unembedding.valid_vocab = 800;
    case.unembedding.bias.as_mut().unwrap()[500..600].fill(f32::NEG_INFINITY);
    let clean = backend.run(&case, 0);
    for filling in [f32::NAN, f32::INFINITY] {
        let (mut hidden, mut weight) = (normals(1, rows * dim), normals(2, vocab * dim));
        hidden[dim..2 * dim].fill(filling);
        weight[500 * dim..600 * dim].fill(filling);
        weight[800 * dim..].fill(filling);
        let mut filled = case.clone();
        filled.unembedding.hidden = Stored::new(&hidden, rows, dim, 0, Dtype::F32);
        filled.unembedding.weight = Stored::new(&weight, vocab, dim, 0, Dtype::F32);
        assert_eq!(clean.bits(), backend.run(&filled, 0).bits(), "filled with {filling}");
    }
    assert!(clean.hidden[dim..2 * dim].iter().all(|x| *x == 0.0), "an ignored row has no gradient");
    assert!(clean.weight[500 * dim..600 * dim].iter().chain(&clean.weight[800 * dim..]).all(|x| *x == 0.0));
    assert!(clean.bias[500..600].iter().chain(&clean.bias[800..]).all(|x| *x == 0.0));
    assert_eq!(clean.loss[1], 0.0);
}

pub fn blocks_of_rows_and_tokens_are_added_up<B: Backend>(backend: &B) {
    let case = entropy(1200, 1000, 3);
    let found = backend.run(&case, 0);
    judge(backend, &case, &found).unwrap();
    for variation in 1..backend.variations() {
        assert_eq!(found.bits(), backend.run(&case, variation).bits(), "circumstances {variation}");
    }
}
