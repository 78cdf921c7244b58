//! The unembedding against the float64 oracle, its edges, and the promise that a row has the same bits in every call.

#[path = "support/unembed_case.rs"]
mod unembed_case;

use farspan_core::Dtype;
use farspan_core::oracle::unembed as oracle;
use farspan_core::unembed::{FLAG_EMPTY, FLAG_NAN};
use farspan_cpu::dispatch::{MACHINES, force};
use farspan_cpu::threads::set_num_threads;
use proptest::prelude::*;
use std::sync::{Mutex, MutexGuard, PoisonError};
use unembed_case::{Case, Chosen, Results, Stored, cases, normals};

/// Machine and thread count are the process's: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    let guard = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    force(None);
    set_num_threads(2).unwrap();
    guard
}

fn number(bits: u32) -> f64 {
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
    row: usize,
    logits: &[f64],
    chosen: &Chosen,
    temperature: f64,
) -> Result<(), TestCaseError> {
    let off = case.allowed(row);
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

fn judge(case: &Case, results: &Results) -> Result<(), TestCaseError> {
    for row in 0..case.hidden.rows {
        let logits = case.logits(row);
        let off = case.allowed(row);
        judge_choice(case, row, &logits, &results.greedy, 0.0)?;
        judge_choice(case, row, &logits, &results.sample, f64::from(case.temperature[row]))?;
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn every_operation_meets_the_oracle_with_the_same_bits_on_every_machine(case in cases()) {
        let _guard = alone();
        let mut first: Option<Results> = None;
        for machine in MACHINES.into_iter().filter(|machine| machine.is_available()) {
            force(Some(machine));
            let results = case.run();
            if let Some(first) = &first {
                prop_assert_eq!(first, &results, "{} differs", machine.name());
            } else {
                judge(&case, &results)?;
                first = Some(results);
            }
        }
    }

    #[test]
    fn a_row_has_the_same_bits_in_any_batch_and_place(case in cases(), shift in any::<prop::sample::Index>()) {
        let _guard = alone();
        let whole = case.run();
        set_num_threads(1).unwrap();
        prop_assert_eq!(&whole, &case.run(), "one thread");
        set_num_threads(3).unwrap();
        let rows = case.hidden.rows;
        if rows > 0 {
            let turned: Vec<usize> = (0..rows).map(|row| (row + shift.index(rows)) % rows).collect();
            prop_assert_eq!(case.slice(&whole, &turned), case.pick(&turned).run(), "turned rows");
            let one = [shift.index(rows)];
            prop_assert_eq!(case.slice(&whole, &one), case.pick(&one).run(), "a row alone");
        }
    }
}

/// One row of logits given by the bias alone.
fn of_bias(bias: Vec<f32>, rows: usize) -> Case {
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

#[test]
fn the_noise_is_the_same_with_and_without_the_shortcut() {
    let _guard = alone();
    let vocab = 5000;
    let case = of_bias(normals(5, vocab).iter().map(|x| 3.0 * x).collect(), 40);
    let chosen = case.choose(true);
    for row in 0..40 {
        let bias = case.bias.as_ref().unwrap();
        let scores = (0..vocab).map(|v| bias[v] + farspan_core::noise::noise(&case.key(row), v as u32));
        let best =
            scores.enumerate().fold((0, f32::NEG_INFINITY), |best, (v, s)| if s > best.1 { (v, s) } else { best });
        assert_eq!(chosen.token[row], best.0 as i64, "row {row}");
    }
}

#[test]
fn a_nan_is_flagged_in_its_row_alone() {
    let _guard = alone();
    let (rows, vocab, dim) = (70, 3000, 20);
    for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
        let mut hidden = normals(1, rows * dim);
        let weight = Stored::new(&normals(2, vocab * dim), vocab, dim, 0, dtype);
        let case = |hidden: &[f32]| Case {
            hidden: Stored::new(hidden, rows, dim, 0, dtype),
            weight: weight.clone(),
            bias: None,
            targets: vec![5; rows],
            valid_vocab: vocab,
            k: 3,
            ..of_bias(vec![0.0; vocab], rows)
        };
        let clean = case(&hidden).run();
        hidden[33 * dim + 7] = f32::NAN;
        let bad = case(&hidden);
        let results = bad.run();
        let rest: Vec<usize> = (0..rows).filter(|row| *row != 33).collect();
        assert_eq!(bad.slice(&clean, &rest), bad.slice(&results, &rest));
        for chosen in [&results.greedy, &results.sample] {
            assert_eq!((chosen.token[33], chosen.flag[33]), (-1, FLAG_NAN));
            assert!(chosen.numbers.iter().all(|numbers| number(numbers[33]).is_nan()));
        }
        assert_eq!((results.rank[33], results.top_token[99]), (-1, -1));
        assert!(results.score.iter().all(|numbers| number(numbers[33]).is_nan()));
    }
}

#[test]
fn what_is_banned_or_past_the_vocabulary_has_no_influence() {
    let _guard = alone();
    let (rows, vocab, dim) = (12, 1500, 24);
    let weight = normals(4, vocab * dim);
    let mut case = Case {
        hidden: Stored::new(&normals(3, rows * dim), rows, dim, 0, Dtype::F32),
        weight: Stored::new(&weight, vocab, dim, 0, Dtype::F32),
        targets: vec![1; rows],
        ..of_bias(vec![0.0; vocab], rows)
    };
    case.valid_vocab = 1400;
    case.bias.as_mut().unwrap()[700..800].fill(f32::NEG_INFINITY);
    let clean = case.run();
    assert!(clean.sample.flag.iter().all(|flag| *flag == 0));
    for filling in [f32::NAN, f32::INFINITY, 1e30] {
        let mut weight = weight.clone();
        weight[700 * dim..800 * dim].fill(filling);
        weight[1400 * dim..].fill(filling);
        let filled = Case { weight: Stored::new(&weight, vocab, dim, 0, Dtype::F32), ..case.clone() };
        assert_eq!(clean, filled.run(), "filled with {filling}");
    }
}

#[test]
fn nothing_to_choose_is_flagged() {
    let _guard = alone();
    let mut case = of_bias(vec![f32::NEG_INFINITY; 700], 2);
    for valid_vocab in [700, 0] {
        case.valid_vocab = valid_vocab;
        for chosen in [case.choose(false), case.choose(true)] {
            assert_eq!((&chosen.token[..], &chosen.flag[..]), (&[-1, -1][..], &[FLAG_EMPTY, FLAG_EMPTY][..]));
            assert!(chosen.numbers.iter().flatten().all(|x| number(*x) == f64::NEG_INFINITY));
        }
    }
}

#[test]
fn infinite_logits_share_the_mass() {
    let _guard = alone();
    let mut bias = vec![0.0; 2500];
    bias[600] = f32::INFINITY;
    bias[2400] = f32::INFINITY;
    let case = of_bias(bias, 30);
    let results = case.run();
    assert!(results.greedy.token.iter().all(|token| *token == 600));
    assert!(results.sample.token.iter().all(|token| *token == 600), "infinite scores tie, ties go to the lowest id");
    assert!(results.greedy.numbers[1].iter().all(|raw| (number(*raw) + 2f64.ln()).abs() < 1e-6));
    assert!(results.greedy.numbers[2].iter().all(|lse| number(*lse) == f64::INFINITY));
}

#[test]
fn ties_go_to_the_lowest_id_across_segments() {
    let _guard = alone();
    for ids in [[0usize, 4099], [511, 512], [2047, 2048], [31, 32], [4098, 4099]] {
        let mut bias = vec![-50.0; 4100];
        ids.iter().for_each(|id| bias[*id] = 2.0);
        let mut case = of_bias(bias, 3);
        case.temperature = vec![0.0; 3];
        case.targets = vec![ids[1] as i64; 3];
        for threads in 1..4 {
            set_num_threads(threads).unwrap();
            let results = case.run();
            assert_eq!(results.greedy.token, [ids[0] as i64; 3]);
            assert_eq!(results.sample.token, [ids[0] as i64; 3]);
            assert_eq!(results.rank, [1; 3]);
            let lowest: Vec<i64> = (0..4).filter(|v| !ids.contains(&(*v as usize))).collect();
            assert_eq!(results.top_token[..4], [ids[0] as i64, ids[1] as i64, lowest[0], lowest[1]]);
        }
    }
}

#[test]
fn a_million_draws_follow_their_distribution() {
    let _guard = alone();
    let (vocab, rows) = (40, 1_000_000);
    let bias = normals(9, vocab);
    let logits: Vec<f64> = bias.iter().map(|b| f64::from(*b) / 0.8).collect();
    let lse = oracle::lse(&logits);
    let mut case = of_bias(bias, rows);
    case.temperature = vec![0.8; rows];
    case.position = (0..rows as u32).collect();
    case.seed = vec![11; rows];
    let chosen = case.choose(true);
    let mut counts = vec![0u32; vocab];
    chosen.token.iter().for_each(|token| counts[*token as usize] += 1);
    let statistic: f64 = counts
        .iter()
        .zip(&logits)
        .map(|(count, l)| {
            let expected = rows as f64 * (l - lse).exp();
            (f64::from(*count) - expected).powi(2) / expected
        })
        .sum();
    assert!(statistic < 97.0, "chi-square {statistic} on 39 degrees of freedom: one in a million");
}

#[test]
fn the_tail_is_drawn_as_often_as_it_should() {
    let _guard = alone();
    // A head and 2^17 tokens at gap 28: with 32-bit uniforms no noise reaches further than 22.9, and none would ever
    // win.
    let (tail, gap) = (1 << 17, 28.0f64);
    let lift = (tail as f64).ln();
    // The tail's own largest noise exceeds 28 in about one draw of 11 million; one token of the same mass stands for
    // it.
    let mut case = of_bias(vec![0.0, -(gap - lift) as f32], 1_000_000);
    case.position = (0..1_000_000).collect();
    case.seed = vec![3; 1_000_000];
    let odds = (-(gap - lift)).exp();
    let expected = 1e6 * odds / (1.0 + odds);
    let drawn = case.choose(true).token.iter().sum::<i64>() as f64;
    assert!((drawn - expected).abs() < 5.0 * expected.sqrt() + 1.0, "{drawn} tail draws, {expected} expected");
}
