//! What every backend of the gradients has to do: meet the oracle in every hook, and give a sequence the same bits in
//! every call.

use super::{Ask, Backend, Gradients, assert_bits, judge, sequence, upstream};
use crate::DTYPES;
use crate::attention::suite::causal;
use crate::attention::{Case, Hooks, Result32, cases};
use farspan_core::Dtype;
use farspan_core::attention::Rules;
use farspan_core::attention::plan::GRADIENT_KEYS;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

/// Instantiates the suite.
#[macro_export]
macro_rules! gradient_suite {
    ($name:ident = $backend:expr) => {
        $crate::instantiate! {
            $name = $backend, [$crate::gradient::suite]:
            gradients_of_all_hooks_meet_the_oracle
            a_sequence_has_the_same_gradients_alone
            every_width_and_type
            one_result_alone_and_one_gradient_alone
            gradients_of_what_was_broadcast_are_sums
            windows_over_chunks_of_keys
            many_heads_on_one_key
            garbage_that_no_row_sees_has_no_gradient
            rows_that_do_not_see_garbage_keep_their_gradient
            upstream_garbage_stays_in_what_its_row_sees
            rows_that_see_nothing_give_nothing
        }
    };
}

fn judged<B: Backend>(backend: &B, case: &Case, variation: u64) -> Gradients<f32> {
    let above = upstream(case, variation);
    let found = backend.run(case, &above, &Ask::ALL, variation);
    judge(case, &above, &found, backend.rounding(case));
    found
}

fn runner<B: Backend>(backend: &B) -> TestRunner {
    TestRunner::new(ProptestConfig::with_cases(backend.cases()))
}

pub fn gradients_of_all_hooks_meet_the_oracle<B: Backend>(backend: &B) {
    let checked = runner(backend).run(&(cases(), any::<u64>()), |(draft, variation)| {
        judged(backend, &draft.without_pages().build(), variation >> 1);
        Ok(())
    });
    checked.unwrap();
}

pub fn a_sequence_has_the_same_gradients_alone<B: Backend>(backend: &B) {
    let checked = runner(backend).run(&(cases(), prop::array::uniform3(0..u64::MAX / 2)), |(draft, variations)| {
        let case = draft.without_pages().build();
        let above = upstream(&case, variations[0]);
        let whole = backend.run(&case, &above, &Ask::ALL, variations[0]);
        assert_bits(&whole, &backend.run(&case, &above, &Ask::ALL, variations[1]), "under other circumstances");
        for index in 0..case.oracle.sequences.len() {
            let of_sequence = above.sequence(&case, index);
            let alone = backend.run(&case.only(index), &of_sequence, &Ask::ALL, variations[2]);
            assert_bits(&sequence(&case, &whole, index), &alone, "a sequence alone");
        }
        Ok(())
    });
    checked.unwrap();
}

pub fn every_width_and_type<B: Backend>(backend: &B) {
    for dtype in DTYPES {
        for head_dim in [1, 72, 256] {
            for hooks in [Hooks::default(), Hooks::ALL] {
                judged(backend, &causal(20, 150, head_dim, hooks, dtype), 1);
            }
        }
    }
}

pub fn one_result_alone_and_one_gradient_alone<B: Backend>(backend: &B) {
    let mut case = causal(60, GRADIENT_KEYS + 50, 20, Hooks::ALL, Dtype::F32);
    case.oracle.rules.softcap = Some(2.0);
    let above = upstream(&case, 5);
    let silent = |x: &Vec<f32>| vec![0.0; x.len()];
    for above in [
        Result32 { lse: silent(&above.lse), ..above.clone() },
        Result32 { output: silent(&above.output), ..above.clone() },
    ] {
        judge(&case, &above, &backend.run(&case, &above, &Ask::ALL, 0), backend.rounding(&case));
    }
    let all = backend.run(&case, &above, &Ask::ALL, 0);
    for (name, gradient) in all.named() {
        let alone = backend.run(&case, &above, &Ask { only: Some(name), summed: false }, 1);
        for (other, found) in alone.named() {
            assert_eq!(found.is_empty(), other != name, "{other} where {name} is asked for");
        }
        assert!(gradient.iter().any(|x| *x != 0.0), "{name}");
        assert_bits(&all, &alone, "a gradient alone");
    }
}

pub fn gradients_of_what_was_broadcast_are_sums<B: Backend>(backend: &B) {
    let case = causal(60, 90, 16, Hooks::ALL, Dtype::F32);
    let above = upstream(&case, 6);
    let whole = backend.run(&case, &above, &Ask::ALL, 0);
    let summed = backend.run(&case, &above, &Ask { only: None, summed: true }, 1);
    let columns = summed.distance_bias.len();
    let sum = |x: &mut dyn Iterator<Item = &f32>| x.map(|x| f64::from(*x)).sum::<f64>();
    let close = |name: &str, one: f32, total: f64, size: f64| {
        assert!((f64::from(one) - total).abs() <= 2e-7 * size, "{name}: {one} and {total}");
    };
    let size = |x: &[f32]| x.iter().map(|x| f64::from(x.abs())).sum::<f64>();
    for (name, one, all) in
        [("query_scale", &summed.query_scale, &whole.query_scale), ("key_bias", &summed.key_bias, &whole.key_bias)]
    {
        assert_eq!(one.len(), 1, "{name}");
        close(name, one[0], sum(&mut all.iter()), size(all));
    }
    for (column, one) in summed.distance_bias.iter().enumerate() {
        let total = sum(&mut whole.distance_bias.iter().skip(column).step_by(columns));
        close("distance_bias", *one, total, size(&whole.distance_bias));
    }
}

pub fn windows_over_chunks_of_keys<B: Backend>(backend: &B) {
    let of = |parts: usize| parts * GRADIENT_KEYS / 8;
    for (window, keep_first) in
        [((Some(of(12)), Some(0)), 3), ((Some(of(1)), None), 0), ((Some(of(19)), Some(5)), of(11))]
    {
        let mut case = causal(of(18), of(41), 8, Hooks { key_bias: true, sink: true, ..Hooks::default() }, Dtype::F32);
        case.oracle.rules = Rules { window, keep_first, causal: keep_first == 3, ..case.oracle.rules };
        judged(backend, &case, 2);
    }
}

/// More heads on a key head than a block of queries has rows.
pub fn many_heads_on_one_key<B: Backend>(backend: &B) {
    let mut case = causal(3, 20, 8, Hooks::default(), Dtype::F32);
    let o = &mut case.oracle;
    o.query = crate::numbers::normals(3, 130 * 3 * 8);
    (o.shape.query_heads, o.shape.key_heads) = (130, 1);
    o.key.truncate(20 * 8);
    o.value.truncate(20 * 8);
    judged(backend, &case, 3);
}

/// Head dimensions at which a loop over dimensions has vectors, halves of them and single numbers.
const UNEVEN: [usize; 5] = [1, 13, 16, 24, 31];

pub fn garbage_that_no_row_sees_has_no_gradient<B: Backend>(backend: &B) {
    for (garbage, dim) in [f32::NAN, f32::INFINITY].into_iter().flat_map(|x| UNEVEN.map(|dim| (x, dim))) {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let mut case = causal(12, GRADIENT_KEYS + 12, dim, Hooks::ALL, dtype);
            case.oracle.rules.window = (Some(6), None);
            let above = upstream(&case, 7);
            let clean = backend.run(&case, &above, &Ask::ALL, 0);
            for at in [5, GRADIENT_KEYS - 10] {
                case.spoil_key(at, garbage);
                case.bias_key(at, garbage);
            }
            assert_bits(&clean, &backend.run(&case, &above, &Ask::ALL, 0), "with garbage that nobody sees");
        }
    }
}

pub fn rows_that_do_not_see_garbage_keep_their_gradient<B: Backend>(backend: &B) {
    for (garbage, dim) in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY].into_iter().zip([16, 13, 24]) {
        let mut case = causal(60, GRADIENT_KEYS + 60, dim, Hooks::ALL, Dtype::F32);
        let above = upstream(&case, 8);
        let clean = backend.run(&case, &above, &Ask::ALL, 0);
        let bad = GRADIENT_KEYS + 30;
        case.spoil_key(bad, garbage);
        let spoilt = backend.run(&case, &above, &Ask::ALL, 0);
        for (row, (clean, spoilt)) in clean.query.chunks(dim).zip(spoilt.query.chunks(dim)).enumerate() {
            let blind = row % 60 + GRADIENT_KEYS < bad;
            assert_eq!(spoilt.iter().all(|x| x.is_finite()), blind, "row {row}, {garbage}: {spoilt:?}");
            assert!(!blind || clean == spoilt, "row {row}");
        }
    }
}

pub fn upstream_garbage_stays_in_what_its_row_sees<B: Backend>(backend: &B) {
    for dim in UNEVEN {
        let case = causal(60, 60, dim, Hooks::default(), Dtype::F32);
        let clean = backend.run(&case, &upstream(&case, 9), &Ask::ALL, 0);
        for bad in [0, dim - 1] {
            let mut above = upstream(&case, 9);
            for head in above.output.chunks_mut(60 * dim) {
                head[20 * dim + bad] = f32::NAN;
            }
            let spoilt = backend.run(&case, &above, &Ask::ALL, 0);
            for key in 0..60 {
                let of = key * dim..(key + 1) * dim;
                let finite = spoilt.key[of.clone()].iter().all(|x| x.is_finite());
                assert_eq!(finite, key > 20, "key {key}, number {bad} of {dim}");
                if key > 20 {
                    assert_eq!(spoilt.key[of.clone()], clean.key[of.clone()]);
                    assert_eq!(spoilt.value[of.clone()], clean.value[of]);
                }
            }
        }
    }
}

pub fn rows_that_see_nothing_give_nothing<B: Backend>(backend: &B) {
    for (queries, keys) in [(70, 3), (5, 2), (4, 0), (0, 4), (0, 0)] {
        let case = causal(queries, keys, 8, Hooks { sink: true, query_scale: true, ..Hooks::default() }, Dtype::F32);
        let found = judged(backend, &case, 4);
        for (row, gradient) in found.query.chunks(8).enumerate() {
            let blind = row % queries < queries - keys.min(queries);
            assert!(!blind || gradient.iter().all(|x| x.to_bits() == 0), "row {row}: {gradient:?}");
        }
    }
}
