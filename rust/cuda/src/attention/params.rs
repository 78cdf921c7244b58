//! The structs that the kernels take, field by field those of `kernels/attention/params.cuh` and
//! `kernels/attention/prepare.cuh`.

use crate::device::Params;

/// A table or a matrix; the last dimension of a matrix is contiguous. Pointer 0: there is none.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct ArrayAt {
    pub pointer: u64,
    pub strides: [i64; 3],
}

/// Positions; pointer 0: the order.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct PositionsAt {
    pub pointer: u64,
    pub strides: [i64; 2],
    pub kind: i32,
    pub padding: i32,
}

/// Lengths and offsets; pointer 0: all keys, a dense batch.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct SequencesAt {
    pub key_lengths: u64,
    pub query_offsets: u64,
    pub key_offsets: u64,
    pub count: i32,
    pub query_time: i32,
    pub key_time: i32,
    pub lengths_kind: i32,
    pub query_offsets_kind: i32,
    pub key_offsets_kind: i32,
}

/// A block table and the pages that it names; pointer 0: there are none.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct PagesAt {
    pub table: u64,
    pub stride: i64,
    pub kind: i32,
    pub count: i32,
    pub size: i32,
    pub shift: i32,
}

/// What stands in the workspace before the walk begins; pointer 0: nothing.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct PreparedAt {
    pub positions: u64,
    pub turns: u64,
    pub far_turns: u64,
    pub turned: u64,
    pub far_turned: u64,
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct ProblemParams {
    pub query: ArrayAt,
    pub key: ArrayAt,
    pub value: ArrayAt,
    pub query_scale: ArrayAt,
    pub key_bias: ArrayAt,
    pub sequences: SequencesAt,
    pub pages: PagesAt,
    pub queries: PreparedAt,
    pub keys: PreparedAt,
    pub distance_table: u64,
    pub sink: u64,
    pub distance_stride: i64,
    pub sink_stride: i64,
    pub border: f64,
    pub distance_minimum: f64,
    pub query_heads: i32,
    pub group: i32,
    pub head_dim: i32,
    pub value_dim: i32,
    pub turned_dim: i32,
    pub keys_turned: i32,
    pub causal: i32,
    pub window: [i32; 2],
    pub keep_first: i32,
    pub half: i32,
    pub interleaved: i32,
    pub distance_length: i32,
    pub scale: f32,
    pub softcap: f32,
    pub softcap_inverse: f32,
}

/// How the work is cut, and read.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct PlanParams {
    pub chunks_per_block: i32,
    pub parts: i32,
    pub in_pieces: [i32; 3],
    pub tiles: i32,
}

/// Where results go.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct ResultParams {
    pub output: ArrayAt,
    pub lse: ArrayAt,
    pub partial_values: u64,
    pub partial_states: u64,
}

#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct AttentionParams {
    pub problem: ProblemParams,
    pub plan: PlanParams,
    pub results: ResultParams,
}

// SAFETY: plain numbers, each aligned to its size without gaps; the kernels' struct is the same.
unsafe impl Params for AttentionParams {}

/// What `attention_prepare` reads and writes of the queries or the keys.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct PrepareSideParams {
    pub positions: PositionsAt,
    pub far_positions: PositionsAt,
    pub prepared: PreparedAt,
}

#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct PrepareParams {
    pub sequences: SequencesAt,
    pub queries: PrepareSideParams,
    pub keys: PrepareSideParams,
    pub inv_freq: u64,
    pub inv_freq_stride: i64,
    pub half: i32,
    pub query_blocks: i32,
    pub magnitude: f32,
    pub padding: i32,
}

// SAFETY: plain numbers, each aligned to its size without gaps; the kernel's struct is the same.
unsafe impl Params for PrepareParams {}

#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct RotateParams {
    pub problem: ProblemParams,
    pub query_blocks: i32,
    pub in_pieces: [i32; 2],
    pub padding: i32,
}

// SAFETY: plain numbers, each aligned to its size without gaps; the kernel's struct is the same.
unsafe impl Params for RotateParams {}

// A gap would be uninitialised bytes; sizes are the sums of the fields'.
const _: () = assert!(size_of::<ProblemParams>() == 5 * 32 + 48 + 32 + 2 * 40 + 6 * 8 + 16 * 4);
const _: () = assert!(size_of::<PlanParams>() == 6 * 4);
const _: () = assert!(size_of::<ResultParams>() == 2 * 32 + 2 * 8);
const _: () = assert!(size_of::<AttentionParams>() == 432 + 24 + 80);
const _: () = assert!(size_of::<PrepareParams>() == 48 + 2 * (2 * 32 + 40) + 2 * 8 + 4 * 4);
const _: () = assert!(size_of::<RotateParams>() == 432 + 4 * 4);
