//! `divergence` and its gradients.

use super::backward::{Gradients, Of, Walk};
use super::launch::{Room, checked, fitting, launch, rows_at_once, tiles};
use super::params::{GatherParams, Kind, LossParams, PairParams, RowsParams, size};
use super::variants::{self, PAIR_ROWS, ROWS_OF_MERGE, SUM_BYTES};
use crate::device::Device;
use crate::tensor::{Tensor, Workspace};
use crate::unembed::{Checked, Problem, UnembedParams, name, setting};
use farspan_core::loss::{check_temperature, target_name};
use farspan_core::unembed::check_rows;
use farspan_core::{Error, Result};

/// Both sides of a divergence: their rows, tokens and element type are the same.
#[derive(Clone, Copy, Debug)]
pub struct Sides<'p> {
    /// The model, which has the gradients.
    pub model: &'p Problem,
    /// What it is to be like.
    pub target: &'p Problem,
    /// What the logits of both are divided by; above 0.
    pub temperature: f32,
}

impl Sides<'_> {
    fn check(&self) -> Result<(Checked, Checked)> {
        check_temperature(self.temperature)?;
        let (model, target) = (checked(self.model)?, checked(self.target).map_err(|error| error.renamed(target_name))?);
        check_rows("target_hidden", model.rows, target.rows)?;
        if model.tokens != target.tokens {
            let (expected, given) = (format!("{} tokens, as weight", model.tokens.vocab), target.tokens.vocab);
            return Err(Error::argument("target_weight", expected, given));
        }
        if model.dtype != target.dtype {
            let (expected, given) = (format!("{}, as hidden", model.dtype.name()), target.dtype.name().into());
            return Err(Error::Dtype { argument: "target_hidden", expected, given });
        }
        Ok((model, target))
    }
}

/// Where [`divergence`] writes: addresses of float32 `[rows]`, contiguous.
#[derive(Clone, Copy, Debug)]
pub struct DivergenceOut {
    /// In nats.
    pub divergence: u64,
    /// Both parts of the model's lse, which the gradients are computed from.
    pub max: u64,
    /// See above.
    pub log_sum: u64,
    /// The same of the target.
    pub target_max: u64,
    /// See above.
    pub target_log_sum: u64,
}

/// What the gradients of [`divergence`] follow from, float32 `[rows]`.
#[derive(Clone, Copy, Debug)]
pub struct DivergenceRead {
    /// Both parts of the model's lse.
    pub max: Tensor<1>,
    /// See above.
    pub log_sum: Tensor<1>,
    /// The same of the target.
    pub target_max: Tensor<1>,
    /// See above.
    pub target_log_sum: Tensor<1>,
    /// The slopes of a result by each row's divergence.
    pub by_divergence: Tensor<1>,
}

/// How many rows at once are taken, and where their parts lie: what so many bytes are enough for, or what needs least.
fn layout(checked: &Checked, bytes: usize) -> (usize, Room) {
    let room = |rows: usize| {
        let mut room = Room::default();
        room.take(rows * tiles(checked) * size::PAIR_PART);
        room
    };
    let sizes = rows_at_once(checked, size::PAIR_PART, PAIR_ROWS);
    let rows = fitting(sizes, |rows| room(rows).bytes, bytes);
    (rows, room(rows))
}

/// Bytes of workspace that [`divergence`] needs.
pub fn divergence_workspace(sides: &Sides) -> Result<usize> {
    Ok(layout(&sides.check()?.0, usize::MAX).1.bytes)
}

/// `KL(target || model)` of each row.
///
/// # Safety
/// Every address is valid on the device, with the extent and strides given, until the launches have run.
pub unsafe fn divergence(device: &dyn Device, sides: &Sides, out: &DivergenceOut, workspace: Workspace) -> Result<()> {
    let (model, target) = sides.check()?;
    let (rows_at_once, room) = layout(&model, workspace.bytes);
    room.check(workspace)?;
    let (rows, tiles, dtype) = (model.rows, tiles(&model), model.dtype);
    for first in (0..rows).step_by(rows_at_once.max(1)) {
        let here = rows_at_once.min(rows - first);
        let side = |side: &Checked| UnembedParams {
            rows: here as i32,
            first_row: first as i32,
            tiles: tiles as i32,
            ..side.params
        };
        let pass = LossParams {
            model: side(&model),
            target: side(&target),
            pairs: workspace.pointer,
            inverse_temperature: sides.temperature.recip(),
            ..LossParams::default()
        };
        let merge = PairParams {
            pairs: workspace.pointer,
            divergence: out.divergence,
            max: out.max,
            log_sum: out.log_sum,
            target_max: out.target_max,
            target_log_sum: out.target_log_sum,
            rows: here as i32,
            first_row: first as i32,
            tiles: tiles as i32,
            unused: 0,
        };
        let blocks = here.div_ceil(PAIR_ROWS) * tiles;
        // SAFETY: the caller's, and the workspace has the extent that the layout asks for.
        unsafe {
            launch(device, &variants::pairs(name(dtype)), blocks, variants::shared_bytes(true), &pass)?;
            launch(device, &variants::merge_pairs(), here.div_ceil(ROWS_OF_MERGE), SUM_BYTES, &merge)?;
        }
    }
    Ok(())
}

/// Bytes of workspace that [`divergence_gradient`] needs.
pub fn divergence_gradient_workspace(sides: &Sides, out: &Gradients) -> Result<usize> {
    Ok(Walk::bytes(&sides.check()?.0, out, false))
}

/// The gradients of [`divergence`] by the model.
///
/// # Safety
/// As [`divergence`].
pub unsafe fn divergence_gradient(
    device: &dyn Device,
    sides: &Sides,
    read: &DivergenceRead,
    out: &Gradients,
    workspace: Workspace,
) -> Result<()> {
    let (model, target) = sides.check()?;
    for (argument, given) in [
        ("max", read.max),
        ("log_sum", read.log_sum),
        ("target_max", read.target_max),
        ("target_log_sum", read.target_log_sum),
        ("the slope of divergence", read.by_divergence),
    ] {
        check_rows(argument, model.rows, given.shape[0])?;
    }
    let of = Of {
        gather: GatherParams { rows: model.rows as i32, valid: model.tokens.count as i32, ..GatherParams::default() },
        rows: RowsParams {
            kind: Kind::Divergence,
            max: setting(&read.max),
            log_sum: setting(&read.log_sum),
            target_max: setting(&read.target_max),
            target_log_sum: setting(&read.target_log_sum),
            upstream: setting(&read.by_divergence),
            inverse_temperature: sides.temperature.recip(),
            ..RowsParams::default()
        },
        target: Some(target.params),
        top_token: 0,
    };
    // SAFETY: the caller's.
    unsafe { Walk::run(device, &model, &of, out, workspace) }
}
