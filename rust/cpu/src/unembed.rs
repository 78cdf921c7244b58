//! The sampling unembedding: what a vocabulary says of a hidden state, without ever holding the logits.
//!
//! All four operations are one pass over tiles of the vocabulary ([`pass`]) with an epilogue each. `hidden [rows, dim]`,
//! `weight [vocab, dim]`, of one element type. A row's result has the same bits in any batch, at any place in it, at any
//! number of threads and on any machine. An error names the argument that does not fit.

mod choose;
mod given;
mod list;
mod pass;
mod sums;

use crate::arch::unembed::dot::Rows;
use crate::arch::unembed::kernels;
use crate::dispatch;
use crate::matrix::Matrix;
use farspan_core::unembed::{Draws, Rules, check_k, check_rows, check_rules, check_targets};
use farspan_core::{Error, Result};
use pass::Problem;

/// Where [`greedy`] and [`sample`] write, `[rows]` each.
#[derive(Debug)]
pub struct SampleOut<'a> {
    /// The chosen token; -1 where the flag is not 0.
    pub token: &'a mut [i64],
    /// Its log-probability under the distribution it was drawn from.
    pub logprob: &'a mut [f32],
    /// Its log-probability under `softmax(l)`.
    pub raw_logprob: &'a mut [f32],
    /// `log(sum(exp(l)))`.
    pub lse: &'a mut [f32],
    /// 0, [`farspan_core::unembed::FLAG_NAN`] or [`farspan_core::unembed::FLAG_EMPTY`].
    pub flag: &'a mut [i32],
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
    choose(hidden, weight, None, rules, out)
}

/// `argmax(l / temperature + noise)` under noise version 1 ([`farspan_core::noise`]), ties to the lowest id: a draw from
/// `softmax(l / temperature)` that depends on the row and its settings only. Temperature 0 is [`greedy`].
pub fn sample(hidden: Matrix, weight: Matrix, draws: &Draws, rules: &Rules, out: SampleOut) -> Result<()> {
    draws.check(hidden.shape()[0])?;
    choose(hidden, weight, Some(*draws), rules, out)
}

fn choose(hidden: Matrix, weight: Matrix, draws: Option<Draws>, rules: &Rules, out: SampleOut) -> Result<()> {
    let problem = problem(hidden, weight, rules)?;
    for (name, given) in [
        ("token", out.token.len()),
        ("logprob", out.logprob.len()),
        ("raw_logprob", out.raw_logprob.len()),
        ("lse", out.lse.len()),
        ("flag", out.flag.len()),
    ] {
        check_rows(name, problem.hidden.count(), given)?;
    }
    pass::run(&problem, &mut choose::Choose { draws, out })
}

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
