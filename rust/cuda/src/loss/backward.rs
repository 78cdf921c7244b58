//! The gradients of every loss: the slopes of a stretch of tokens, and their products with weight and with hidden.

use super::launch::{BUDGET, Room, checked, fitting, launch};
use super::params::{
    BiasParams, FIRST_STRETCH, GatherParams, Kind, OTHER_ALIGNED, OuterParams, RowsParams, SlopesParams, StoreParams,
    size,
};
use super::variants::{
    self, BREADTH, HEIGHT, PAIR_ROWS, PLAIN_ROWS, SUM_BYTES, TOKENS, TOKENS_OF_BIAS, outer_shared_bytes, shared_bytes,
};
use crate::device::Device;
use crate::tensor::{Tensor, Workspace};
use crate::unembed::{Checked, HIDDEN_ALIGNED, Problem, UnembedParams, WEIGHT_ALIGNED, name, setting};
use farspan_core::unembed::check_rows;
use farspan_core::{Dtype, Error, Result};

/// Where gradients are written: addresses of arrays without gaps, 0 where one is not asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gradients {
    /// `[rows, dim]`, in hidden's element type.
    pub hidden: u64,
    /// `[vocab, dim]`, in weight's element type.
    pub weight: u64,
    /// float32 `[vocab]`
    pub bias: u64,
}

/// What gradients are of.
pub(super) struct Of {
    pub gather: GatherParams,
    pub rows: RowsParams,
    /// The target's side of a divergence.
    pub target: Option<UnembedParams>,
    /// `[rows, top]`
    pub top_token: u64,
}

/// Where the backward pass keeps what it needs.
struct Layout {
    /// Tokens of a stretch.
    stretch: usize,
    common: u64,
    slope_rows: u64,
    row_map: u64,
    place_of: u64,
    sums: u64,
    by_row: u64,
    by_token: u64,
    bias_sums: u64,
    room: Room,
}

impl Layout {
    /// `some`: whether not all rows may count.
    fn new(checked: &Checked, out: &Gradients, some: bool, stretch: usize) -> Layout {
        let Checked { dtype, rows, .. } = *checked;
        let given = |wanted: bool, bytes: usize| if wanted { bytes } else { 0 };
        let dim = checked.params.dim as usize;
        let mut room = Room::default();
        Layout {
            stretch,
            common: room.take(size::COMMON),
            slope_rows: room.take(rows * size::SLOPE_ROW),
            row_map: room.take(given(some, rows * 4)),
            place_of: room.take(given(some, rows * 4)),
            sums: room.take(given(out.hidden != 0, rows * dim * 4)),
            by_row: room.take(rows * stretch * dtype.size()),
            by_token: room.take(given(scales(dtype), rows * stretch * dtype.size())),
            bias_sums: room.take(given(out.bias != 0, rows.div_ceil(PAIR_ROWS) * stretch * 4)),
            room,
        }
    }

    /// The one with the longest stretches for which so many bytes are enough, or the one that needs least.
    fn within(checked: &Checked, out: &Gradients, some: bool, bytes: usize) -> Layout {
        let Checked { dtype, rows, ref tokens, .. } = *checked;
        let depth = variants::depth(dtype.size());
        let row_bytes = dtype.size() * if scales(dtype) { 2 } else { 1 };
        let most = (BUDGET / (rows.max(1) * row_bytes)).max(depth).min(tokens.count.next_multiple_of(depth).max(depth));
        let sizes = (1..=most / depth).rev().map(|depths| depths * depth);
        let of = |stretch| Layout::new(checked, out, some, stretch);
        of(fitting(sizes, |stretch| of(stretch).room.bytes, bytes))
    }
}

/// Whether slopes are scaled where they are stored: a float16 does not hold the small ones.
fn scales(dtype: Dtype) -> bool {
    dtype == Dtype::F16
}

/// A backward pass.
pub(super) struct Walk<'a> {
    device: &'a dyn Device,
    checked: &'a Checked,
    of: &'a Of,
    out: &'a Gradients,
    layout: Layout,
    memory: u64,
    row_map: u64,
}

impl<'a> Walk<'a> {
    /// Bytes of workspace; `some`: whether not all rows may count.
    pub(super) fn bytes(checked: &Checked, out: &Gradients, some: bool) -> usize {
        Layout::within(checked, out, some, usize::MAX).room.bytes
    }

    /// Writes the gradients.
    ///
    /// # Safety
    /// Every address is valid on the device, with the extent that the problem says, until the launches have run.
    pub(super) unsafe fn run(
        device: &'a dyn Device,
        checked: &'a Checked,
        of: &'a Of,
        out: &'a Gradients,
        workspace: Workspace,
    ) -> Result<()> {
        let some = of.gather.targets.first != 0;
        let layout = Layout::within(checked, out, some, workspace.bytes);
        layout.room.check(workspace)?;
        let row_map = if some { workspace.pointer + layout.row_map } else { 0 };
        let walk = Walk { device, checked, of, out, layout, memory: workspace.pointer, row_map };
        // SAFETY: the caller's, and the workspace has the extent that the layout asks for.
        unsafe { walk.go() }
    }

    fn at(&self, offset: u64) -> u64 {
        self.memory + offset
    }

    unsafe fn go(&self) -> Result<()> {
        let Checked { rows, dtype, ref tokens, ref params, .. } = *self.checked;
        let (common, slope_rows) = (self.at(self.layout.common), self.at(self.layout.slope_rows));
        let place_of = if self.row_map == 0 { 0 } else { self.at(self.layout.place_of) };
        let gather = GatherParams { row_map: self.row_map, place_of, common, ..self.of.gather };
        let weigh = RowsParams {
            common,
            row_map: self.row_map,
            slopes: slope_rows,
            scale: params.scale,
            valid: tokens.count as i32,
            scales: scales(dtype).into(),
            ..self.of.rows
        };
        // SAFETY: the caller's.
        unsafe {
            launch(self.device, &variants::gather(), 1, SUM_BYTES, &gather)?;
            launch(self.device, &variants::weigh(), 1, SUM_BYTES, &weigh)?;
        }
        // Where there are no tokens, their gradients are still to be written.
        for first in (0..tokens.count.max(1)).step_by(self.layout.stretch) {
            let count = self.layout.stretch.min(tokens.count - first);
            let last = first + count == tokens.count;
            let written = if last { tokens.vocab - first } else { count };
            // SAFETY: the caller's.
            unsafe { self.stretch(first, count, written)? };
        }
        if self.out.hidden == 0 {
            return Ok(());
        }
        let store = StoreParams {
            sums: if tokens.count == 0 { 0 } else { self.at(self.layout.sums) },
            slopes: slope_rows,
            place_of,
            out: self.out.hidden,
            rows: rows as i32,
            dim: params.dim,
        };
        // SAFETY: the caller's.
        unsafe { launch(self.device, &variants::store(name(dtype)), rows, 0, &store) }
    }

    /// Does `count` tokens from `first` on; of `written` the gradients are written.
    unsafe fn stretch(&self, first: usize, count: usize, written: usize) -> Result<()> {
        let Checked { rows, dtype, ref params, .. } = *self.checked;
        let (stride, common) = (self.layout.stretch as i64, self.at(self.layout.common));
        let pair = self.of.target.is_some();
        let (block_rows, tiles) = (if pair { PAIR_ROWS } else { PLAIN_ROWS }, count.div_ceil(TOKENS));
        let by_row = self.at(self.layout.by_row);
        let by_token = if scales(dtype) { self.at(self.layout.by_token) } else { 0 };
        let bias_sums = if self.out.bias == 0 { 0 } else { self.at(self.layout.bias_sums) };
        let side = |side: &UnembedParams| UnembedParams {
            rows: rows as i32,
            tiles: tiles as i32,
            row_map: self.row_map,
            ..*side
        };
        let slopes = SlopesParams {
            model: side(params),
            target: self.of.target.as_ref().map(side).unwrap_or_default(),
            rows: self.at(self.layout.slope_rows),
            common,
            class_weight: self.of.rows.class_weight,
            top_token: self.of.top_token,
            by_top: self.of.rows.by_top,
            by_row,
            by_token,
            bias_sums,
            stride,
            first_tile: (first / TOKENS) as i32,
            top: self.of.rows.top,
            inverse_temperature: self.of.rows.inverse_temperature,
            unused: 0,
        };
        let blocks = rows.div_ceil(block_rows) * tiles;
        // SAFETY: the caller's.
        unsafe {
            launch(self.device, &variants::slopes(name(dtype), pair), blocks, shared_bytes(pair), &slopes)?;
            self.hidden(first, count)?;
            self.weight(first, count, written)?;
        }
        if self.out.bias == 0 {
            return Ok(());
        }
        let bias = BiasParams {
            sums: bias_sums,
            common,
            out: self.out.bias + first as u64 * 4,
            stride,
            tokens: count as i32,
            written: written as i32,
            block_rows: block_rows as i32,
            unused: 0,
        };
        // SAFETY: the caller's.
        unsafe { launch(self.device, &variants::bias(), written.div_ceil(TOKENS_OF_BIAS), 0, &bias) }
    }

    /// What both outer products of a stretch take.
    fn outer(&self, first: usize, count: usize) -> OuterParams {
        let params = &self.checked.params;
        OuterParams {
            slopes: self.at(self.layout.by_row),
            stride: self.layout.stretch as i64,
            row_map: self.row_map,
            bias: if params.bias == 0 { 0 } else { params.bias + first as u64 * 4 },
            common: self.at(self.layout.common),
            tokens: count as i32,
            rows: self.checked.rows as i32,
            dim: params.dim,
            hidden_rows: params.hidden_rows,
            ..OuterParams::default()
        }
    }

    unsafe fn hidden(&self, first: usize, count: usize) -> Result<()> {
        let (params, dtype) = (&self.checked.params, self.checked.dtype);
        if self.out.hidden == 0 || count == 0 {
            return Ok(());
        }
        let mut other = params.weight;
        other.first = other.first.wrapping_add_signed(first as i64 * other.stride);
        let outer = OuterParams {
            other,
            sums: self.at(self.layout.sums),
            flags: flag(params.flags & WEIGHT_ALIGNED != 0, OTHER_ALIGNED) | flag(first == 0, FIRST_STRETCH),
            ..self.outer(first, count)
        };
        let blocks = self.checked.rows.div_ceil(HEIGHT) * (params.dim as usize).div_ceil(BREADTH);
        // SAFETY: the caller's.
        unsafe { launch(self.device, &variants::outer(name(dtype), false), blocks, outer_shared_bytes(), &outer) }
    }

    unsafe fn weight(&self, first: usize, count: usize, written: usize) -> Result<()> {
        let (params, dtype) = (&self.checked.params, self.checked.dtype);
        if self.out.weight == 0 {
            return Ok(());
        }
        let row_bytes = params.dim as u64 * dtype.size() as u64;
        let outer = OuterParams {
            slopes: self.at(if scales(dtype) { self.layout.by_token } else { self.layout.by_row }),
            other: params.hidden,
            out: self.out.weight + first as u64 * row_bytes,
            written: written as i32,
            flags: flag(params.flags & HIDDEN_ALIGNED != 0, OTHER_ALIGNED),
            ..self.outer(first, count)
        };
        let blocks = written.div_ceil(HEIGHT) * (params.dim as usize).div_ceil(BREADTH);
        // SAFETY: the caller's.
        unsafe { launch(self.device, &variants::outer(name(dtype), true), blocks, outer_shared_bytes(), &outer) }
    }
}

fn flag(set: bool, flag: u32) -> u32 {
    if set { flag } else { 0 }
}

/// What the gradients of `score` follow from: what it gave, and the slopes of a result by that. float32 but where it is
/// said; lists are contiguous.
#[derive(Clone, Copy, Debug)]
pub struct ScoreRead {
    /// int64 `[rows]`
    pub targets: Tensor<1>,
    /// `[rows]`
    pub entropy: Tensor<1>,
    /// `[rows]`
    pub lse: Tensor<1>,
    /// int64 `[rows, top]`; -1 in a row with NaN.
    pub top_token: Tensor<2>,
    /// The slopes by logprob, `[rows]`.
    pub by_logprob: Tensor<1>,
    /// By entropy, `[rows]`.
    pub by_entropy: Tensor<1>,
    /// By lse, `[rows]`.
    pub by_lse: Tensor<1>,
    /// By the log-probabilities that are listed, `[rows, top]`.
    pub by_top_logprob: Tensor<2>,
}

impl ScoreRead {
    fn check(&self, rows: usize) -> Result<()> {
        for (argument, given) in [
            ("targets", self.targets),
            ("entropy", self.entropy),
            ("lse", self.lse),
            ("the slope of logprob", self.by_logprob),
            ("the slope of entropy", self.by_entropy),
            ("the slope of lse", self.by_lse),
        ] {
            check_rows(argument, rows, given.shape[0])?;
        }
        let (lists, slopes) = (self.top_token, self.by_top_logprob);
        check_rows("top_token", rows, lists.shape[0])?;
        for (argument, given) in [("top_token", lists), ("the slope of top_logprob", slopes)] {
            let [rows, columns] = given.shape;
            let (between_rows, between_columns) = (given.strides[0], given.strides[1]);
            let gaps = columns > 1 && between_columns != 1 || rows > 1 && between_rows != columns as i64;
            if given.shape != lists.shape || given.elements() > 0 && gaps {
                let expected = format!("shape {:?} without gaps", lists.shape);
                let found = format!("shape {:?}, strides {:?}", given.shape, given.strides);
                return Err(Error::argument(argument, expected, found));
            }
        }
        Ok(())
    }
}

/// Bytes of workspace that [`score_gradient`] needs.
pub fn score_gradient_workspace(problem: &Problem, out: &Gradients) -> Result<usize> {
    Ok(Walk::bytes(&checked(problem)?, out, false))
}

/// The gradients of `score`. A target that is no token adds nothing of its own.
///
/// # Safety
/// Every address is valid on the device, with the extent and strides given, until the launches have run.
pub unsafe fn score_gradient(
    device: &dyn Device,
    problem: &Problem,
    read: &ScoreRead,
    out: &Gradients,
    workspace: Workspace,
) -> Result<()> {
    let checked = checked(problem)?;
    read.check(checked.rows)?;
    let of = Of {
        gather: GatherParams {
            rows: checked.rows as i32,
            valid: checked.tokens.count as i32,
            ..GatherParams::default()
        },
        rows: RowsParams {
            kind: Kind::Score,
            targets: setting(&read.targets),
            max: setting(&read.lse),
            entropy: setting(&read.entropy),
            upstream: setting(&read.by_logprob),
            by_entropy: setting(&read.by_entropy),
            by_lse: setting(&read.by_lse),
            by_top: read.by_top_logprob.pointer,
            top: read.top_token.shape[1] as i32,
            inverse_temperature: 1.0,
            ..RowsParams::default()
        },
        target: None,
        top_token: read.top_token.pointer,
    };
    // SAFETY: the caller's.
    unsafe { Walk::run(device, &checked, &of, out, workspace) }
}
