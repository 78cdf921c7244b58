//! Sampler settings: the same bits on every machine, in every batch and at any number of threads, and kept sets against
//! a naive program that sorts.

#[path = "support/sampler_case.rs"]
mod sampler_case;

use farspan_core::noise::NoiseKey;
use farspan_core::oracle::unembed as oracle;
use farspan_core::unembed::{FLAG_EMPTY, SHARD_UNIT};
use farspan_cpu::dispatch::{MACHINES, force};
use farspan_cpu::threads::set_num_threads;
use farspan_cpu::unembed::Samples;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use sampler_case::{Case, cases};
use std::cell::Cell;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Machine and thread count are the process's: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    let guard = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    force(None);
    set_num_threads(2).unwrap();
    guard
}

/// Decisions nearer to their border than this, relative to it, are left to rounding.
const BORDER: f64 = 2e-5;

/// All fields of some rows by their bits, so that NaN equals itself.
fn bits(samples: &Samples, rows: &[usize], case: &Case) -> Vec<u64> {
    let mut all = Vec::new();
    for &row in rows {
        let (drawn, listed) = (row * case.samples..(row + 1) * case.samples, row * case.top..(row + 1) * case.top);
        let whole = [&samples.token[drawn.clone()], &samples.rank[drawn.clone()], &samples.top_token[listed.clone()]];
        let real = [&samples.logprob, &samples.raw_logprob, &samples.logit].map(|all| &all[drawn.clone()]).concat();
        let own = [samples.lse[row], samples.kept_mass[row], samples.entropy[row]];
        all.extend(whole.concat().iter().map(|&x| x as u64));
        all.extend(real.iter().chain(&samples.top_logprob[listed]).chain(&own).map(|x| u64::from(x.to_bits())));
        all.extend([samples.kept[row] as u64, samples.flag[row] as u64]);
    }
    all
}

fn everything(samples: &Samples, case: &Case) -> Vec<u64> {
    bits(samples, &(0..case.rows.len()).collect::<Vec<_>>(), case)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn every_machine_gives_the_same_bits(case in cases()) {
        let _guard = alone();
        let mut expected: Option<Vec<u64>> = None;
        for machine in MACHINES.into_iter().filter(|machine| machine.is_available()) {
            force(Some(machine));
            let found = everything(&case.run(), &case);
            prop_assert_eq!(&found, expected.get_or_insert_with(|| found.clone()), "{:?}", machine);
        }
        force(None);
    }

    #[test]
    fn neither_batch_nor_slot_nor_threads_matter(case in cases(), turn in 0usize..7) {
        let _guard = alone();
        let (whole, count) = (case.run(), case.rows.len());
        let turned: Vec<usize> = (0..count).map(|row| (row + turn) % count).collect();
        for threads in 1..4 {
            set_num_threads(threads).unwrap();
            prop_assert_eq!(everything(&case.run(), &case), everything(&whole, &case), "{} threads", threads);
            for rows in [turned.clone(), vec![turned[0]], [turned.clone(), turned.clone(), turned.clone()].concat()] {
                let other = case.pick(&rows);
                prop_assert_eq!(everything(&other.run(), &other), bits(&whole, &rows, &case), "rows {:?}", rows);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]

    #[test]
    fn parts_of_the_vocabulary_merge_into_the_whole(case in cases(), cuts in prop::collection::vec(0usize..5, 0..8)) {
        let _guard = alone();
        let vocab = case.rows[0].logits.len();
        let mut ends: Vec<usize> = cuts.iter().map(|cut| (cut * SHARD_UNIT).min(vocab)).chain([vocab]).collect();
        ends.sort_unstable();
        let whole = case.run();
        for drawn in case.run_in_parts(&ends) {
            prop_assert_eq!(everything(&drawn, &case), everything(&whole, &case), "cut at {:?}", ends);
        }
    }
}

/// One row against the sorting program; whether its decisions were clear.
fn judge(case: &Case, row: usize, samples: &Samples) -> Result<bool, TestCaseError> {
    let l = case.rows[row].changed();
    let size = l.iter().filter(|l| **l > f64::NEG_INFINITY).count();
    let tokens = &samples.token[row * case.samples..(row + 1) * case.samples];
    if size == 0 {
        prop_assert_eq!((tokens[0], samples.flag[row], samples.kept[row]), (-1, FLAG_EMPTY, 0));
        return Ok(true);
    }
    prop_assert_eq!(samples.flag[row], 0);
    let mut clear = true;
    for (sample, &token) in tokens.iter().enumerate() {
        let Some((kept, margin)) = case.rows[row].kept(case.order, sample) else {
            prop_assert_eq!((samples.kept[row], samples.kept_mass[row]), (1, 1.0));
            let best = (0..l.len()).rev().max_by(|&a, &b| l[a].total_cmp(&l[b])).unwrap();
            prop_assert_eq!(token, best as i64);
            continue;
        };
        if margin < BORDER {
            clear = false;
            continue;
        }
        if sample == 0 {
            prop_assert_eq!(samples.kept[row], kept.len() as i64, "row {}: {:?}", row, case.rows[row].draw);
            let share = |tokens: &[usize]| -> f64 {
                let largest = l.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                tokens.iter().map(|&token| ((l[token] - largest) / f64::from(case.rows[row].temperature)).exp()).sum()
            };
            let mass = share(&kept) / share(&(0..l.len()).collect::<Vec<_>>());
            prop_assert!((f64::from(samples.kept_mass[row]) - mass).abs() < 1e-5, "kept mass {mass}");
        }
        prop_assert!(kept.contains(&(token as usize)), "token {} is not kept", token);
        let (seed, position, stream) = case.rows[row].draw;
        let key = NoiseKey { seed, position, stream: stream.wrapping_add(sample as u32) };
        let temperature = f64::from(case.rows[row].temperature);
        let score = |token: usize| l[token] / temperature + oracle::noise(&key, token as u32);
        let best = kept.iter().map(|&token| score(token)).fold(f64::NEG_INFINITY, f64::max);
        prop_assert!(score(token as usize) > best - 1e-4, "token {} does not win", token);
    }
    Ok(clear)
}

#[test]
fn cuts_keep_what_sorting_says() {
    let _guard = alone();
    let (clear, rows) = (Cell::new(0), Cell::new(0));
    let mut runner = TestRunner::new(ProptestConfig::with_cases(300));
    let judged = runner.run(&cases(), |case| {
        let samples = case.run();
        for row in 0..case.rows.len() {
            rows.set(rows.get() + 1);
            clear.set(clear.get() + usize::from(judge(&case, row, &samples)?));
        }
        Ok(())
    });
    judged.unwrap();
    assert!(clear.get() * 10 > rows.get() * 7, "only {} of {} rows were clear", clear.get(), rows.get());
}
