//! The attention kernels on the emulator: the suite of every backend, and what only a device can be asked.

#[path = "support/attention_call.rs"]
mod attention_call;

use attention_call::{Emulated, Layout, Setting, run, try_run};
use farspan_core::Dtype;
use farspan_core::attention::{Rules, Sequence, Shape, dense_sequences};
use farspan_cuda::emulator::Emulator;
use farspan_testing::attention::suite::causal;
use farspan_testing::attention::{Case, Hooks, assert_bits, judge, of_seed};
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

/// A decode step turns keys in their tiles, where these hold whole pieces of both halves; a prefill turns them before.
#[test]
fn keys_turn_in_their_tiles_as_they_turn_beforehand() {
    for dtype in DTYPES {
        for (head_dim, half) in [(64, 32), (40, 8), (128, 64), (64, 24), (200, 32)] {
            let mut case = causal(150, 150, head_dim, Hooks { rotary: true, ..Hooks::default() }, dtype);
            let rotary = case.oracle.rotary.as_mut().unwrap();
            rotary.inv_freq[0] = (0..half).map(|i| 0.9f32.powi(i) as _).collect();
            let whole = run(&case, Setting::default());
            judge::tensor_cores(&case, &whole);
            for (query, page_size) in [(0, 1), (63, 64), (64, 13), (149, 10)] {
                for variation in [0, 1, 6] {
                    let step = run(&case.step(query), Setting::varied(variation));
                    assert_bits(&whole.query(&case, query), &step, "a decode step");
                }
                let paged = Case { page_size: Some(page_size), ..case.step(query) };
                assert_bits(&whole.query(&case, query), &run(&paged, Setting::default()), "a step over pages");
            }
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

/// What each of 4096 sequences says of itself is read by the blocks that it concerns, and not by all of them.
#[test]
fn a_block_finds_its_sequence_among_many_in_a_few_steps() {
    const SEQUENCES: usize = 4096;
    let mut case = causal(40, 80, 16, Hooks::default(), Dtype::Bf16);
    let longer = |index: usize| usize::from(index.is_multiple_of(100) && index < 4000);
    let before = |index: usize| (0..index).map(longer).sum::<usize>();
    let sequence = |index| Sequence {
        batch: 0,
        query_start: before(index),
        queries: longer(index),
        key_batch: 0,
        key_start: 2 * before(index),
        keys: 2 * longer(index),
    };
    case.oracle.sequences = (0..SEQUENCES).map(sequence).collect();
    judge::tensor_cores(&case, &run(&case, Setting::default()));
    // Of the walk: tiles of 64 rows, which are the queries of two heads, and one more for each sequence.
    let blocks = case.oracle.shape.key_heads * (SEQUENCES + 2);
    let reads = Emulator::open(&farspan_cuda_emulator::library()).unwrap().counted_reads();
    let most = 8 * blocks as u64 * 128;
    assert!(0 < reads && reads <= most, "{reads} reads, at most {most} of {blocks} blocks");
}

#[test]
fn more_heads_than_a_grid_has_places_along_its_second_axis() {
    let shape = Shape {
        batch: 1,
        query_heads: 70_000,
        key_heads: 70_000,
        query_time: 1,
        key_batch: 1,
        key_time: 2,
        head_dim: 8,
        value_dim: 8,
    };
    let sequences = dense_sequences(&shape, None).unwrap();
    let case = of_seed(7, shape, sequences, Rules::plain(8), Hooks::default(), Dtype::Bf16);
    judge::tensor_cores(&case, &run(&case, Setting::default()));
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
