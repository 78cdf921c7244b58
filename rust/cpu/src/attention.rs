//! Fused attention: the scores of a few queries with a chunk of keys live in cache and nowhere else.
//!
//! How a row is summed depends on the row alone. Its keys are taken in chunks counted from the sequence's first key;
//! each chunk has its own maximum, sum of weights and sum of weighted values, every one of them in a fixed order;
//! chunks are merged in their order; a chunk of which the row sees nothing changes nothing. So a row has the same bits
//! in a prefill, in a decode step, in any batch, at any thread count and on every instruction set.
//!
//! Blocks of many queries pack keys and values once for all of them (`block`); a few queries read them where they lie,
//! chunks shared out among the threads (`stream`).

mod arrays;
mod block;
mod context;
mod gradient;
mod output;
mod packing;
mod statistics;
mod stream;
mod turning;
mod visibility;
mod walk;

use crate::{Typed, ViewMut, dispatch, threads};
use farspan_core::Result;
use farspan_core::attention::problem;

pub use crate::arch::attention::Input;
pub use arrays::Views;
pub use gradient::{Backward, Gradients, attention_backward};
pub use statistics::{Statistics, attention_statistics};

/// The output `[batch, query_heads, query_time, value_dim]`, of the inputs' element type, the last dimension
/// contiguous.
pub type Output<'a> = Typed<ViewMut<'a, f32, 4>, ViewMut<'a, u16, 4>>;

/// One call on the CPU.
pub type Attention<'a> = problem::Problem<Views<'a>>;
/// Its rotation.
pub type Rotary<'a> = problem::Rotary<Views<'a>>;
/// Its second rotation.
pub type Far<'a> = problem::Far<Views<'a>>;
/// Its bias by distance.
pub type DistanceBias<'a> = problem::DistanceBias<Views<'a>>;

/// Computes the output and, where asked, the LSE `[batch, query_heads, query_time]`. The arguments are checked first.
pub fn attention(problem: &Attention<'_>, output: Output<'_>, lse: Option<ViewMut<'_, f32, 3>>) -> Result<()> {
    let shape = arrays::check(problem, &output, lse.as_ref())?;
    let context = context::Context::new(problem, shape, dispatch::machine()?);
    let (streams, blocks) = output::cut(&context, output::Weighted { output, lse });
    threads::scope(context.work.is_little(problem.sequences), |spawner| {
        stream::spawn(spawner, &context, streams);
        block::spawn(spawner, &context, blocks);
    })
}
