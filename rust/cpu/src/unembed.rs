//! The sampling unembedding: what a vocabulary says of a hidden state, without ever holding the logits.
//!
//! All four operations are one pass over tiles of the vocabulary ([`pass`]) with an epilogue each. `hidden [rows,
//! dim]`, `weight [vocab, dim]`, of one element type. A row's result has the same bits in any batch, at any place in
//! it, at any number of threads and on any machine. An error names the argument that does not fit.

mod changes;
mod draw;
mod given;
mod list;
mod pass;
mod plan;
mod result;
mod second;
mod sums;

use crate::arch::unembed::dot::Rows;
use crate::arch::unembed::kernels;
use crate::dispatch;
use crate::matrix::Matrix;
use draw::Draw;
use farspan_core::sampler::Settings;
use farspan_core::unembed::{Draws, Rules, check_k, check_rows, check_rules, check_targets};
use farspan_core::{Error, Result};
use pass::Problem;
use plan::Plan;
use result::Results;
pub use second::second_passes;

/// Where [`greedy`] and [`sample`] write: `[rows]`, or `[rows, samples]` where it says so.
#[derive(Debug)]
pub struct SampleOut<'a> {
    /// `[rows, samples]`: the chosen token; -1 where the flag is not 0.
    pub token: &'a mut [i64],
    /// `[rows, samples]`: its log-probability under the distribution it was drawn from.
    pub logprob: &'a mut [f32],
    /// `[rows, samples]`: its log-probability under `softmax(l)`.
    pub raw_logprob: &'a mut [f32],
    /// `log(sum(exp(l)))`.
    pub lse: &'a mut [f32],
    /// 0, [`farspan_core::unembed::FLAG_NAN`] or [`farspan_core::unembed::FLAG_EMPTY`].
    pub flag: &'a mut [i32],
    /// `[rows, samples]`: how many tokens have a larger logit, or an equal one and a lower id; [`UNRANKED`] where that
    /// is more than the pass keeps in order, for [`rank`] to count.
    pub rank: &'a mut [i64],
    /// `[rows, samples]`: the chosen token's logit.
    pub logit: &'a mut [f32],
    /// How many tokens the cuts left.
    pub kept: &'a mut [i64],
    /// Their probability at the temperature, before renormalising.
    pub kept_mass: &'a mut [f32],
    /// Entropy of `softmax(l)` in nats.
    pub entropy: &'a mut [f32],
    /// `[rows, top]`: the most likely tokens.
    pub top_token: &'a mut [i64],
    /// `[rows, top]`: their log-probabilities under `softmax(l)`.
    pub top_logprob: &'a mut [f32],
}

/// Owned memory for the results of [`greedy`] and [`sample`].
#[derive(Clone, Debug, Default, PartialEq)]
#[expect(missing_docs, reason = "the fields of `SampleOut`")]
pub struct Samples {
    pub token: Vec<i64>,
    pub logprob: Vec<f32>,
    pub raw_logprob: Vec<f32>,
    pub lse: Vec<f32>,
    pub flag: Vec<i32>,
    pub rank: Vec<i64>,
    pub logit: Vec<f32>,
    pub kept: Vec<i64>,
    pub kept_mass: Vec<f32>,
    pub entropy: Vec<f32>,
    pub top_token: Vec<i64>,
    pub top_logprob: Vec<f32>,
}

impl Samples {
    /// Room for `samples` draws and a list of `top` for each of `rows`.
    pub fn new(rows: usize, samples: usize, top: usize) -> Self {
        let (drawn, listed) = (rows * samples, rows * top);
        Samples {
            token: vec![0; drawn],
            logprob: vec![0.0; drawn],
            raw_logprob: vec![0.0; drawn],
            lse: vec![0.0; rows],
            flag: vec![0; rows],
            rank: vec![0; drawn],
            logit: vec![0.0; drawn],
            kept: vec![0; rows],
            kept_mass: vec![0.0; rows],
            entropy: vec![0.0; rows],
            top_token: vec![0; listed],
            top_logprob: vec![0.0; listed],
        }
    }

    /// The room, to be written.
    pub fn out(&mut self) -> SampleOut<'_> {
        SampleOut {
            token: &mut self.token,
            logprob: &mut self.logprob,
            raw_logprob: &mut self.raw_logprob,
            lse: &mut self.lse,
            flag: &mut self.flag,
            rank: &mut self.rank,
            logit: &mut self.logit,
            kept: &mut self.kept,
            kept_mass: &mut self.kept_mass,
            entropy: &mut self.entropy,
            top_token: &mut self.top_token,
            top_logprob: &mut self.top_logprob,
        }
    }
}

/// Where [`score`] writes, `[rows]` each.
#[derive(Debug)]
pub struct ScoreOut<'a> {
    /// The target's log-probability.
    pub logprob: &'a mut [f32],
    /// How many tokens have a larger logit, or an equal one and a lower id; -1 in a row with NaN.
    pub rank: &'a mut [i64],
    /// Entropy of `softmax(l)` in nats.
    pub entropy: &'a mut [f32],
    /// `log(sum(exp(l)))`.
    pub lse: &'a mut [f32],
}

/// Where [`top`] writes.
#[derive(Debug)]
pub struct TopOut<'a> {
    /// `[rows, k]`, contiguous; -1 in a row with NaN.
    pub token: &'a mut [i64],
    /// `[rows, k]`, contiguous; NaN in a row with NaN.
    pub logit: &'a mut [f32],
    /// `[rows]`: `log(sum(exp(l)))`.
    pub lse: &'a mut [f32],
}

/// `argmax(l)`, ties to the lowest id; the log-probability of the choice is 0.
pub fn greedy(hidden: Matrix, weight: Matrix, rules: &Rules, out: SampleOut) -> Result<()> {
    choose(hidden, weight, None, None, rules, out)
}

/// `argmax(l / temperature + noise)` under noise version 1 ([`farspan_core::noise`]), ties to the lowest id: a draw
/// from `softmax(l / temperature)` that depends on the row and its settings only. Temperature 0 is [`greedy`].
///
/// `settings` change single logits, cut the distribution and ask for several samples or for lists; without them it is
/// one sample of all of it.
pub fn sample(
    hidden: Matrix,
    weight: Matrix,
    draws: &Draws,
    settings: Option<&Settings>,
    rules: &Rules,
    out: SampleOut,
) -> Result<()> {
    draws.check(hidden.shape()[0])?;
    choose(hidden, weight, Some(draws), settings, rules, out)
}

fn choose(
    hidden: Matrix,
    weight: Matrix,
    draws: Option<&Draws>,
    settings: Option<&Settings>,
    rules: &Rules,
    out: SampleOut,
) -> Result<()> {
    let problem = problem(hidden, weight, rules)?;
    let rows = problem.hidden.count();
    if let Some(settings) = settings {
        settings.check(rows, weight.shape()[0], problem.valid_vocab)?;
    }
    let (samples, top) = settings.map_or((1, 0), |settings| (settings.samples, settings.top));
    for (name, given, each) in [
        ("token", out.token.len(), samples),
        ("logprob", out.logprob.len(), samples),
        ("raw_logprob", out.raw_logprob.len(), samples),
        ("lse", out.lse.len(), 1),
        ("flag", out.flag.len(), 1),
        ("rank", out.rank.len(), samples),
        ("logit", out.logit.len(), samples),
        ("kept", out.kept.len(), 1),
        ("kept_mass", out.kept_mass.len(), 1),
        ("entropy", out.entropy.len(), 1),
        ("top_token", out.top_token.len(), top),
        ("top_logprob", out.top_logprob.len(), top),
    ] {
        if rows.checked_mul(each) != Some(given) {
            return Err(Error::argument(name, format!("{each} for each of {rows} rows"), given));
        }
    }
    let plans: Vec<Plan> = (0..rows).map(|row| Plan::new(draws, settings, row, problem.valid_vocab)).collect();
    let results = Results { out, samples, top };
    let mut draw = Draw { plans: &plans, results, undecided: Vec::new() };
    pass::run(&problem, &mut draw)?;
    let Draw { mut results, undecided, .. } = draw;
    if undecided.is_empty() {
        return Ok(());
    }
    second::decide(&problem, &hidden, &plans, &undecided, &mut results)
}

/// Counts the ranks that [`sample`] left [`UNRANKED`], of tokens with these logits; `settings` and `rules` as there.
pub fn rank(
    hidden: Matrix,
    weight: Matrix,
    settings: Option<&Settings>,
    rules: &Rules,
    token: &[i64],
    logit: &[f32],
    rank: &mut [i64],
) -> Result<()> {
    let problem = problem(hidden, weight, rules)?;
    let rows = problem.hidden.count();
    if let Some(settings) = settings {
        settings.check(rows, weight.shape()[0], problem.valid_vocab)?;
    }
    let samples = settings.map_or(1, |settings| settings.samples);
    for (name, given) in [("token", token.len()), ("logit", logit.len()), ("rank", rank.len())] {
        if rows.checked_mul(samples) != Some(given) {
            return Err(Error::argument(name, format!("{samples} for each of {rows} rows"), given));
        }
    }
    let plans: Vec<Plan> = (0..rows).map(|row| Plan::new(None, settings, row, problem.valid_vocab)).collect();
    let open = (0..rank.len()).filter(|&at| rank[at] == UNRANKED);
    let draws: Vec<_> = open.map(|at| (at, at / samples, token[at] as usize, logit[at])).collect();
    if draws.is_empty() {
        return Ok(());
    }
    second::rank(&problem, &hidden, &plans, &draws, rank)
}

/// Below every rank: more tokens come first than a pass keeps in order.
pub const UNRANKED: i64 = -2;

/// Log-probability, rank and entropy of given tokens, `targets [rows]`.
pub fn score(hidden: Matrix, weight: Matrix, targets: &[i64], rules: &Rules, out: ScoreOut) -> Result<()> {
    let problem = problem(hidden, weight, rules)?;
    check_targets(targets, problem.hidden.count(), problem.valid_vocab)?;
    for (name, given) in [
        ("logprob", out.logprob.len()),
        ("rank", out.rank.len()),
        ("entropy", out.entropy.len()),
        ("lse", out.lse.len()),
    ] {
        check_rows(name, problem.hidden.count(), given)?;
    }
    pass::run(&problem, &mut given::Given::new(&problem, targets, out))
}

/// The `k` largest logits in order, ties to the lowest id first, for any `k` up to the number of tokens.
pub fn top(hidden: Matrix, weight: Matrix, k: usize, rules: &Rules, out: TopOut) -> Result<()> {
    let problem = problem(hidden, weight, rules)?;
    check_k(k, problem.valid_vocab)?;
    let rows = problem.hidden.count();
    check_rows("lse", rows, out.lse.len())?;
    for (name, given) in [("token", out.token.len()), ("logit", out.logit.len())] {
        if rows.checked_mul(k) != Some(given) {
            return Err(Error::argument(name, format!("shape [{rows}, {k}]"), given));
        }
    }
    pass::run(&problem, &mut list::List { k, out })
}

fn problem<'p, 'h: 'p, 'w: 'p, 'r: 'p>(
    hidden: Matrix<'h>,
    weight: Matrix<'w>,
    rules: &Rules<'r>,
) -> Result<Problem<'p>> {
    if hidden.dtype() != weight.dtype() {
        let (expected, given) = (format!("{}, as hidden", hidden.dtype().name()), weight.dtype().name().into());
        return Err(Error::Dtype { argument: "weight", expected, given });
    }
    let valid_vocab = check_rules(hidden.shape(), weight.shape(), rules)?;
    let (hidden, weight) = (Rows::new("hidden", &hidden)?, Rows::new("weight", &weight)?);
    Ok(Problem { kernels: kernels(dispatch::machine()?), hidden, weight, rules: *rules, valid_vocab })
}
