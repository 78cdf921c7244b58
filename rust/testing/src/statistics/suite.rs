//! What every backend of the statistics has to do: meet the oracle in every hook, and give a row the same bits in every
//! call.

use super::{Backend, Statistics, assert_bits};
use crate::DTYPES;
use crate::attention::suite::causal;
use crate::attention::{Case, Hooks, cases};
use farspan_core::Dtype;
use farspan_core::attention::Rules;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

/// Instantiates the suite.
#[macro_export]
macro_rules! statistics_suite {
    ($name:ident = $backend:expr) => {
        $crate::instantiate! {
            $name = $backend, [$crate::statistics::suite]:
            statistics_of_all_hooks_meet_the_oracle
            a_row_has_the_same_statistics_alone
            every_width_and_type
            every_row_of_a_prefill_is_its_decode_step
            windows_over_chunks
            rising_and_falling_scores
            equal_scores_are_counted
            a_sink_takes_its_share
            garbage_that_a_row_does_not_see_has_no_influence
            rows_that_see_nothing
            no_queries_and_no_keys
        }
    };
}

/// Holds the backend to the oracle, and gives what it said.
fn judged<B: Backend>(backend: &B, case: &Case, variation: u64) -> Statistics<f32> {
    let found = backend.run(case, variation);
    backend.judge(case, &found);
    found
}

fn runner<B: Backend>(backend: &B) -> TestRunner {
    TestRunner::new(ProptestConfig::with_cases(backend.cases()))
}

pub fn statistics_of_all_hooks_meet_the_oracle<B: Backend>(backend: &B) {
    let checked = runner(backend).run(&(cases(), any::<u64>()), |(draft, variation)| {
        judged(backend, &draft.build(), variation);
        Ok(())
    });
    checked.unwrap();
}

pub fn a_row_has_the_same_statistics_alone<B: Backend>(backend: &B) {
    let strategy = (cases(), prop::array::uniform3(any::<u64>()), any::<prop::sample::Index>());
    let checked = runner(backend).run(&strategy, |(draft, variations, pick)| {
        let case = draft.build();
        let whole = backend.run(&case, variations[0]);
        assert_bits(&whole, &backend.run(&case, variations[1]), "under other circumstances");
        for index in 0..case.oracle.sequences.len() {
            let sequence = case.oracle.sequences[index];
            let alone = backend.run(&case.only(index), variations[2]);
            assert_bits(&whole.sequence(&case, index), &alone, "a sequence alone");
            if sequence.queries > 0 {
                let query = pick.index(sequence.queries);
                let (step, row) = (case.only(index).step(query), whole.sequence(&case, index).query(&case, query));
                let one = backend.run(&step, variations[1]).query(&step, 0);
                assert_bits(&row, &one, "a decode step");
            }
        }
        Ok(())
    });
    checked.unwrap();
}

pub fn every_width_and_type<B: Backend>(backend: &B) {
    for dtype in DTYPES {
        for head_dim in [1, 32, 64, 128, 256] {
            for hooks in [Hooks::default(), Hooks::ALL] {
                for queries in [3, 70] {
                    judged(backend, &causal(queries, 150, head_dim, hooks, dtype), 0);
                }
            }
        }
    }
}

pub fn every_row_of_a_prefill_is_its_decode_step<B: Backend>(backend: &B) {
    let time = 11 * B::CHUNK / 4;
    let at_chunks = (1..3).flat_map(|chunk| [chunk * B::CHUNK - 1, chunk * B::CHUNK, chunk * B::CHUNK + 1]);
    let queries: Vec<usize> = (0..time).step_by(time / 9).chain(at_chunks).chain([time - 1]).collect();
    for dtype in DTYPES {
        for hooks in [Hooks::default(), Hooks::ALL] {
            let case = causal(time, time, 24, hooks, dtype);
            let whole = judged(backend, &case, 0);
            for &query in &queries {
                for variation in [0, 1] {
                    let step = backend.run(&case.step(query), variation);
                    assert_bits(&whole.query(&case, query), &step, "a decode step");
                }
            }
        }
    }
}

pub fn windows_over_chunks<B: Backend>(backend: &B) {
    let of = |parts: usize| parts * B::CHUNK / 8; // eighths of a chunk
    for (window, keep_first) in
        [((Some(of(12)), Some(0)), 3), ((Some(of(1)), None), 0), ((Some(of(19)), Some(5)), of(11))]
    {
        let mut case = causal(of(18), of(41), 8, Hooks { key_bias: true, ..Hooks::default() }, Dtype::F32);
        case.oracle.rules = Rules { window, keep_first, causal: keep_first == 3, ..case.oracle.rules };
        judged(backend, &case, 0);
        case.oracle.key_bias = None;
        judged(backend, &case, 1);
    }
}

/// The maximum of a row moves from chunk to chunk, or never again after the first one.
pub fn rising_and_falling_scores<B: Backend>(backend: &B) {
    let keys = 3 * B::CHUNK + 20;
    for slope in [40.0, -40.0, 3.0, -3.0] {
        let hooks = Hooks { key_bias: true, sink: true, ..Hooks::default() };
        let mut case = causal(30, keys, 16, hooks, Dtype::F32);
        (0..keys).for_each(|key| case.bias_key(key, slope * key as f32 / keys as f32));
        judged(backend, &case, 0);
    }
}

/// With a scale of 0 all keys have the same share.
pub fn equal_scores_are_counted<B: Backend>(backend: &B) {
    let keys = B::CHUNK + 44;
    let mut case = causal(keys, keys, 16, Hooks::default(), Dtype::F32);
    case.oracle.rules.scale = 0.0;
    let found = judged(backend, &case, 0);
    for query in 0..keys {
        let (row, seen) = (found.query(&case, query), (query + 1) as f32);
        for head in 0..4 {
            let share = 1.0 / seen;
            let close = |x: f32, y: f32| assert!((x - y).abs() <= 1e-6 * y.max(1.0), "query {query}: {x} and {y}");
            close(row.entropy[head], seen.ln());
            close(row.largest[head], share);
            close(row.first[head], share);
            close(row.distance[head], query as f32 / 2.0);
            assert_eq!(row.sink[head], 0.0);
        }
    }
}

pub fn a_sink_takes_its_share<B: Backend>(backend: &B) {
    for sink in [-30.0, 0.0, 5.0, 60.0, f32::NEG_INFINITY] {
        let mut case = causal(20, B::CHUNK + 44, 16, Hooks { sink: true, ..Hooks::default() }, Dtype::F32);
        case.oracle.sink = Some(vec![sink; 4]);
        let found = judged(backend, &case, 0);
        assert!(found.sink.iter().all(|x| (*x == 0.0) == (sink == f32::NEG_INFINITY)), "{sink}");
    }
}

pub fn garbage_that_a_row_does_not_see_has_no_influence<B: Backend>(backend: &B) {
    let kinds = [(Dtype::F32, Hooks::default()), (Dtype::Bf16, Hooks::ALL), (Dtype::F16, Hooks::default())];
    for garbage in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for (queries, keys) in [(60, B::CHUNK + 44), (3, B::CHUNK + 44), (1, 40)] {
            for (dtype, hooks) in kinds {
                let mut case = causal(queries, keys, 20, hooks, dtype);
                let clean = backend.run(&case, 0);
                let bad = keys - queries / 2 - 1;
                case.spoil_key(bad, garbage);
                let spoilt = backend.run(&case, 0);
                for query in 0..queries {
                    let (clean, spoilt) = (clean.query(&case, query), spoilt.query(&case, query));
                    if query + keys - queries < bad {
                        assert_bits(&clean, &spoilt, "a row before the garbage");
                    } else if garbage.is_nan() {
                        assert!(spoilt.entropy.iter().all(|x| x.is_nan()), "row {query} sees {garbage}");
                        assert!(spoilt.sink.iter().all(|x| x.is_nan() == hooks.sink), "row {query}");
                    }
                }
            }
        }
    }
}

pub fn rows_that_see_nothing<B: Backend>(backend: &B) {
    for dtype in DTYPES {
        for (queries, keys) in [(70, 3), (5, 2), (4, 0)] {
            let case = causal(queries, keys, 8, Hooks::default(), dtype);
            let found = backend.run(&case, 0);
            for query in 0..queries - keys {
                for (name, x) in found.query(&case, query).named() {
                    let nothing = if name == "lse" { f32::NEG_INFINITY } else { 0.0 };
                    assert!(x.iter().all(|x| x.to_bits() == nothing.to_bits()), "{name} {x:?}");
                }
            }
            let case = causal(queries, keys, 8, Hooks { sink: true, ..Hooks::default() }, dtype);
            let row = backend.run(&case, 0).query(&case, 0);
            assert_eq!(&row.lse, case.oracle.sink.as_ref().unwrap());
            assert!(row.sink.iter().all(|x| *x == 1.0));
            let others = [&row.entropy, &row.largest, &row.first, &row.distance];
            assert!(others.into_iter().flatten().all(|x| x.to_bits() == 0));
        }
    }
}

pub fn no_queries_and_no_keys<B: Backend>(backend: &B) {
    for (queries, keys) in [(0, 5), (0, 0), (2, 0)] {
        judged(backend, &causal(queries, keys, 16, Hooks::ALL, Dtype::Bf16), 0);
    }
}
