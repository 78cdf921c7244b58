//! Attention on every instruction set, which all give the same bits; many callers at once; problems that are refused.

use farspan_core::Dtype;
use farspan_core::attention::{Rules, Shape, dense_sequences, paged_sequences, ragged_sequences};
use farspan_cpu::dispatch::Machine;
use farspan_cpu::threads::set_num_threads;
use farspan_testing::attention::suite::causal;
use farspan_testing::attention::{Backend, Hooks, assert_bits, cases};
use farspan_testing::attention_suite;
use farspan_testing::cpu::Cpu;
use farspan_testing::cpu::attention::run;
use proptest::prelude::*;

attention_suite!(portable = Cpu::on(Machine::Portable));
attention_suite!(avx2 = Cpu::on(Machine::Avx2));
attention_suite!(avx512 = Cpu::on(Machine::Avx512));

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_machine_gives_the_same_bits(draft in cases()) {
        let case = draft.build();
        let expected = Cpu::best().run(&case, 0);
        for cpu in Cpu::all() {
            assert_bits(&expected, &cpu.run(&case, 0), cpu.name());
        }
    }
}

#[test]
fn many_callers_at_once() {
    let cases = [
        causal(300, 300, 24, Hooks::default(), Dtype::F32),
        causal(1, 3000, 64, Hooks { rotary: true, ..Hooks::default() }, Dtype::F32),
    ];
    let alone = cases.each_ref().map(run);
    std::thread::scope(|scope| {
        for caller in 0..8 {
            let (case, expected) = (&cases[caller % 2], &alone[caller % 2]);
            scope.spawn(move || {
                for count in [1, 2, 3] {
                    set_num_threads(count).unwrap();
                    assert_bits(expected, &run(case), "a call among others");
                }
            });
        }
    });
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
