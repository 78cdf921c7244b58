//! The attention kernels on the emulator: the suite of every backend, and what only a device can be asked.

#[path = "support/attention_call.rs"]
mod attention_call;

use attention_call::{Emulated, Layout, Setting, run, try_run};
use farspan_core::Dtype;
use farspan_core::attention::{Sequence, dense_sequences};
use farspan_testing::attention::suite::causal;
use farspan_testing::attention::{Case, Hooks, assert_bits};
use farspan_testing::{DTYPES, attention_suite};

attention_suite!(emulated = Some(Emulated));

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
        let case = causal(20, 90, 40, Hooks { positions: true, ..Hooks::ALL }, dtype);
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
        let case = causal(20, 90, 40, Hooks::ALL, Dtype::Bf16);
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
    let case = causal(5, 300, 8, Hooks::ALL, Dtype::F32);
    let setting = Setting { multiprocessors: 64, missing_workspace: 1, ..Setting::default() };
    let error = try_run(&case, setting).err().unwrap().to_string();
    assert!(error.starts_with("workspace: expected "), "{error}");
}

#[test]
fn malformed_problems_are_refused_by_name() {
    let mut case = causal(5, 9, 8, Hooks::ALL, Dtype::F32);
    case.oracle.sink = Some(vec![0.0; 3]);
    // The support lays a table out by the case's shape; here one is too wide for the rotation.
    let rotary = case.oracle.rotary.as_mut().unwrap();
    rotary.inv_freq[0] = vec![1.0; 5];
    let error = try_run(&case, Setting::default()).err().unwrap().to_string();
    assert!(error.starts_with("inv_freq: expected at most 4 frequencies"), "{error}");
}
