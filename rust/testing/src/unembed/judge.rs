//! How far results of the unembedding may be from the oracle's.

use super::{Case, Chosen, Results};
use crate::oracle::unembed as oracle;
use farspan_core::unembed::FLAG_EMPTY;
use proptest::prelude::*;

pub fn number(bits: u32) -> f64 {
    f64::from(f32::from_bits(bits))
}

fn close(got: u32, truth: f64, allowed: f64, what: &str) -> Result<(), TestCaseError> {
    let got = number(got);
    prop_assert!(
        got == truth || (got - truth).abs() <= allowed,
        "{what}: got {got}, the oracle {truth}, allowed {allowed:e}"
    );
    Ok(())
}

/// Judges a row of `greedy` or of `sample`.
fn judge_choice(
    case: &Case,
    (row, off): (usize, f64),
    logits: &[f64],
    chosen: &Chosen,
    temperature: f64,
) -> Result<(), TestCaseError> {
    if logits.iter().all(|l| *l == f64::NEG_INFINITY) {
        prop_assert_eq!((chosen.token[row], chosen.flag[row]), (-1, FLAG_EMPTY));
        return Ok(());
    }
    prop_assert_eq!(chosen.flag[row], 0);
    let token = chosen.token[row] as usize;
    prop_assert!(logits[token] > f64::NEG_INFINITY, "token {token} is banned");
    let scores = oracle::perturbed(logits, &case.key(row), temperature);
    let (best, _) = oracle::best(&scores);
    let colder = if temperature > 0.0 { temperature.min(1.0) } else { 1.0 };
    let size = scores[best].abs() + 50.0;
    let margin = 2.0 * off / colder + 4.0 * f64::from(f32::EPSILON) * size;
    prop_assert!(
        scores[token] >= scores[best] - margin,
        "temperature {temperature}: token {token} of score {} instead of {best} of {}",
        scores[token],
        scores[best]
    );
    let lse = oracle::lse(logits);
    let slack = 1e-6 * (1.0 + lse.abs());
    close(chosen.numbers[2][row], lse, off + slack, "lse")?;
    close(chosen.numbers[1][row], logits[token] - lse, 2.0 * off + slack, "raw_logprob")?;
    if temperature == 0.0 {
        prop_assert_eq!(chosen.numbers[0][row], 0);
    } else if temperature > 1e-30 {
        let scaled: Vec<f64> = logits.iter().map(|l| l / temperature).collect();
        let truth = scaled[token] - oracle::lse(&scaled);
        let slack = 2.0 * off / colder + 2e-6 * (1.0 + truth.abs() + (logits.len() as f64).ln());
        close(chosen.numbers[0][row], truth, slack, "logprob")?;
    }
    Ok(())
}

/// Holds every operation to the oracle, by logits that may be `allowed(row)` from its own.
pub fn judge(case: &Case, results: &Results, allowed: impl Fn(usize) -> f64) -> Result<(), TestCaseError> {
    for row in 0..case.hidden.rows {
        let logits = case.logits(row);
        let off = allowed(row);
        judge_choice(case, (row, off), &logits, &results.greedy, 0.0)?;
        judge_choice(case, (row, off), &logits, &results.sample, f64::from(case.temperature[row]))?;
        let lse = oracle::lse(&logits);
        let slack = 1e-6 * (1.0 + lse.abs());
        let target = logits[case.targets[row] as usize];
        close(results.score[2][row], lse, off + slack, "score's lse")?;
        let banned = target == f64::NEG_INFINITY;
        close(results.score[0][row], if banned { target } else { target - lse }, 2.0 * off + slack, "score's logprob")?;
        let count = logits.iter().filter(|l| **l > f64::NEG_INFINITY).count() as f64;
        close(
            results.score[1][row],
            oracle::entropy(&logits),
            8.0 * off + 4e-6 * (1.0 + count.ln() + lse.abs()),
            "entropy",
        )?;
        let above = |margin: f64| logits.iter().filter(|l| **l > target + margin).count() as i64;
        let ranks = if banned { above(0.0)..=logits.len() as i64 } else { above(2.0 * off)..=above(-2.0 * off) };
        prop_assert!(ranks.contains(&results.rank[row]), "rank {} outside {ranks:?}", results.rank[row]);
        close(results.top[1][row], lse, off + slack, "top's lse")?;
        let ranking = oracle::ranking(&logits);
        let mut seen = vec![false; logits.len()];
        for i in 0..case.k {
            let (token, logit) = (results.top_token[row * case.k + i] as usize, results.top[0][row * case.k + i]);
            prop_assert!(!std::mem::replace(&mut seen[token], true), "top lists token {token} twice");
            close(logit, logits[token], off, "top's logit is its token's")?;
            close(logit, logits[ranking[i]], off, "top's logits in order")?;
            if i > 0 {
                let (before, last) =
                    (number(results.top[0][row * case.k + i - 1]), results.top_token[row * case.k + i - 1]);
                prop_assert!(before > number(logit) || before == number(logit) && last < token as i64, "top's order");
            }
        }
    }
    Ok(())
}

/// How far a float32 logit of a row may be from the oracle's, whose products and sums take `roundings` of the largest
/// sum of products, and whose cap takes `of_cap` of it.
pub fn rounding(case: &Case, row: usize, roundings: f64, of_cap: f64) -> f64 {
    let hidden = case.hidden.f64_row(row);
    let sizes = (0..case.weight.rows).map(|token| {
        let weight = case.weight.f64_row(token);
        hidden.iter().zip(&weight).map(|(h, w)| (h * w).abs()).filter(|x| x.is_finite()).sum::<f64>()
    });
    let largest = sizes.fold(0.0, f64::max) * f64::from(case.scale.abs());
    let bias = case.bias.iter().flatten().filter(|b| b.is_finite()).fold(0f64, |m, b| m.max(f64::from(b.abs())));
    let cap = of_cap * f64::from(case.softcap.unwrap_or(0.0));
    f64::from(f32::EPSILON) * (roundings * largest + 4.0 * (1.0 + bias) + cap)
}

/// The list that `score` gives beside is that of `top`, `(token, logit, lse)`, as log-probabilities.
pub fn list_beside_score(given: (&[i64], &[f32]), (token, logit, lse): (Vec<i64>, Vec<f32>, Vec<f32>), k: usize) {
    assert_eq!(given.0, token, "the list beside a score");
    for (at, (&logprob, &logit)) in given.1.iter().zip(&logit).enumerate() {
        let wanted = logit - lse[at / k];
        let near = (logprob - wanted).abs() <= 1e-5 * (1.0 + logit.abs());
        assert!(near || (logprob.is_nan() && wanted.is_nan()) || !wanted.is_finite(), "{logprob} is not {wanted}");
    }
}
