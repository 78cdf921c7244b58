//! Every hook of attention against the float64 oracle, and the promise that a row has the same bits in every call.

#[path = "support/attention_case.rs"]
mod attention_case;

use attention_case::{Case, Hooks, Result32, assert_bits, bound, of_seed};
use farspan_core::Dtype;
use farspan_core::attention::{Rules, Shape, dense_sequences, paged_sequences, ragged_sequences};
use farspan_cpu::dispatch::{MACHINES, Machine, force};
use farspan_cpu::threads::set_num_threads;
use proptest::prelude::*;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Machine and thread count are the process's: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    let guard = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    force(None);
    set_num_threads(2).unwrap();
    guard
}

fn machines() -> impl Iterator<Item = Machine> {
    MACHINES.into_iter().filter(|machine| machine.is_available())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn all_hooks_meet_the_oracle_with_the_same_bits_on_every_machine(case in attention_case::cases()) {
        let _guard = alone();
        let case = case.build();
        let (truth, truth_lse) = farspan_core::oracle::attention::attention(&case.oracle);
        let mut first: Option<Result32> = None;
        for machine in machines() {
            force(Some(machine));
            let result = case.run();
            bound(&case, &result, &truth, &truth_lse);
            if let Some(first) = &first {
                assert_bits(first, &result, machine.name());
            }
            first = Some(result);
        }
    }

    #[test]
    fn a_row_has_the_same_bits_alone(case in attention_case::cases(), pick in any::<prop::sample::Index>()) {
        let _guard = alone();
        let case = case.build();
        let whole = case.run();
        set_num_threads(1).unwrap();
        assert_bits(&whole, &case.run(), "one thread");
        for index in 0..case.oracle.sequences.len() {
            let sequence = case.oracle.sequences[index];
            assert_bits(&whole.sequence(&case, index), &case.only(index).run(), "a sequence alone");
            if sequence.queries > 0 {
                let query = pick.index(sequence.queries);
                let (step, row) = (case.only(index).step(query), whole.sequence(&case, index).query(&case, query));
                let one = step.run().query(&step, 0);
                assert_bits(&row, &one, "a decode step");
            }
        }
    }
}

/// A dense causal case of chosen sizes.
fn causal(queries: usize, keys: usize, head_dim: usize, hooks: Hooks) -> Case {
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
    of_seed(7, shape, dense_sequences(&shape, None).unwrap(), rules, hooks, Dtype::F32)
}

#[test]
fn every_row_of_a_long_prefill_is_its_decode_step() {
    let _guard = alone();
    let all = Hooks {
        rotary: true,
        far: true,
        key_bias: true,
        distance_bias: true,
        query_scale: true,
        sink: true,
        ..Hooks::default()
    };
    for hooks in [Hooks::default(), all] {
        let case = causal(700, 700, 24, hooks);
        let whole = case.run();
        for query in (0..700).step_by(37).chain([255, 256, 257, 511, 512, 699]) {
            assert_bits(&whole.query(&case, query), &case.step(query).run(), "a decode step");
        }
    }
}

#[test]
fn many_callers_at_once() {
    let _guard = alone();
    let cases =
        [causal(300, 300, 24, Hooks::default()), causal(1, 3000, 64, Hooks { rotary: true, ..Hooks::default() })];
    let alone = cases.each_ref().map(Case::run);
    std::thread::scope(|scope| {
        for caller in 0..8 {
            let (case, expected) = (&cases[caller % 2], &alone[caller % 2]);
            scope.spawn(move || {
                for count in [1, 2, 3] {
                    set_num_threads(count).unwrap();
                    assert_bits(expected, &case.run(), "a call among others");
                }
            });
        }
    });
}

#[test]
fn windows_over_chunks() {
    let _guard = alone();
    for (window, keep_first) in [((Some(300), Some(0)), 3), ((Some(40), None), 0), ((Some(600), Some(5)), 290)] {
        let mut case = causal(500, 900, 8, Hooks { key_bias: true, ..Hooks::default() });
        case.oracle.rules = Rules { window, keep_first, causal: keep_first == 3, ..case.oracle.rules };
        let (truth, truth_lse) = farspan_core::oracle::attention::attention(&case.oracle);
        bound(&case, &case.run(), &truth, &truth_lse);
    }
}

#[test]
fn garbage_that_a_row_does_not_see_has_no_influence() {
    let _guard = alone();
    for garbage in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for (queries, keys) in [(60, 300), (3, 300), (1, 40)] {
            for machine in machines() {
                force(Some(machine));
                let mut case = causal(queries, keys, 20, Hooks::default());
                let clean = case.run();
                let bad = keys - queries / 2 - 1;
                case.spoil_key(bad, garbage);
                let spoilt = case.run();
                for query in 0..queries {
                    let (clean, spoilt) = (clean.query(&case, query), spoilt.query(&case, query));
                    if query + keys - queries < bad {
                        assert_bits(&clean, &spoilt, "a row before the garbage");
                    } else {
                        assert!(
                            spoilt.output.iter().all(|x| x.is_nan()),
                            "row {query} sees {garbage} and must show it"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_visible_value_passes_through_a_weight_of_zero() {
    let _guard = alone();
    for queries in [1, 60] {
        let mut case = causal(queries, 300, 16, Hooks { key_bias: true, ..Hooks::default() });
        case.bias_key(5, -1e4);
        case.spoil_value(5, f32::NAN);
        assert!(case.run().output.iter().all(|x| x.is_nan()), "0 * NaN is NaN");
        case.bias_key(5, f32::NEG_INFINITY);
        assert!(case.run().output.iter().all(|x| x.is_finite()), "a hidden value does not exist");
    }
}

#[test]
fn rows_that_see_nothing() {
    let _guard = alone();
    for (queries, keys) in [(70, 3), (5, 2), (4, 0)] {
        let case = causal(queries, keys, 8, Hooks::default());
        let result = case.run();
        for query in 0..queries - keys {
            let row = result.query(&case, query);
            assert!(row.output.iter().all(|x| x.to_bits() == 0) && row.lse.iter().all(|x| *x == f32::NEG_INFINITY));
        }
        let sink = causal(queries, keys, 8, Hooks { sink: true, ..Hooks::default() });
        let row = sink.run().query(&sink, 0);
        assert!(row.output.iter().all(|x| x.to_bits() == 0));
        assert_eq!(&row.lse, sink.oracle.sink.as_ref().unwrap());
    }
}

#[test]
fn far_positions_keep_their_precision() {
    let _guard = alone();
    let mut case = causal(3, 3, 32, Hooks { rotary: true, ..Hooks::default() });
    for start in [1e6, 1e9, -3e8] {
        case.oracle.query_positions = Some((0..3).map(|i| start + f64::from(i)).collect());
        case.oracle.key_positions = Some((0..3).map(|i| start + f64::from(i) * 0.5).collect());
        let (truth, truth_lse) = farspan_core::oracle::attention::attention(&case.oracle);
        bound(&case, &case.run(), &truth, &truth_lse);
    }
}

#[test]
fn malformed_problems_are_refused_by_name() {
    let shape = Shape {
        batch: 2,
        query_heads: 4,
        key_heads: 2,
        query_time: 5,
        key_batch: 2,
        key_time: 9,
        head_dim: 8,
        value_dim: 8,
    };
    let error = |result: farspan_core::Result<()>| result.unwrap_err().to_string();
    let new = |q, k, v| error(Shape::new(q, k, v).map(|_| ()));
    assert!(new([2, 4, 5, 0], [2, 2, 9, 0], [2, 2, 9, 8]).starts_with("query"));
    assert!(new([2, 4, 5, 300], [2, 2, 9, 300], [2, 2, 9, 8]).starts_with("query"));
    assert!(new([2, 4, 5, 8], [2, 3, 9, 8], [2, 3, 9, 8]).starts_with("key"));
    assert!(new([2, 4, 5, 8], [2, 0, 9, 8], [2, 0, 9, 8]).starts_with("key"));
    assert!(new([2, 4, 5, 8], [2, 2, 9, 8], [2, 2, 8, 8]).starts_with("value"));
    let lengths = |lengths: &[i64]| error(dense_sequences(&shape, Some(lengths)).map(|_| ()));
    assert!(lengths(&[9, 10]).starts_with("key_lengths") && lengths(&[-1, 3]).starts_with("key_lengths"));
    assert!(lengths(&[9]).starts_with("key_lengths"));
    let flat = Shape { batch: 1, ..shape };
    let ragged = |q: &[i64], k: &[i64]| error(ragged_sequences(&flat, q, k, None).map(|_| ()));
    for bad in [&[0, 4, 2, 5][..], &[0, 6], &[1, 5], &[], &[-5, 5], &[0, 1 << 40, 5]] {
        assert!(ragged(bad, &[0, 9]).starts_with("query_offsets"), "{bad:?}");
    }
    assert!(ragged(&[0, 5], &[0, 3, 9]).starts_with("key_offsets"));
    let paged = |k, v, table| error(Shape::paged([2, 4, 5, 8], k, v, table).map(|_| ()));
    assert!(paged([7, 3, 4, 8], [7, 3, 4, 8], [2, 3]).starts_with("key"));
    assert!(paged([7, 2, 4, 6], [7, 2, 4, 8], [2, 3]).starts_with("key"));
    assert!(paged([7, 2, 4, 8], [8, 2, 4, 8], [2, 3]).starts_with("value"));
    assert!(paged([0, 2, 4, 8], [0, 2, 4, 8], [2, 3]).starts_with("key"));
    assert!(paged([7, 2, 4, 8], [7, 2, 4, 8], [2, usize::MAX]).starts_with("block_table"));
    let lengths = |q: &[i64], lengths: &[i64]| error(paged_sequences(&flat, q, Some(lengths)).map(|_| ()));
    assert!(lengths(&[0, 5], &[10]).starts_with("key_lengths") && lengths(&[0, 6], &[9]).starts_with("query_offsets"));
    let rules = |window, first, scale, cap| error(Rules::new(8, false, window, first, scale, cap).map(|_| ()));
    assert!(rules((Some(-1), None), 0, None, None).starts_with("window"));
    assert!(rules((None, None), -1, None, None).starts_with("keep_first"));
    assert!(rules((None, None), 0, Some(f64::NAN), None).starts_with("scale"));
    assert!(rules((None, None), 0, None, Some(0.0)).starts_with("softcap"));
}
