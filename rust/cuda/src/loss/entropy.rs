//! `linear_cross_entropy` and its gradients.

use super::backward::{Gradients, Of, Walk};
use super::launch::{Room, checked, fitting, launch, rows_at_once, table, tiles};
use super::params::{EntropyParams, GatherParams, Kind, LossParams, ReduceParams, RowsParams, SMOOTHS, size};
use super::variants::{self, PLAIN_ROWS, ROWS_OF_MERGE, SUM_BYTES};
use crate::device::Device;
use crate::tensor::{Tensor, Workspace};
use crate::unembed::{Checked, Problem, UnembedParams, name, setting};
use farspan_core::Result;
use farspan_core::loss::{Reduction, check_class_weight, check_factors};
use farspan_core::unembed::check_rows;

/// The settings of a cross-entropy: `farspan_core::loss::CrossEntropy`, its arrays on the device. A target that is no
/// token makes its row's loss, and with it what is reduced, NaN.
#[derive(Clone, Copy, Debug)]
pub struct CrossEntropy {
    /// int64 `[rows]`
    pub targets: Tensor<1>,
    /// Rows with this target do not count.
    pub ignore_index: i64,
    /// How much of the target's share goes to all tokens that exist: 0 to 1.
    pub label_smoothing: f64,
    /// float32 `[vocab]`
    pub class_weight: Option<Tensor<1>>,
    /// Factor of the squared lse. Finite.
    pub z_loss: f64,
    /// What becomes of the rows' losses.
    pub reduction: Reduction,
}

/// Where [`linear_cross_entropy`] writes: addresses of float32, contiguous.
#[derive(Clone, Copy, Debug)]
pub struct EntropyOut {
    /// One, or `[rows]` where nothing is reduced.
    pub loss: u64,
    /// `[rows]`: both parts of the lse, which the gradients are computed from.
    pub max: u64,
    /// See above.
    pub log_sum: u64,
}

/// What the gradients of [`linear_cross_entropy`] follow from, float32.
#[derive(Clone, Copy, Debug)]
pub struct EntropyRead {
    /// `[rows]`
    pub max: Tensor<1>,
    /// `[rows]`
    pub log_sum: Tensor<1>,
    /// The slope of a result by the loss: one, or one of each row where nothing is reduced.
    pub by_loss: Tensor<1>,
}

/// A call whose arguments fit.
struct Call {
    checked: Checked,
    class_weight: u64,
    /// What each token gets of a target's share.
    smoothing: f64,
}

impl Call {
    fn new(problem: &Problem, settings: &CrossEntropy) -> Result<Call> {
        let checked = checked(problem)?;
        check_rows("targets", checked.rows, settings.targets.shape[0])?;
        check_factors(settings.label_smoothing, settings.z_loss)?;
        check_class_weight(settings.class_weight.map(|weights| weights.shape[0]), &checked.tokens)?;
        let class_weight = table("class_weight", settings.class_weight.as_ref())?;
        let smoothing = settings.label_smoothing / checked.tokens.count.max(1) as f64;
        Ok(Call { checked, class_weight, smoothing })
    }

    fn gather(&self, settings: &CrossEntropy) -> GatherParams {
        GatherParams {
            targets: setting(&settings.targets),
            ignore_index: settings.ignore_index,
            class_weight: self.class_weight,
            rows: self.checked.rows as i32,
            valid: self.checked.tokens.count as i32,
            mean: (settings.reduction == Reduction::Mean).into(),
            ..GatherParams::default()
        }
    }
}

/// Where the forward pass keeps what it needs.
struct Layout {
    rows_at_once: usize,
    common: u64,
    row_map: u64,
    losses: u64,
    parts: u64,
    target_logit: u64,
    room: Room,
}

impl Layout {
    fn new(checked: &Checked, rows_at_once: usize) -> Layout {
        let mut room = Room::default();
        Layout {
            rows_at_once,
            common: room.take(size::COMMON),
            row_map: room.take(checked.rows * 4),
            losses: room.take(checked.rows * 8),
            parts: room.take(rows_at_once * tiles(checked) * size::ENTROPY_PART),
            target_logit: room.take(rows_at_once * 4),
            room,
        }
    }

    /// The one for which so many bytes are enough, or the one that needs least.
    fn within(checked: &Checked, bytes: usize) -> Layout {
        let sizes = rows_at_once(checked, size::ENTROPY_PART, PLAIN_ROWS);
        Layout::new(checked, fitting(sizes, |rows| Layout::new(checked, rows).room.bytes, bytes))
    }
}

/// Bytes of workspace that [`linear_cross_entropy`] needs.
pub fn linear_cross_entropy_workspace(problem: &Problem, settings: &CrossEntropy) -> Result<usize> {
    Ok(Layout::within(&Call::new(problem, settings)?.checked, usize::MAX).room.bytes)
}

/// The cross-entropy of `settings.targets`. The lse of rows that do not count is 0.
///
/// # Safety
/// Every address is valid on the device, with the extent and strides given, until the launches have run.
pub unsafe fn linear_cross_entropy(
    device: &dyn Device,
    problem: &Problem,
    settings: &CrossEntropy,
    out: &EntropyOut,
    workspace: Workspace,
) -> Result<()> {
    let call = Call::new(problem, settings)?;
    let Checked { dtype, rows, tokens, .. } = call.checked;
    let (layout, tiles) = (Layout::within(&call.checked, workspace.bytes), tiles(&call.checked));
    layout.room.check(workspace)?;
    let at = |offset: u64| workspace.pointer + offset;
    let reduces = settings.reduction != Reduction::None;
    let (row_map, common, losses) = (at(layout.row_map), at(layout.common), at(layout.losses));
    let loss_of_row = if reduces { 0 } else { out.loss };
    let EntropyOut { max, log_sum, .. } = *out;
    let gather = GatherParams { row_map, common, loss: loss_of_row, max, log_sum, ..call.gather(settings) };
    // SAFETY: the caller's, and the workspace has the extent that the layout asks for.
    unsafe { launch(device, &variants::gather(), 1, SUM_BYTES, &gather)? };
    for first in (0..rows).step_by(layout.rows_at_once.max(1)) {
        let here = layout.rows_at_once.min(rows - first);
        let (parts, target_logit, class_weight) = (at(layout.parts), at(layout.target_logit), call.class_weight);
        let model = UnembedParams {
            row_map,
            rows: here as i32,
            first_row: first as i32,
            tiles: tiles as i32,
            ..call.checked.params
        };
        let pass = LossParams {
            model,
            targets: setting(&settings.targets),
            class_weight,
            common,
            parts,
            target_logit,
            inverse_temperature: 1.0,
            flags: if settings.label_smoothing > 0.0 { SMOOTHS } else { 0 },
            ..LossParams::default()
        };
        let merge = EntropyParams {
            parts,
            target_logit,
            targets: pass.targets,
            class_weight,
            common,
            row_map,
            losses,
            loss: loss_of_row,
            max,
            log_sum,
            label_smoothing: settings.label_smoothing,
            smoothing: call.smoothing,
            z_loss: settings.z_loss,
            rows: here as i32,
            first_row: first as i32,
            tiles: tiles as i32,
            valid: tokens.count as i32,
        };
        let blocks = here.div_ceil(PLAIN_ROWS) * tiles;
        // SAFETY: as above.
        unsafe {
            launch(device, &variants::entropy(name(dtype)), blocks, variants::shared_bytes(false), &pass)?;
            launch(device, &variants::merge(), here.div_ceil(ROWS_OF_MERGE), SUM_BYTES, &merge)?;
        }
    }
    if reduces {
        let reduce = ReduceParams { losses, common, loss: out.loss };
        // SAFETY: as above.
        unsafe { launch(device, &variants::reduce(), 1, SUM_BYTES, &reduce)? };
    }
    Ok(())
}

/// Bytes of workspace that [`linear_cross_entropy_gradient`] needs.
pub fn linear_cross_entropy_gradient_workspace(
    problem: &Problem,
    settings: &CrossEntropy,
    out: &Gradients,
) -> Result<usize> {
    Ok(Walk::bytes(&Call::new(problem, settings)?.checked, out, true))
}

/// The gradients of [`linear_cross_entropy`], given its lse and the slopes of a result by its loss.
///
/// # Safety
/// As [`linear_cross_entropy`].
pub unsafe fn linear_cross_entropy_gradient(
    device: &dyn Device,
    problem: &Problem,
    settings: &CrossEntropy,
    read: &EntropyRead,
    out: &Gradients,
    workspace: Workspace,
) -> Result<()> {
    let call = Call::new(problem, settings)?;
    let rows = call.checked.rows;
    check_rows("max", rows, read.max.shape[0])?;
    check_rows("log_sum", rows, read.log_sum.shape[0])?;
    let slopes = if settings.reduction == Reduction::None { rows } else { 1 };
    check_rows("the slope of loss", slopes, read.by_loss.shape[0])?;
    let of = Of {
        gather: call.gather(settings),
        rows: RowsParams {
            kind: Kind::CrossEntropy,
            targets: setting(&settings.targets),
            class_weight: call.class_weight,
            max: setting(&read.max),
            log_sum: setting(&read.log_sum),
            upstream: setting(&read.by_loss),
            label_smoothing: settings.label_smoothing,
            smoothing: call.smoothing,
            z_loss: settings.z_loss,
            inverse_temperature: 1.0,
            ..RowsParams::default()
        },
        target: None,
        top_token: 0,
    };
    // SAFETY: the caller's.
    unsafe { Walk::run(device, &call.checked, &of, out, workspace) }
}
