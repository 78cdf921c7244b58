//! What a device is asked for: grids that a GPU takes, whatever the sizes, or an error that names the argument.

use farspan_core::attention::Rules;
use farspan_core::{Dtype, Result};
use farspan_cuda::attention::statistics::{self, Statistics, attention_statistics};
use farspan_cuda::attention::{Attention, Large, Rotary, Sequences, attention, workspace_bytes};
use farspan_cuda::device::MOST_BLOCKS;
use farspan_cuda::{Device, FloatTensor, Limits, Tensor, Variant, Workspace};
use std::cell::RefCell;

/// Notes launches, and runs nothing.
#[derive(Default)]
struct Noted {
    launches: RefCell<Vec<(String, [u32; 3])>>,
}

impl Device for Noted {
    fn limits(&self) -> Limits {
        Limits { multiprocessors: 132, shared_bytes_per_block: 227 << 10, architecture: 90 }
    }

    unsafe fn launch(&self, variant: &Variant, grid: [u32; 3], _: u32, _: &[u8]) -> Result<()> {
        self.launches.borrow_mut().push((variant.name.clone(), grid));
        Ok(())
    }
}

/// The launches of attention with these heads and times.
fn launches(heads: usize, query_time: usize, key_time: usize) -> Result<Vec<(String, [u32; 3])>> {
    rotated(heads, query_time, key_time, None)
}

/// The same with rotation.
fn rotated(
    heads: usize,
    query_time: usize,
    key_time: usize,
    rotary: Option<Rotary>,
) -> Result<Vec<(String, [u32; 3])>> {
    let query = matrix(heads, query_time, 128);
    let problem = Attention { rotary, ..plain(query, matrix(heads, key_time, 128)) };
    let device = Noted::default();
    let workspace = Workspace { pointer: 256, bytes: workspace_bytes(&problem, &device.limits())? };
    // SAFETY: the device touches no memory.
    unsafe { attention(&device, &problem, query, None, workspace)? };
    Ok(device.launches.into_inner())
}

fn matrix(heads: usize, time: usize, dim: usize) -> Large {
    FloatTensor { dtype: Dtype::Bf16, tensor: Tensor::contiguous(256, [1, heads, time, dim]) }
}

/// A problem without hooks, in which keys stand for the values too.
fn plain(query: Large, key: Large) -> Attention {
    Attention {
        query,
        key,
        value: key,
        block_table: None,
        sequences: Sequences::default(),
        rules: Rules::plain(query.tensor.shape[3]),
        query_scale: None,
        key_bias: None,
        distance_bias: None,
        sink: None,
        query_positions: None,
        key_positions: None,
        rotary: None,
    }
}

#[test]
fn every_grid_is_one_that_gpus_take() {
    for (heads, query_time, key_time) in [(70_000, 1, 1), (70_000, 1000, 1), (1, 1, 1 << 24), (32, 1 << 20, 1 << 20)] {
        let launched = launches(heads, query_time, key_time).unwrap();
        assert!(!launched.is_empty());
        for (kernel, grid) in launched {
            assert!(grid.iter().zip(MOST_BLOCKS).all(|(blocks, most)| *blocks <= most), "{kernel}: {grid:?}");
        }
    }
}

#[test]
fn too_many_blocks_are_an_error_that_names_the_heads() {
    let message = launches(70_000, 1 << 29, 1).unwrap_err().to_string();
    assert!(message.starts_with("query: expected at most 2147483647 blocks of rows, of 70000 key heads"), "{message}");
}

/// A rotation of all of a head's dimensions, or of the first few.
fn rope(half: usize, interleaved: bool) -> Rotary {
    Rotary { inv_freq: Tensor::contiguous(256, [1, half]), magnitude: 1.0, interleaved, far: None }
}

#[test]
fn rotation_takes_the_kernels_of_none() {
    let names = |query_time, rotary: Option<Rotary>| -> Vec<String> {
        rotated(8, query_time, 512, rotary).unwrap().into_iter().map(|(name, _)| name).collect()
    };
    for (query_time, walks) in [(4096, 1), (1, 2)] {
        let plain = names(query_time, None);
        assert_eq!(plain.len(), walks, "the walk, and where a row's chunks are shared out their merging: {plain:?}");
        for rotary in [rope(64, false), rope(16, false), rope(64, true)] {
            let turned = names(query_time, Some(rotary));
            assert_eq!(turned[..2], ["attention_prepare", "attention_rotate_bf16"]);
            assert_eq!(turned[2..], plain, "{query_time} queries, {rotary:?}");
        }
    }
}

#[test]
fn keys_that_few_rows_read_turn_in_their_tiles() {
    let blocks = |query_time: usize, rotary: Rotary| {
        let launched = rotated(8, query_time, 512, Some(rotary)).unwrap();
        let of_rotate = launched.iter().find(|(name, _)| name.starts_with("attention_rotate")).unwrap();
        of_rotate.1[0] as usize
    };
    let of = |time: usize| time * 8 * 16 / 128; // a thread for each of a row's sixteen pieces
    assert_eq!(blocks(512, rope(64, false)), of(512) + of(512), "queries and keys");
    assert_eq!(blocks(1, rope(64, false)), of(1), "the query alone");
    for elsewhere in [rope(64, true), rope(12, false)] {
        assert_eq!(blocks(1, elsewhere), of(1) + of(512), "pairs within a piece, pairs in parts of pieces");
    }
}

#[test]
fn statistics_weigh_the_keys_of_wide_heads_once() {
    let (heads, time, wide) = (8, 4096, 256);
    let problem = plain(matrix(heads, time, wide), matrix(heads, time, wide));
    let device = Noted::default();
    let blocks = time.div_ceil(64) * heads;
    let rows = Tensor::contiguous(256, [1, heads, time]);
    let places = Statistics { lse: rows, entropy: rows, largest: rows, first: rows, sink: rows, distance: rows };
    let bytes = statistics::workspace_bytes(&problem, &device.limits()).unwrap();
    // SAFETY: the device touches no memory.
    unsafe { attention_statistics(&device, &problem, &places, Workspace { pointer: 256, bytes }).unwrap() };
    let output = matrix(heads, time, wide);
    let workspace = Workspace { pointer: 256, bytes: workspace_bytes(&problem, &device.limits()).unwrap() };
    // SAFETY: as above.
    unsafe { attention(&device, &problem, output, None, workspace).unwrap() };
    let expected = [("attention_statistics_bf16_d256_w4", blocks), ("attention_bf16_d256_w4", 2 * blocks)];
    let expected = expected.map(|(name, blocks)| (name.to_string(), [blocks as u32, 1, 1]));
    assert_eq!(device.launches.into_inner(), expected, "sums of wide values have two blocks for each row");
}
