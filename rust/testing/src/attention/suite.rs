//! What every backend of attention has to do: meet the oracle in every hook, and give a row the same bits in every
//! call.

use super::{Backend, Case, Hooks, Result32, assert_bits, cases, of_seed};
use crate::DTYPES;
use crate::numbers::unit;
use crate::oracle::attention as oracle;
use farspan_core::Dtype;
use farspan_core::attention::{Rules, Shape, dense_sequences};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

/// Instantiates the suite.
#[macro_export]
macro_rules! attention_suite {
    ($name:ident = $backend:expr) => {
        $crate::instantiate! {
            $name = $backend, [$crate::attention::suite]:
            all_hooks_meet_the_oracle
            a_row_has_the_same_bits_alone
            every_width_and_type_with_and_without_hooks
            every_row_of_a_prefill_is_its_decode_step
            windows_over_chunks
            garbage_that_a_row_does_not_see_has_no_influence
            infinite_values_are_seen_as_such
            a_visible_value_passes_through_a_weight_of_zero
            rows_that_see_nothing
            an_unseen_chunk_changes_no_zero
            far_positions_keep_their_precision
            no_queries_and_no_keys
            the_error_is_that_of_the_type
        }
    };
}

/// A dense causal case of chosen sizes.
pub fn causal(queries: usize, keys: usize, head_dim: usize, hooks: Hooks, dtype: Dtype) -> Case {
    let shape = Shape {
        batch: 1,
        query_heads: 4,
        key_heads: 2,
        query_time: queries,
        key_batch: 1,
        key_time: keys,
        head_dim,
        value_dim: head_dim,
    };
    let rules = Rules { causal: true, ..Rules::plain(head_dim) };
    of_seed(7, shape, dense_sequences(&shape, None).unwrap(), rules, hooks, dtype)
}

/// Holds the backend to the oracle, and gives what it said.
fn judged<B: Backend>(backend: &B, case: &Case, variation: u64) -> Result32 {
    let result = backend.run(case, variation);
    backend.judge(case, &result);
    result
}

fn runner<B: Backend>(backend: &B) -> TestRunner {
    TestRunner::new(ProptestConfig::with_cases(backend.cases()))
}

pub fn all_hooks_meet_the_oracle<B: Backend>(backend: &B) {
    let checked = runner(backend).run(&(cases(), any::<u64>()), |(draft, variation)| {
        judged(backend, &draft.build(), variation);
        Ok(())
    });
    checked.unwrap();
}

pub fn a_row_has_the_same_bits_alone<B: Backend>(backend: &B) {
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

pub fn every_width_and_type_with_and_without_hooks<B: Backend>(backend: &B) {
    for dtype in DTYPES {
        for head_dim in [32, 64, 128, 256] {
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
            let whole = backend.run(&case, 0);
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
        for dtype in DTYPES {
            let mut case = causal(of(18), of(41), 8, Hooks { key_bias: true, ..Hooks::default() }, dtype);
            case.oracle.rules = Rules { window, keep_first, causal: keep_first == 3, ..case.oracle.rules };
            judged(backend, &case, 0);
            case.oracle.key_bias = None;
            judged(backend, &case, 1);
        }
    }
}

pub fn garbage_that_a_row_does_not_see_has_no_influence<B: Backend>(backend: &B) {
    let kinds = [(Dtype::F32, Hooks::default()), (Dtype::Bf16, Hooks::ALL), (Dtype::F16, Hooks::default())];
    for garbage in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for (queries, keys) in [(60, B::CHUNK + 44), (3, B::CHUNK + 44), (1, 40)] {
            for (dtype, hooks) in kinds {
                for variation in [0, 1] {
                    let mut case = causal(queries, keys, 20, hooks, dtype);
                    let clean = backend.run(&case, variation);
                    let bad = keys - queries / 2 - 1;
                    case.spoil_key(bad, garbage);
                    let spoilt = backend.run(&case, variation);
                    for query in 0..queries {
                        let (clean, spoilt) = (clean.query(&case, query), spoilt.query(&case, query));
                        if query + keys - queries < bad {
                            assert_bits(&clean, &spoilt, "a row before the garbage");
                        } else {
                            assert!(spoilt.output.iter().all(|x| x.is_nan()), "row {query} sees {garbage}");
                        }
                    }
                }
            }
        }
    }
}

/// Infinities of values reach the rows that see them, whether or not other rows of the tile do.
pub fn infinite_values_are_seen_as_such<B: Backend>(backend: &B) {
    for dtype in DTYPES {
        let mut case = causal(60, 60, 40, Hooks::default(), dtype);
        let clean = backend.run(&case, 0);
        case.spoil_value(20, f32::INFINITY);
        let spoilt = backend.run(&case, 0);
        for query in 0..60 {
            let (row, before) = (spoilt.query(&case, query), clean.query(&case, query));
            if query < 20 {
                assert_bits(&before, &row, "a row before the infinity");
            } else {
                assert!(row.output.iter().all(|x| *x == f32::INFINITY), "{dtype:?} {query}: {:?}", row.output);
                let step = case.step(query);
                assert_bits(&row, &backend.run(&step, 0).query(&step, 0), "the same in a decode step");
            }
        }
        case.spoil_value(30, f32::NEG_INFINITY);
        let both = backend.run(&case, 0).query(&case, 40);
        assert!(both.output.iter().all(|x| x.is_nan()));
    }
}

pub fn a_visible_value_passes_through_a_weight_of_zero<B: Backend>(backend: &B) {
    for dtype in DTYPES {
        for queries in [1, 60] {
            let mut case = causal(queries, B::CHUNK + 44, 16, Hooks { key_bias: true, ..Hooks::default() }, dtype);
            case.bias_key(5, -1e4);
            case.spoil_value(5, f32::NAN);
            assert!(backend.run(&case, 0).output.iter().all(|x| x.is_nan()), "0 * NaN is NaN");
            case.bias_key(5, f32::NEG_INFINITY);
            assert!(backend.run(&case, 0).output.iter().all(|x| x.is_finite()), "a hidden value does not exist");
        }
    }
}

pub fn rows_that_see_nothing<B: Backend>(backend: &B) {
    for dtype in DTYPES {
        for (queries, keys) in [(70, 3), (5, 2), (4, 0)] {
            let case = causal(queries, keys, 8, Hooks::default(), dtype);
            let result = backend.run(&case, 0);
            for query in 0..queries - keys {
                let row = result.query(&case, query);
                assert!(row.output.iter().all(|x| x.to_bits() == 0));
                assert!(row.lse.iter().all(|x| *x == f32::NEG_INFINITY));
            }
            let sink = causal(queries, keys, 8, Hooks { sink: true, ..Hooks::default() }, dtype);
            let row = backend.run(&sink, 0).query(&sink, 0);
            assert!(row.output.iter().all(|x| x.to_bits() == 0));
            assert_eq!(&row.lse, sink.oracle.sink.as_ref().unwrap());
        }
    }
}

/// A row of zeros, whose sign is negative on a GPU, and behind it a chunk of keys that only its neighbours see.
pub fn an_unseen_chunk_changes_no_zero<B: Backend>(backend: &B) {
    let (chunk, keys) = (B::CHUNK, B::CHUNK + 120);
    let mut case = causal(60, keys, 16, Hooks { key_bias: true, ..Hooks::default() }, Dtype::F32);
    let o = &mut case.oracle;
    o.query.fill(0.0);
    // The sum of the first chunk underflows where the maximum of the second one scales it down.
    for values in o.value.chunks_mut(keys * 16) {
        values[..chunk * 16].fill(-f32::from_bits(1));
        values[chunk * 16..].fill(0.0);
    }
    for bias in o.key_bias.as_mut().unwrap().chunks_mut(keys) {
        bias[..chunk].fill(0.0);
        bias[chunk..].fill(10.0);
    }
    let (row, step) = (backend.run(&case, 0).query(&case, 0), case.step(0));
    assert!(row.output.iter().all(|x| *x == 0.0), "{:?}", row.output);
    assert_bits(&row, &backend.run(&step, 0), "the same in a decode step");
}

pub fn far_positions_keep_their_precision<B: Backend>(backend: &B) {
    let mut case = causal(3, 3, 32, Hooks { rotary: true, ..Hooks::default() }, Dtype::F32);
    for start in [1e6, 1e9, -3e8] {
        case.oracle.query_positions = Some((0..3).map(|i| start + f64::from(i)).collect());
        case.oracle.key_positions = Some((0..3).map(|i| start + f64::from(i) * 0.5).collect());
        judged(backend, &case, 0);
    }
}

pub fn no_queries_and_no_keys<B: Backend>(backend: &B) {
    for (queries, keys) in [(0, 5), (0, 0), (2, 0)] {
        let result = backend.run(&causal(queries, keys, 16, Hooks::ALL, Dtype::Bf16), 0);
        assert!(result.output.iter().all(|x| x.to_bits() == 0));
    }
}

/// The relative error of all outputs together, in units of the type.
pub fn the_error_is_that_of_the_type<B: Backend>(backend: &B) {
    for (dtype, allowed) in [(Dtype::F32, 8.0), (Dtype::Bf16, 0.75), (Dtype::F16, 0.75)] {
        let case = causal(128, 256, 64, Hooks::default(), dtype);
        let (truth, _) = oracle::attention(&case.oracle);
        let result = backend.run(&case, 0);
        let square = |x: f64| x * x;
        let error: f64 = result.output.iter().zip(&truth).map(|(x, y)| square(f64::from(*x) - y)).sum();
        let total: f64 = truth.iter().map(|y| square(*y)).sum();
        let units = (error / total).sqrt() / unit(dtype);
        assert!(units < allowed, "{dtype:?}: {units}");
    }
}
