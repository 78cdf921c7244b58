//! What every backend that follows sampler settings has to do: keep what a naive program that sorts keeps, with the
//! same bits in every call.

use super::sorting::judge;
use super::{Backend, bits, cases, everything};
use farspan_core::unembed::SHARD_UNIT;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use std::cell::Cell;

/// Instantiates the suite.
#[macro_export]
macro_rules! sampler_suite {
    ($name:ident = $backend:expr) => {
        $crate::instantiate! {
            $name = $backend, [$crate::sampler::suite]:
            cuts_keep_what_sorting_says
            neither_batch_nor_slot_nor_circumstances_matter
            parts_of_the_vocabulary_merge_into_the_whole
        }
    };
}

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(ProptestConfig::with_cases(cases))
}

pub fn cuts_keep_what_sorting_says<B: Backend>(backend: &B) {
    let (clear, rows) = (Cell::new(0), Cell::new(0));
    let judged = runner(2 * backend.cases()).run(&cases(), |case| {
        let samples = backend.run(&case, 0);
        for row in 0..case.rows.len() {
            rows.set(rows.get() + 1);
            clear.set(clear.get() + usize::from(judge(&case, row, &samples)?));
        }
        Ok(())
    });
    judged.unwrap();
    assert!(clear.get() * 10 > rows.get() * 6, "only {} of {} rows were clear", clear.get(), rows.get());
}

pub fn neither_batch_nor_slot_nor_circumstances_matter<B: Backend>(backend: &B) {
    let checked = runner(backend.cases() / 2).run(&(cases(), 0usize..7), |(case, turn)| {
        let (whole, count) = (backend.run(&case, 0), case.rows.len());
        let turned: Vec<usize> = (0..count).map(|row| (row + turn) % count).collect();
        for variation in 1..3 {
            let found = everything(&backend.run(&case, variation), &case);
            prop_assert_eq!(found, everything(&whole, &case), "variation {}", variation);
            for rows in [turned.clone(), vec![turned[0]], [turned.clone(), turned.clone(), turned.clone()].concat()] {
                let other = case.pick(&rows);
                let found = everything(&backend.run(&other, variation), &other);
                prop_assert_eq!(found, bits(&whole, &rows, &case), "rows {:?}", rows);
            }
        }
        Ok(())
    });
    checked.unwrap();
}

pub fn parts_of_the_vocabulary_merge_into_the_whole<B: Backend>(backend: &B) {
    let strategy = (cases(), prop::collection::vec(0usize..5, 0..8));
    let checked = runner(backend.cases() / 2).run(&strategy, |(case, cuts)| {
        let vocab = case.rows[0].logits.len();
        let mut ends: Vec<usize> = cuts.iter().map(|cut| (cut * SHARD_UNIT).min(vocab)).chain([vocab]).collect();
        ends.sort_unstable();
        let whole = backend.run(&case, 0);
        for drawn in backend.run_in_parts(&case, &ends) {
            prop_assert_eq!(everything(&drawn, &case), everything(&whole, &case), "cut at {:?}", ends);
        }
        Ok(())
    });
    checked.unwrap();
}
