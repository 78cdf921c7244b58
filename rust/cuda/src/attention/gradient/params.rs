//! The structs that the kernels take, field by field those of `kernels/attention/gradient/params.cuh`.

use crate::attention::params::{ArrayAt, PreparedAt, ProblemParams, SequencesAt};
use crate::device::Params;

#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct KnownParams {
    pub problem: ProblemParams,
    pub output: ArrayAt,
    pub output_gradient: ArrayAt,
    pub lse: ArrayAt,
    pub lse_gradient: ArrayAt,
    pub known: u64,
    pub sinks: u64,
}

// SAFETY: plain numbers, each aligned to its size without gaps; the kernel's struct is the same.
unsafe impl Params for KnownParams {}

#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct TurnParams {
    pub sequences: SequencesAt,
    pub prepared: PreparedAt,
    pub plain: ArrayAt,
    pub turned: [ArrayAt; 2],
    pub of_queries: i32,
    pub batch: i32,
    pub heads: i32,
    pub dim: i32,
    pub half: i32,
    pub interleaved: i32,
}

// SAFETY: plain numbers, each aligned to its size without gaps; the kernels' struct is the same.
unsafe impl Params for TurnParams {}

#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct GradientParams {
    pub problem: ProblemParams,
    pub query: [ArrayAt; 2],
    pub key: [ArrayAt; 2],
    pub output_gradient: ArrayAt,
    pub known: u64,
    pub gradient: ArrayAt,
    pub sums: [ArrayAt; 2],
    pub numbers: u64,
    pub numbers_side: i64,
    pub tables: u64,
    pub tiles: i32,
    pub parts: i32,
    pub stripes: i32,
    pub sides: i32,
    pub heads_apart: i32,
    /// Of query, key, value and output gradient.
    pub in_pieces: [i32; 4],
    pub padding: i32,
}

// SAFETY: plain numbers, each aligned to its size without gaps; the kernels' struct is the same.
unsafe impl Params for GradientParams {}

#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct ClearParams {
    pub to: u64,
    pub count: i64,
}

// SAFETY: plain numbers of one size; the kernel's struct is the same.
unsafe impl Params for ClearParams {}

#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct SumParams {
    pub from: u64,
    pub to: u64,
    pub kept: [i64; 3],
    pub kept_from: [i64; 3],
    pub kept_to: [i64; 3],
    pub gone: [i64; 4],
    pub gone_from: [i64; 4],
}

// SAFETY: plain numbers of one size; the kernel's struct is the same.
unsafe impl Params for SumParams {}

// A gap would be uninitialised bytes; sizes are the sums of the fields'.
const _: () = assert!(size_of::<KnownParams>() == size_of::<ProblemParams>() + 4 * 32 + 2 * 8);
const _: () = assert!(size_of::<TurnParams>() == 48 + 40 + 3 * 32 + 6 * 4);
const _: () = assert!(size_of::<GradientParams>() == size_of::<ProblemParams>() + 8 * 32 + 4 * 8 + 10 * 4);
const _: () = assert!(size_of::<SumParams>() == 19 * 8);
