//! The structs that the kernels take: `kernels/loss/params.cuh`, field by field. Numbers named as addresses are those
//! of the device; 0 is null.

use crate::device::Params;
use crate::unembed::{RowsAt, Setting, UnembedParams};

pub(super) const SMOOTHS: u32 = 1;
pub(super) const FIRST_STRETCH: u32 = 2;
pub(super) const OTHER_ALIGNED: u32 = 4;

/// Bytes of the kernels' records.
pub(super) mod size {
    /// `Common`: what all rows share.
    pub const COMMON: usize = 32;
    /// `EntropyPart` of a tile.
    pub const ENTROPY_PART: usize = 12;
    /// `PairPart` of a tile.
    pub const PAIR_PART: usize = 24;
    /// `SlopeRow` of a row.
    pub const SLOPE_ROW: usize = 48;
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct GatherParams {
    pub targets: Setting,
    pub ignore_index: i64,
    pub class_weight: u64,
    pub row_map: u64,
    pub place_of: u64,
    pub common: u64,
    pub loss: u64,
    pub max: u64,
    pub log_sum: u64,
    pub rows: i32,
    pub valid: i32,
    pub mean: u32,
    pub unused: u32,
}

// SAFETY: plain numbers, eight bytes each and then an even number of four.
unsafe impl Params for GatherParams {}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LossParams {
    pub model: UnembedParams,
    pub target: UnembedParams,
    pub targets: Setting,
    pub class_weight: u64,
    pub common: u64,
    pub parts: u64,
    pub pairs: u64,
    pub target_logit: u64,
    pub inverse_temperature: f32,
    pub flags: u32,
}

// SAFETY: as above.
unsafe impl Params for LossParams {}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct EntropyParams {
    pub parts: u64,
    pub target_logit: u64,
    pub targets: Setting,
    pub class_weight: u64,
    pub common: u64,
    pub row_map: u64,
    pub losses: u64,
    pub loss: u64,
    pub max: u64,
    pub log_sum: u64,
    pub label_smoothing: f64,
    pub smoothing: f64,
    pub z_loss: f64,
    pub rows: i32,
    pub first_row: i32,
    pub tiles: i32,
    pub valid: i32,
}

// SAFETY: as above.
unsafe impl Params for EntropyParams {}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ReduceParams {
    pub losses: u64,
    pub common: u64,
    pub loss: u64,
}

// SAFETY: as above.
unsafe impl Params for ReduceParams {}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PairParams {
    pub pairs: u64,
    pub divergence: u64,
    pub max: u64,
    pub log_sum: u64,
    pub target_max: u64,
    pub target_log_sum: u64,
    pub rows: i32,
    pub first_row: i32,
    pub tiles: i32,
    pub unused: i32,
}

// SAFETY: as above.
unsafe impl Params for PairParams {}

/// What a gradient is of: `LossKind`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(i32)]
pub(super) enum Kind {
    #[default]
    CrossEntropy = 0,
    Score = 1,
    Divergence = 2,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RowsParams {
    pub common: u64,
    pub row_map: u64,
    pub targets: Setting,
    pub class_weight: u64,
    pub max: Setting,
    pub log_sum: Setting,
    pub target_max: Setting,
    pub target_log_sum: Setting,
    pub upstream: Setting,
    pub by_entropy: Setting,
    pub by_lse: Setting,
    pub entropy: Setting,
    pub by_top: u64,
    pub slopes: u64,
    pub label_smoothing: f64,
    pub smoothing: f64,
    pub z_loss: f64,
    pub inverse_temperature: f32,
    pub scale: f32,
    pub valid: i32,
    pub top: i32,
    pub kind: Kind,
    pub scales: u32,
}

// SAFETY: as above; the kind is a number of four bytes.
unsafe impl Params for RowsParams {}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SlopesParams {
    pub model: UnembedParams,
    pub target: UnembedParams,
    pub rows: u64,
    pub common: u64,
    pub class_weight: u64,
    pub top_token: u64,
    pub by_top: u64,
    pub by_row: u64,
    pub by_token: u64,
    pub bias_sums: u64,
    pub stride: i64,
    pub first_tile: i32,
    pub top: i32,
    pub inverse_temperature: f32,
    pub unused: u32,
}

// SAFETY: as above.
unsafe impl Params for SlopesParams {}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct OuterParams {
    pub slopes: u64,
    pub stride: i64,
    pub other: RowsAt,
    pub row_map: u64,
    pub bias: u64,
    pub common: u64,
    pub sums: u64,
    pub out: u64,
    pub tokens: i32,
    pub written: i32,
    pub rows: i32,
    pub dim: i32,
    pub hidden_rows: i32,
    pub flags: u32,
}

// SAFETY: as above.
unsafe impl Params for OuterParams {}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StoreParams {
    pub sums: u64,
    pub slopes: u64,
    pub place_of: u64,
    pub out: u64,
    pub rows: i32,
    pub dim: i32,
}

// SAFETY: as above.
unsafe impl Params for StoreParams {}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BiasParams {
    pub sums: u64,
    pub common: u64,
    pub out: u64,
    pub stride: i64,
    pub tokens: i32,
    pub written: i32,
    pub block_rows: i32,
    pub unused: i32,
}

// SAFETY: as above.
unsafe impl Params for BiasParams {}
