//! The attention kernels on the emulator: every hook against the float64 oracle, and the promise that a row has the
//! same bits in every call.

#[path = "support/attention_call.rs"]
mod attention_call;
#[allow(dead_code)]
#[path = "../../cpu/tests/support/attention_case.rs"]
mod attention_case;

use attention_call::{Layout, Setting, run, try_run};
use attention_case::{Case, Hooks, Result32, assert_bits, of_seed};
use farspan_core::Dtype;
use farspan_core::attention::{Rules, Sequence, Shape, dense_sequences};
use farspan_core::oracle::attention as oracle;
use proptest::prelude::*;

const DTYPES: [Dtype; 3] = [Dtype::F32, Dtype::Bf16, Dtype::F16];

/// The largest relative error of a rounding to this type.
fn unit(dtype: Dtype) -> f64 {
    match dtype {
        Dtype::F32 => 2f64.powi(-24),
        Dtype::Bf16 => 2f64.powi(-8),
        Dtype::F16 => 2f64.powi(-11),
    }
}

/// Holds a result to the roundings of its arithmetic: of weights and output to the type of the values, of turned
/// queries and keys to theirs, of everything else to float32.
fn bound(case: &Case, result: &Result32) {
    let (truth, truth_lse) = oracle::attention(&case.oracle);
    // The weighted mean of the values' sizes: what a relative error of the weights is an error of.
    let mut sizes = case.oracle.clone();
    sizes.value.iter_mut().for_each(|x| *x = x.abs());
    let (sizes, _) = oracle::attention(&sizes);
    let o = &case.oracle;
    let largest = |x: &[f32]| x.iter().filter(|x| x.is_finite()).fold(0.0f64, |top, x| top.max(f64::from(x.abs())));
    let factor = f64::from(o.rules.scale) * o.query_scale.as_ref().map_or(1.0, |x| largest(x));
    let magnitude = o.rotary.as_ref().map_or(1.0, |rotary| f64::from(rotary.magnitude).powi(2).max(1.0));
    let product = largest(&o.query) * largest(&o.key) * magnitude * o.shape.head_dim as f64 * factor / 3.0;
    let turned = if o.rotary.is_some() { unit(case.dtype) } else { 0.0 };
    let largest_lse = truth_lse.iter().filter(|x| x.is_finite()).fold(0.0f64, |top, x| top.max(x.abs()));
    let score = 2e-6 * (1.0 + largest_lse) + product * (4e-7 + turned);
    for (i, (x, y)) in result.output.iter().zip(&truth).enumerate() {
        let allowed = sizes[i] * (2.0 * score + 1.5 * unit(case.dtype)) + unit(case.dtype) * y.abs() + 1e-7;
        let error = (f64::from(*x) - y).abs();
        assert!(error <= allowed, "output {i}: {x} and {y}, allowed {allowed}, {case:?}");
    }
    for (i, (x, y)) in result.lse.iter().zip(&truth_lse).enumerate() {
        let same = f64::from(*x) == *y;
        assert!(same || (f64::from(*x) - y).abs() <= score, "lse {i}: {x} and {y}, allowed {score}, {case:?}");
    }
}

fn settings() -> impl Strategy<Value = Setting> {
    let layout = prop_oneof![Just(Layout::Contiguous), Just(Layout::TimeFirst), Just(Layout::Unaligned)];
    let multiprocessors = prop_oneof![Just(1u32), Just(4), Just(64)];
    let shared = prop_oneof![Just(99u32 << 10), Just(227 << 10)];
    (any::<u64>(), multiprocessors, shared, layout, any::<bool>()).prop_map(
        |(seed, multiprocessors, shared_bytes, layout, short)| Setting {
            seed,
            multiprocessors,
            shared_bytes,
            layout,
            short,
            ..Setting::default()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn all_hooks_meet_the_oracle(case in attention_case::cases(), setting in settings()) {
        let case = case.build();
        bound(&case, &run(&case, setting));
    }

    #[test]
    fn a_row_has_the_same_bits_alone(
        case in attention_case::cases(),
        settings in prop::array::uniform3(settings()),
        pick in any::<prop::sample::Index>(),
    ) {
        let case = case.build();
        let whole = run(&case, settings[0]);
        assert_bits(&whole, &run(&case, settings[1]), "another setting");
        for index in 0..case.oracle.sequences.len() {
            let sequence = case.oracle.sequences[index];
            assert_bits(&whole.sequence(&case, index), &run(&case.only(index), settings[2]), "a sequence alone");
            if sequence.queries > 0 {
                let query = pick.index(sequence.queries);
                let (step, row) = (case.only(index).step(query), whole.sequence(&case, index).query(&case, query));
                let one = run(&step, settings[1]).query(&step, 0);
                assert_bits(&row, &one, "a decode step");
            }
        }
    }
}

/// A dense causal case of chosen sizes.
fn causal(queries: usize, keys: usize, head_dim: usize, hooks: Hooks, dtype: Dtype) -> Case {
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

const ALL_HOOKS: Hooks = Hooks {
    query_scale: true,
    key_bias: true,
    hide: false,
    distance_bias: true,
    sink: true,
    positions: false,
    rotary: true,
    interleaved: false,
    far: true,
};

#[test]
fn every_width_and_type_with_and_without_hooks() {
    for dtype in DTYPES {
        for head_dim in [32, 64, 128, 256] {
            for hooks in [Hooks::default(), ALL_HOOKS] {
                for queries in [3, 70] {
                    let case = causal(queries, 150, head_dim, hooks, dtype);
                    bound(&case, &run(&case, Setting::default()));
                }
            }
        }
    }
}

#[test]
fn every_row_of_a_prefill_is_its_decode_step() {
    for dtype in DTYPES {
        for hooks in [Hooks::default(), ALL_HOOKS] {
            let case = causal(200, 200, 24, hooks, dtype);
            let whole = run(&case, Setting::default());
            for query in [0, 1, 62, 63, 64, 65, 127, 128, 129, 150, 191, 192, 199] {
                for multiprocessors in [1, 64] {
                    let step = case.step(query);
                    let setting = Setting { multiprocessors, seed: query as u64, ..Setting::default() };
                    assert_bits(&whole.query(&case, query), &run(&step, setting), "a decode step");
                }
            }
        }
    }
}

#[test]
fn windows_over_chunks() {
    for (window, keep_first) in [((Some(100), Some(0)), 3), ((Some(10), None), 0), ((Some(150), Some(5)), 90)] {
        for dtype in DTYPES {
            let mut case = causal(150, 330, 8, Hooks { key_bias: true, ..Hooks::default() }, dtype);
            case.oracle.rules = Rules { window, keep_first, causal: keep_first == 3, ..case.oracle.rules };
            bound(&case, &run(&case, Setting::default()));
            case.oracle.key_bias = None;
            bound(&case, &run(&case, Setting { multiprocessors: 64, ..Setting::default() }));
        }
    }
}

#[test]
fn garbage_that_a_row_does_not_see_has_no_influence() {
    for garbage in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for (queries, keys) in [(60, 150), (3, 150), (1, 40)] {
            for (dtype, hooks) in
                [(Dtype::F32, Hooks::default()), (Dtype::Bf16, ALL_HOOKS), (Dtype::F16, Hooks::default())]
            {
                for multiprocessors in [1, 64] {
                    let setting = Setting { multiprocessors, ..Setting::default() };
                    let mut case = causal(queries, keys, 20, hooks, dtype);
                    let clean = run(&case, setting);
                    let bad = keys - queries / 2 - 1;
                    case.spoil_key(bad, garbage);
                    let spoilt = run(&case, setting);
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
#[test]
fn infinite_values_are_seen_as_such() {
    for dtype in DTYPES {
        let mut case = causal(60, 60, 40, Hooks::default(), dtype);
        let clean = run(&case, Setting::default());
        case.spoil_value(20, f32::INFINITY);
        let spoilt = run(&case, Setting::default());
        for query in 0..60 {
            let (row, before) = (spoilt.query(&case, query), clean.query(&case, query));
            if query < 20 {
                assert_bits(&before, &row, "a row before the infinity");
            } else {
                assert!(row.output.iter().all(|x| *x == f32::INFINITY), "{dtype:?} {query}: {:?}", row.output);
                let step = case.step(query);
                assert_bits(&row, &run(&step, Setting::default()).query(&step, 0), "the same in a decode step");
            }
        }
        case.spoil_value(30, f32::NEG_INFINITY);
        let both = run(&case, Setting::default()).query(&case, 40);
        assert!(both.output.iter().all(|x| x.is_nan()));
    }
}

#[test]
fn a_visible_value_passes_through_a_weight_of_zero() {
    for dtype in DTYPES {
        for queries in [1, 60] {
            let mut case = causal(queries, 130, 16, Hooks { key_bias: true, ..Hooks::default() }, dtype);
            case.bias_key(5, -1e4);
            case.spoil_value(5, f32::NAN);
            assert!(run(&case, Setting::default()).output.iter().all(|x| x.is_nan()), "0 * NaN is NaN");
            case.bias_key(5, f32::NEG_INFINITY);
            assert!(
                run(&case, Setting::default()).output.iter().all(|x| x.is_finite()),
                "a hidden value does not exist"
            );
        }
    }
}

#[test]
fn rows_that_see_nothing() {
    for dtype in DTYPES {
        for (queries, keys) in [(70, 3), (5, 2), (4, 0)] {
            let case = causal(queries, keys, 8, Hooks::default(), dtype);
            let result = run(&case, Setting::default());
            for query in 0..queries - keys {
                let row = result.query(&case, query);
                assert!(row.output.iter().all(|x| x.to_bits() == 0));
                assert!(row.lse.iter().all(|x| *x == f32::NEG_INFINITY));
            }
            let sink = causal(queries, keys, 8, Hooks { sink: true, ..Hooks::default() }, dtype);
            let row = run(&sink, Setting::default()).query(&sink, 0);
            assert!(row.output.iter().all(|x| x.to_bits() == 0));
            assert_eq!(&row.lse, sink.oracle.sink.as_ref().unwrap());
        }
    }
}

/// A row of negative zeros, and behind it a chunk of keys that only its neighbours see.
#[test]
fn an_unseen_chunk_keeps_the_sign_of_zero() {
    let mut case = causal(60, 184, 16, Hooks { key_bias: true, ..Hooks::default() }, Dtype::F32);
    let o = &mut case.oracle;
    o.query.fill(0.0);
    // The sum of the first chunk underflows where the maximum of the second one scales it down.
    for values in o.value.chunks_mut(184 * 16) {
        values[..64 * 16].fill(-f32::from_bits(1));
        values[64 * 16..].fill(0.0);
    }
    for bias in o.key_bias.as_mut().unwrap().chunks_mut(184) {
        bias[..64].fill(0.0);
        bias[64..].fill(10.0);
    }
    let (row, step) = (run(&case, Setting::default()).query(&case, 0), case.step(0));
    assert!(row.output.iter().all(|x| x.to_bits() == (-0.0f32).to_bits()), "{:?}", row.output);
    assert_bits(&row, &run(&step, Setting::default()), "the same in a decode step");
}

#[test]
fn far_positions_keep_their_precision() {
    let mut case = causal(3, 3, 32, Hooks { rotary: true, ..Hooks::default() }, Dtype::F32);
    for start in [1e6, 1e9, -3e8] {
        case.oracle.query_positions = Some((0..3).map(|i| start + f64::from(i)).collect());
        case.oracle.key_positions = Some((0..3).map(|i| start + f64::from(i) * 0.5).collect());
        bound(&case, &run(&case, Setting::default()));
    }
}

#[test]
fn no_queries_and_no_keys() {
    for (queries, keys) in [(0, 5), (0, 0), (2, 0)] {
        let result = run(&causal(queries, keys, 16, ALL_HOOKS, Dtype::Bf16), Setting::default());
        assert!(result.output.iter().all(|x| x.to_bits() == 0));
    }
}

/// The relative error of all outputs together, in units of the type.
#[test]
fn the_error_is_that_of_the_type() {
    for (dtype, allowed) in [(Dtype::F32, 8.0), (Dtype::Bf16, 0.75), (Dtype::F16, 0.75)] {
        let case = causal(128, 256, 64, Hooks::default(), dtype);
        let (truth, _) = oracle::attention(&case.oracle);
        let result = run(&case, Setting::default());
        let square = |x: f64| x * x;
        let error: f64 = result.output.iter().zip(&truth).map(|(x, y)| square(f64::from(*x) - y)).sum();
        let total: f64 = truth.iter().map(|y| square(*y)).sum();
        let units = (error / total).sqrt() / unit(dtype);
        assert!(units < allowed, "{dtype:?}: {units}");
    }
}

/// A dense case of three equal entries.
fn thrice(case: &Case) -> Case {
    let mut thrice = case.clone();
    let o = &mut thrice.oracle;
    (o.shape.batch, o.shape.key_batch) = (3, 3);
    o.sequences = dense_sequences(&o.shape, None).unwrap();
    for x in [&mut o.query, &mut o.key, &mut o.value] {
        *x = x.repeat(3);
    }
    for x in [&mut o.query_scale, &mut o.key_bias] {
        *x = x.as_ref().map(|x| x.repeat(3));
    }
    for x in [&mut o.query_positions, &mut o.key_positions] {
        *x = x.as_ref().map(|x| x.repeat(3));
    }
    if let Some(rotary) = &mut o.rotary {
        rotary.inv_freq = vec![rotary.inv_freq[0].clone(); 3];
        rotary.far = rotary.far.take().map(|(border, q, k)| (border, q.repeat(3), k.repeat(3)));
    }
    thrice
}

#[test]
fn expanded_inputs() {
    for dtype in DTYPES {
        let case = causal(20, 90, 40, Hooks { positions: true, ..ALL_HOOKS }, dtype);
        let (one, three) = (run(&case, Setting::default()), thrice(&case));
        let expanded = run(&three, Setting { layout: Layout::Expanded, ..Setting::default() });
        for index in 0..3 {
            assert_bits(&one, &expanded.sequence(&three, index), "an expanded entry");
        }
    }
}

/// Lengths and offsets stand in device memory, where nobody checks them: they must not lead an access astray.
#[test]
fn lengths_and_offsets_out_of_range_are_held_to_the_arrays() {
    for short in [false, true] {
        let setting = Setting { short, ..Setting::default() };
        let case = causal(20, 90, 40, ALL_HOOKS, Dtype::Bf16);
        let mut long = case.clone();
        long.oracle.sequences[0].keys = 2_000_000_000;
        assert_bits(&run(&case, setting), &run(&long, setting), "as many keys as there are");

        let mut ragged = thrice(&causal(6, 30, 16, Hooks::default(), Dtype::F32)).only(0);
        let sequence = ragged.oracle.sequences[0];
        let parts = [(0, 0), (3, 7), (1_000_000, 5), (2, 1_000_000)];
        ragged.oracle.sequences =
            parts.map(|(query_start, key_start)| Sequence { query_start, key_start, ..sequence }).to_vec();
        run(&ragged, setting);
    }
}

#[test]
fn a_call_that_lacks_workspace_is_refused() {
    let case = causal(5, 300, 8, ALL_HOOKS, Dtype::F32);
    let setting = Setting { multiprocessors: 64, missing_workspace: 1, ..Setting::default() };
    let error = try_run(&case, setting).err().unwrap().to_string();
    assert!(error.starts_with("workspace: expected "), "{error}");
}

#[test]
fn malformed_problems_are_refused_by_name() {
    let mut case = causal(5, 9, 8, ALL_HOOKS, Dtype::F32);
    case.oracle.sink = Some(vec![0.0; 3]);
    // The support lays a table out by the case's shape; here one is too wide for the rotation.
    let rotary = case.oracle.rotary.as_mut().unwrap();
    rotary.inv_freq[0] = vec![1.0; 5];
    let error = try_run(&case, Setting::default()).err().unwrap().to_string();
    assert!(error.starts_with("inv_freq: expected at most 4 frequencies"), "{error}");
}
