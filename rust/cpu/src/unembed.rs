//! The sampling unembedding: what a vocabulary says of a hidden state, without ever holding the logits.
//!
//! All four operations are one pass over tiles of the vocabulary ([`pass`]) with an epilogue each. `hidden [rows,
//! dim]`, `weight [vocab, dim]`, of one element type. A row's result has the same bits in any batch, at any place in
//! it, at any number of threads and on any machine. An error names the argument that does not fit.

pub(crate) mod chunk;
mod draw;
pub(crate) mod pass;
mod reader;
mod row;
mod score;
mod second;
mod top;

use crate::matrix::Matrix;
use farspan_core::draw::{Gather, Plan, Results, Shards, decide, plans};
pub use farspan_core::draw::{SampleOut, Samples, UNRANKED};
use farspan_core::sampler::{Settings, check_top};
use farspan_core::unembed::{HostDraws, check_k, check_rows, check_targets};
use farspan_core::{Error, Result};
use pass::Checked;
use reader::Reader;
use row::{Changes, Row};
pub use second::second_passes;

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
    /// `[rows, top]`: the most likely tokens; -1 in a row with NaN.
    pub top_token: &'a mut [i64],
    /// `[rows, top]`: their log-probabilities.
    pub top_logprob: &'a mut [f32],
}

impl ScoreOut<'_> {
    /// The fields' names.
    pub const NAMES: &'static [&'static str] = &["logprob", "rank", "entropy", "lse", "top_token", "top_logprob"];
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

/// What is read: arrays of the host.
pub type Problem<'a> = farspan_core::unembed::Problem<Matrix<'a>, &'a [f32]>;

/// `argmax(l)`, ties to the lowest id; the log-probability of the choice is 0.
pub fn greedy(problem: &Problem, out: SampleOut) -> Result<()> {
    choose(problem, None, None, out)
}

/// `argmax(l / temperature + noise)` under noise version 1 ([`farspan_core::noise`]), ties to the lowest id: a draw
/// from `softmax(l / temperature)` that depends on the row and its settings only. Temperature 0 is [`greedy`].
///
/// `settings` change single logits, cut the distribution and ask for several samples or for lists; without them it is
/// one sample of all of it.
pub fn sample(problem: &Problem, draws: &HostDraws, settings: Option<&Settings>, out: SampleOut) -> Result<()> {
    choose(problem, Some(draws), settings, out)
}

fn choose(problem: &Problem, draws: Option<&HostDraws>, settings: Option<&Settings>, out: SampleOut) -> Result<()> {
    let (problem, hidden) = (Checked::new(problem)?, &problem.hidden);
    let rows = problem.hidden.count();
    let plans = plans(&problem.tokens, rows, draws, settings)?;
    let (samples, top) = settings.map_or((1, 0), |settings| (settings.samples, settings.top));
    let mut results = Results::new(out, rows, samples, top)?;
    let mut reader = Reader { rows: of_plans(&plans, settings), hidden, samples, problem: &problem };
    decide(&mut reader, &plans, &mut results, problem.tokens.valid_vocab)
}

/// [`sample`] of a part of a vocabulary, [`farspan_core::unembed::Problem::shard`]. `gather` exchanges statistics
/// with the holders of the other parts, all of whom get the same results. Ids in `settings` and
/// [`farspan_core::unembed::Rules::valid_vocab`] are those of the whole vocabulary.
pub fn sample_of_shard<F: From<Error>>(
    problem: &Problem,
    draws: &HostDraws,
    settings: Option<&Settings>,
    gather: &mut Gather<'_, F>,
    out: SampleOut,
) -> Result<(), F> {
    let (problem, hidden) = (Checked::new(problem)?, &problem.hidden);
    let (tokens, rows) = (problem.tokens, problem.hidden.count());
    let plans = plans(&tokens, rows, Some(draws), settings)?;
    let (samples, top) = settings.map_or((1, 0), |settings| (settings.samples, settings.top));
    let mut results = Results::new(out, rows, samples, top)?;
    let reader = Reader { rows: of_plans(&plans, settings), hidden, samples, problem: &problem };
    let mut shards = Shards::new(reader, &plans, samples, tokens, gather);
    decide(&mut shards, &plans, &mut results, tokens.valid_vocab)
}

/// How each row is read.
fn of_plans<'s>(plans: &[Plan], settings: Option<&Settings<'s>>) -> Vec<Row<'s>> {
    let changes = |row| settings.map(|settings| Changes::of(settings, row));
    plans.iter().enumerate().map(|(row, &plan)| Row { plan, changes: changes(row) }).collect()
}

/// Counts the ranks that [`sample`] left [`UNRANKED`], of tokens with these logits; `settings` as there. In a part of a
/// vocabulary, counts the part's tokens that come before them.
pub fn rank(
    problem: &Problem,
    settings: Option<&Settings>,
    token: &[i64],
    logit: &[f32],
    rank: &mut [i64],
) -> Result<()> {
    let (problem, hidden) = (Checked::new(problem)?, &problem.hidden);
    let all = of_plans(&plans(&problem.tokens, problem.hidden.count(), None, settings)?, settings);
    let samples = settings.map_or(1, |settings| settings.samples);
    for (name, given) in [("token", token.len()), ("logit", logit.len()), ("rank", rank.len())] {
        if all.len().checked_mul(samples) != Some(given) {
            return Err(Error::argument(name, format!("{samples} for each of {} rows", all.len()), given));
        }
    }
    let open = (0..rank.len()).filter(|&at| rank[at] == UNRANKED);
    let draws: Vec<_> = open.map(|at| (at, at / samples, token[at] as usize, logit[at])).collect();
    if draws.is_empty() {
        return Ok(());
    }
    second::rank(&problem, hidden, &all, &draws, rank)
}

/// Log-probability, rank and entropy of given tokens, `targets [rows]`, and the `top` most likely ones.
pub fn score(problem: &Problem, targets: &[i64], top: usize, out: ScoreOut) -> Result<()> {
    let problem = Checked::new(problem)?;
    let rows = problem.hidden.count();
    check_targets(targets, rows, problem.tokens.valid_vocab)?;
    check_top(top, problem.tokens.valid_vocab)?;
    for (name, given) in [
        ("logprob", out.logprob.len()),
        ("rank", out.rank.len()),
        ("entropy", out.entropy.len()),
        ("lse", out.lse.len()),
    ] {
        check_rows(name, rows, given)?;
    }
    for (name, given) in [("top_token", out.top_token.len()), ("top_logprob", out.top_logprob.len())] {
        check_lists(name, rows, top, given)?;
    }
    pass::run(&problem, &mut score::Score::new(&problem, targets, top, out))
}

/// The `k` largest logits in order, ties to the lowest id first, for any `k` up to the number of tokens.
pub fn top(problem: &Problem, k: usize, out: TopOut) -> Result<()> {
    let problem = Checked::new(problem)?;
    check_k(k, problem.tokens.valid_vocab)?;
    let rows = problem.hidden.count();
    check_rows("lse", rows, out.lse.len())?;
    for (name, given) in [("token", out.token.len()), ("logit", out.logit.len())] {
        check_lists(name, rows, k, given)?;
    }
    pass::run(&problem, &mut top::Top { k, out })
}

fn check_lists(argument: &'static str, rows: usize, each: usize, given: usize) -> Result<()> {
    match rows.checked_mul(each) == Some(given) {
        true => Ok(()),
        false => Err(Error::argument(argument, format!("shape [{rows}, {each}]"), given)),
    }
}
