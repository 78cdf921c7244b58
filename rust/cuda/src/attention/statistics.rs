//! What the weights of each row look like, from the walk that attention takes, without values.
//!
//! A row keeps three sums beside those of its softmax. Where chunks of a row are shared out among blocks, a second
//! kernel merges these sums in the order of the chunks, as a block does by itself: a row has the same bits either way.

mod params;
mod variants;

pub use variants::variants;

use super::plan::Sums;
use super::{Attention, Call, Layout, problem, table_at};
use crate::device::{Device, Limits};
use crate::tensor::{Tensor, Workspace};
use farspan_core::Result;
use farspan_core::attention::{Shape, check_shape};
use params::{ResultParams, StatisticsParams};
use variants::{combine, walk};

/// Numbers of a row's `Moments` in the kernels.
const MOMENTS: Sums = Sums::Moments(3);

/// Where the statistics of each row go, `[batch, query_heads, query_time]` of float32. With a row's weights
/// `p = exp(score - lse)`:
#[derive(Clone, Copy, Debug)]
pub struct Statistics {
    /// `ln(sum of exp(scores))`, a sink among them.
    pub lse: Tensor<3>,
    /// `-sum of p ln p`, in nats, a sink's share among them.
    pub entropy: Tensor<3>,
    /// The largest p of a key.
    pub largest: Tensor<3>,
    /// p of the sequence's first key.
    pub first: Tensor<3>,
    /// p of the sink.
    pub sink: Tensor<3>,
    /// Sum of p times the order of the query less that of the key.
    pub distance: Tensor<3>,
}

/// Bytes of workspace that a call needs on a device of these limits; known without reading device memory.
pub fn workspace_bytes(problem: &Attention, limits: &Limits) -> Result<usize> {
    let shape = problem::check(problem)?;
    Ok(Call::summing(MOMENTS, problem, shape, limits).layout(0).bytes)
}

/// Starts the kernels that compute the statistics of the weights that attention would give the values, which nobody
/// reads: the keys stand in for them. The LSE has attention's bits. The arguments are checked first. Nothing is
/// allocated, read back or waited for.
///
/// # Safety
/// All tensors are memory of the device, valid until the kernels have run; results and workspace overlap nothing else.
pub unsafe fn attention_statistics(
    device: &dyn Device,
    problem: &Attention,
    statistics: &Statistics,
    workspace: Workspace,
) -> Result<()> {
    let shape = problem::check(problem)?;
    statistics.check(&shape)?;
    let call = Call::summing(MOMENTS, problem, shape, &device.limits());
    let Some(layout) = call.place(workspace)? else { return Ok(()) };
    let params = StatisticsParams {
        problem: call.turned_params(&layout),
        plan: call.plan_params(&layout),
        results: statistics.params(&layout),
    };
    let kernel = walk(problem.query.dtype, call.plan.width, call.plan.warps, call.has_hooks());
    // SAFETY: the caller's pointers, and those into the workspace.
    unsafe { call.launch(device, &layout, &params, &kernel, combine) }
}

impl Statistics {
    /// In the order of the kernels.
    fn named(&self) -> [(&'static str, &Tensor<3>); 6] {
        let Statistics { lse, entropy, largest, first, sink, distance } = self;
        [
            ("lse", lse),
            ("entropy", entropy),
            ("largest", largest),
            ("first", first),
            ("sink", sink),
            ("distance", distance),
        ]
    }

    fn check(&self, shape: &Shape) -> Result<()> {
        for (argument, tensor) in self.named() {
            check_shape(argument, &[shape.batch, shape.query_heads, shape.query_time], &tensor.shape)?;
        }
        Ok(())
    }

    fn params(&self, layout: &Layout) -> ResultParams {
        ResultParams {
            rows: self.named().map(|(_, tensor)| table_at(Some(tensor))),
            partial_moments: layout.partial_sums,
            partial_states: layout.partial_states,
        }
    }
}
