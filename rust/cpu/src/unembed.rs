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
mod second;
mod sums;

use crate::arch::unembed::dot::Rows;
use crate::arch::unembed::kernels;
use crate::dispatch;
use crate::matrix::Matrix;
use changes::Changes;
use draw::{Draw, Row};
use farspan_core::draw::{Part, Results, plans};
pub use farspan_core::draw::{SampleOut, Samples, UNRANKED};
use farspan_core::sampler::{Settings, check_top};
use farspan_core::unembed::{Draws, Rules, Shard, check_k, check_rows, check_rules, check_targets};
use farspan_core::{Error, Result};
use pass::Problem;
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
    let problem = problem(hidden, weight, rules, None)?;
    let (samples, top) = settings.map_or((1, 0), |settings| (settings.samples, settings.top));
    let all = rows(&problem, draws, settings)?;
    let mut results = Results::new(out, all.len(), samples, top)?;
    let mut undecided = Vec::new();
    let each = |row: usize, found| {
        if results.row(row, &all[row].plan, &found).is_err() {
            undecided.push(row);
        }
    };
    pass::run(&problem, &mut Draw { rows: &all, samples, each })?;
    for rows in undecided.chunks(second::rows_at_once(problem.exist)) {
        for (&row, found) in rows.iter().zip(second::whole(&problem, &hidden, &all, rows)?) {
            results.whole_row(row, &all[row].plan, &found);
        }
    }
    Ok(())
}

/// What [`sample`] finds in one part of a vocabulary, for [`farspan_core::draw::merge`] to make one of all parts.
///
/// Ids in `settings` and `rules.valid_vocab` are those of the whole vocabulary, `rules.bias` is of this part.
/// `undecided` are rows that a first merge left undecided: they alone are read, and all of their logits are listed.
pub fn part(
    hidden: Matrix,
    weight: Matrix,
    draws: &Draws,
    settings: Option<&Settings>,
    rules: &Rules,
    shard: Shard,
    undecided: Option<&[usize]>,
) -> Result<Part> {
    draws.check(hidden.shape()[0])?;
    let problem = problem(hidden, weight, rules, Some(shard))?;
    let all = rows(&problem, Some(draws), settings)?;
    let found = match undecided {
        Some(rows) => {
            if let Some(&row) = rows.iter().find(|&&row| row >= all.len()) {
                return Err(Error::argument("rows", format!("rows below {}", all.len()), row));
            }
            second::whole(&problem, &hidden, &all, rows)?
        }
        None => {
            let mut found = Vec::with_capacity(all.len());
            let each = |_, row| found.push(row);
            pass::run(&problem, &mut Draw { rows: &all, samples: settings.map_or(1, |s| s.samples), each })?;
            found
        }
    };
    Ok(Part::new(problem.tokens(), problem.exist, found))
}

/// How each row is read, of settings that fit.
fn rows<'s>(problem: &Problem, draws: Option<&Draws>, settings: Option<&Settings<'s>>) -> Result<Vec<Row<'s>>> {
    let rows = problem.hidden.count();
    if let Some(settings) = settings {
        settings.check(rows, problem.vocab, problem.exist)?;
    }
    let plans = plans(draws, settings, rows, problem.exist).into_iter().enumerate();
    Ok(plans.map(|(row, plan)| Row { plan, changes: settings.map(|settings| Changes::of(settings, row)) }).collect())
}

/// Counts the ranks that [`sample`] left [`UNRANKED`], of tokens with these logits; `settings` and `rules` as there. In
/// a part of a vocabulary, counts the part's tokens that come before them.
#[expect(clippy::too_many_arguments, reason = "those of `sample`, and what was drawn")]
pub fn rank(
    hidden: Matrix,
    weight: Matrix,
    settings: Option<&Settings>,
    rules: &Rules,
    shard: Option<Shard>,
    token: &[i64],
    logit: &[f32],
    rank: &mut [i64],
) -> Result<()> {
    let problem = problem(hidden, weight, rules, shard)?;
    let all = rows(&problem, None, settings)?;
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
    second::rank(&problem, &hidden, &all, &draws, rank)
}

/// Log-probability, rank and entropy of given tokens, `targets [rows]`, and the `top` most likely ones.
pub fn score(hidden: Matrix, weight: Matrix, targets: &[i64], top: usize, rules: &Rules, out: ScoreOut) -> Result<()> {
    let problem = problem(hidden, weight, rules, None)?;
    let rows = problem.hidden.count();
    check_targets(targets, rows, problem.exist)?;
    check_top(top, problem.exist)?;
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
    pass::run(&problem, &mut given::Given::new(&problem, targets, top, out))
}

/// The `k` largest logits in order, ties to the lowest id first, for any `k` up to the number of tokens.
pub fn top(hidden: Matrix, weight: Matrix, k: usize, rules: &Rules, out: TopOut) -> Result<()> {
    let problem = problem(hidden, weight, rules, None)?;
    check_k(k, problem.exist)?;
    let rows = problem.hidden.count();
    check_rows("lse", rows, out.lse.len())?;
    for (name, given) in [("token", out.token.len()), ("logit", out.logit.len())] {
        check_lists(name, rows, k, given)?;
    }
    pass::run(&problem, &mut list::List { k, out })
}

fn check_lists(argument: &'static str, rows: usize, each: usize, given: usize) -> Result<()> {
    match rows.checked_mul(each) == Some(given) {
        true => Ok(()),
        false => Err(Error::argument(argument, format!("shape [{rows}, {each}]"), given)),
    }
}

fn problem<'p, 'h: 'p, 'w: 'p, 'r: 'p>(
    hidden: Matrix<'h>,
    weight: Matrix<'w>,
    rules: &Rules<'r>,
    shard: Option<Shard>,
) -> Result<Problem<'p>> {
    if hidden.dtype() != weight.dtype() {
        let (expected, given) = (format!("{}, as hidden", hidden.dtype().name()), weight.dtype().name().into());
        return Err(Error::Dtype { argument: "weight", expected, given });
    }
    let held = weight.shape()[0];
    let shard = shard.unwrap_or(Shard { first: 0, vocab: held });
    let exist = check_rules(hidden.shape(), weight.shape(), rules, shard)?;
    let (hidden, weight) = (Rows::new("hidden", &hidden)?, Rows::new("weight", &weight)?);
    Ok(Problem {
        kernels: kernels(dispatch::machine()?),
        hidden,
        weight,
        rules: *rules,
        first: shard.first,
        valid: exist.saturating_sub(shard.first).min(held),
        exist,
        vocab: shard.vocab,
    })
}
