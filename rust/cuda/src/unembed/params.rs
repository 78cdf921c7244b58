//! The structs that the kernels take and leave: `kernels/unembed/params.cuh`, `unembed/merge.cuh` and
//! `unembed/select.cuh`, field by field. Numbers named as addresses are those of the device; 0 is null.

use crate::device::Params;

/// Tiles whose softmax sums are added up a tree, to a sum that shards of a vocabulary exchange.
pub(super) const SEGMENT: usize = 16;
/// The longest list that one selection writes.
pub(super) const MAX_WINDOW: usize = 1024;
/// Shared memory of the sums over a block.
pub(super) const SUM_BYTES: usize = 32;

pub(crate) const HIDDEN_ALIGNED: u32 = 1;
pub(crate) const WEIGHT_ALIGNED: u32 = 2;
pub(super) const MOMENTS: u32 = 4;
pub(super) const REVISIT: u32 = 8;

pub(super) const FIND_HIDDEN: u32 = 1;
pub(super) const LOGPROBS: u32 = 2;

/// Rows of contiguous elements.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RowsAt {
    pub first: u64,
    /// In bytes.
    pub stride: i64,
}

/// One number per row; without an address the bits of one for all of them stand in place of the stride.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Setting {
    pub first: u64,
    /// In numbers.
    pub stride: i64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DrawsAt {
    pub seed: Setting,
    pub position: Setting,
    pub stream: Setting,
    pub temperature: Setting,
}

/// What happens to single logits.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ChangesAt {
    pub offsets: u64,
    pub tokens: u64,
    pub changes: u64,
    pub allowed_offsets: u64,
    pub allowed_tokens: u64,
    pub mask: u64,
    pub mask_stride: i64,
    pub mask_words: i64,
}

/// What the pass and the target's kernel take.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct UnembedParams {
    pub hidden: RowsAt,
    pub weight: RowsAt,
    pub bias: u64,
    pub draws: DrawsAt,
    pub changes: ChangesAt,
    pub row_map: u64,
    pub target: Setting,
    pub target_logit: u64,
    pub below: u64,
    pub slots: u64,
    pub parts: u64,
    pub bests: u64,
    pub spreads: u64,
    pub before: u64,
    pub lists: u64,
    pub overflow: u64,
    pub target_out: u64,
    pub rows: i32,
    pub first_row: i32,
    pub repeat: i32,
    pub dim: i32,
    pub first_token: u32,
    pub valid: i32,
    pub tiles: i32,
    pub samples: i32,
    pub listed: i32,
    pub slot_count: i32,
    pub scale: f32,
    pub softcap: f32,
    pub flags: u32,
    pub hidden_rows: i32,
}

// SAFETY: plain numbers, eight bytes each and then an even number of four.
unsafe impl Params for UnembedParams {}

/// What the merge takes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MergeParams {
    pub parts: u64,
    pub bests: u64,
    pub before: u64,
    pub target_logit: u64,
    pub row_map: u64,
    pub temperature: Setting,
    pub total: u64,
    pub masses: u64,
    pub best: u64,
    pub token: u64,
    pub logprob: u64,
    pub raw_logprob: u64,
    pub rank: u64,
    pub logit: u64,
    pub lse: u64,
    pub flag: u64,
    pub kept: u64,
    pub kept_mass: u64,
    pub entropy: u64,
    pub first_row: i32,
    pub hidden_rows: i32,
    pub tiles: i32,
    pub samples: i32,
    pub only_unranked: i32,
    pub unused: i32,
}

// SAFETY: as above.
unsafe impl Params for MergeParams {}

/// What a selection takes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SelectParams {
    pub lists: u64,
    pub overflow: u64,
    pub slots: u64,
    pub total: u64,
    pub below: u64,
    pub entries: u64,
    pub token: u64,
    pub value: u64,
    pub stride: i64,
    pub tiles: i32,
    pub listed: i32,
    pub slot_count: i32,
    pub k: i32,
    pub room: i32,
    pub flags: u32,
}

// SAFETY: as above.
unsafe impl Params for SelectParams {}

/// Bytes of the kernels' records.
pub(super) mod size {
    /// `Mass`: maximum, sum, tempered, moment, tempered_moment.
    pub const MASS: usize = 20;
    /// `Part` of a tile: a mass and the number of logits above -inf.
    pub const PART: usize = 24;
    /// `Total` of a row: a mass, the number of logits above -inf, the length of the list.
    pub const TOTAL: usize = 28;
    /// `Best`: score, rest, logit, token.
    pub const BEST: usize = 16;
    /// `Spread`: count, mean, squares.
    pub const SPREAD: usize = 12;
    /// An entry of a list.
    pub const ENTRY: usize = 8;
}
