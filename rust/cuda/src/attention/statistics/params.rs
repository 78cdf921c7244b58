//! The structs that the kernels take, field by field those of `kernels/attention/statistics/params.cuh`.

use crate::attention::params::{ArrayAt, PlanParams, ProblemParams};
use crate::device::Params;

/// Where results go.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct ResultParams {
    /// In the order of `Statistics::named`.
    pub rows: [ArrayAt; 6],
    pub partial_moments: u64,
    pub partial_states: u64,
}

#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct StatisticsParams {
    pub problem: ProblemParams,
    pub plan: PlanParams,
    pub results: ResultParams,
}

// SAFETY: plain numbers, each aligned to its size without gaps; the kernels' struct is the same.
unsafe impl Params for StatisticsParams {}

// A gap would be uninitialised bytes; sizes are the sums of the fields'.
const _: () = assert!(size_of::<ResultParams>() == 6 * 32 + 2 * 8);
const _: () = assert!(size_of::<StatisticsParams>() == 432 + 24 + 208);
