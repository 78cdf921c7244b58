//! Fused attention: the scores of a few queries with a chunk of keys live in cache and nowhere else.
//!
//! How a row is summed depends on the row alone. Its keys are taken in chunks counted from the sequence's first key;
//! each chunk has its own maximum, sum of weights and sum of weighted values, every one of them in a fixed order;
//! chunks are merged in their order; a chunk of which the row sees nothing changes nothing. So a row has the same bits
//! in a prefill, in a decode step, in any batch, at any thread count and on every instruction set.
//!
//! Blocks of many queries pack keys and values once for all of them (`block`); a few queries read them where they lie,
//! chunks shared out among the threads (`stream`).

mod block;
mod keys;
mod pieces;
mod problem;
mod queries;
mod stream;
mod visibility;

use crate::{Typed, View, ViewMut, dispatch, threads};
use farspan_core::Result;
use farspan_core::attention::plan::Work;
use farspan_core::attention::{Rules, Sequence};

pub use crate::arch::attention::Input;

/// The output `[batch, query_heads, query_time, value_dim]`, of the inputs' element type, the last dimension
/// contiguous.
pub type Output<'a> = Typed<ViewMut<'a, f32, 4>, ViewMut<'a, u16, 4>>;

/// Rotation of queries and keys inside the tile.
#[derive(Clone, Copy, Debug)]
pub struct Rotary<'a> {
    /// `[sequences, r / 2]`: radians per position; a zero stride where all sequences share them.
    pub inv_freq: View<'a, f32, 2>,
    /// Factor of cosine and sine.
    pub magnitude: f32,
    /// Pairs are `(2i, 2i + 1)` instead of `(i, i + r / 2)`.
    pub interleaved: bool,
    /// A second rotation beyond a distance.
    pub far: Option<Far<'a>>,
}

/// Where `query_position - key_position >= border`, the score uses these positions instead.
#[derive(Clone, Copy, Debug)]
pub struct Far<'a> {
    /// First distance that counts as far.
    pub border: f64,
    /// `[batch, query_time]`
    pub query_positions: View<'a, f64, 2>,
    /// `[key_batch, key_time]`
    pub key_positions: View<'a, f64, 2>,
}

/// Adds `table[head, clamp(floor(query_position - key_position) - minimum, 0, L - 1)]` to the score.
#[derive(Clone, Copy, Debug)]
pub struct DistanceBias<'a> {
    /// `[query_heads, L]`: zero stride where heads share it.
    pub table: View<'a, f32, 2>,
    /// The distance of the first column.
    pub minimum: i64,
}

/// One call. Batch and time axes are those of the arrays: a ragged batch `[total, heads, dim]` is passed as
/// `[1, heads, total, dim]`. All tables are broadcast by the caller with zero strides.
#[derive(Clone, Debug)]
pub struct Attention<'a> {
    /// `[batch, query_heads, query_time, head_dim]`
    pub query: Input<'a>,
    /// `[batch, key_heads, key_time, head_dim]`, or with a block table `[pages, key_heads, page_size, head_dim]`.
    pub key: Input<'a>,
    /// `[batch, key_heads, key_time, value_dim]`, or with a block table `[pages, key_heads, page_size, value_dim]`.
    pub value: Input<'a>,
    /// `[sequences, blocks]`: key j of a sequence is key `j % page_size` of the page that block `j / page_size` names.
    pub block_table: Option<View<'a, i64, 2>>,
    /// From `dense_sequences`, `ragged_sequences` or `paged_sequences`, in their order.
    pub sequences: &'a [Sequence],
    /// Visibility, scale, softcap.
    pub rules: Rules,
    /// `[batch, query_heads, query_time]`
    pub query_scale: Option<View<'a, f32, 3>>,
    /// `[key_batch, query_heads, key_time]`; the first axis is that of the block table, without one the batch.
    pub key_bias: Option<View<'a, f32, 3>>,
    /// Bias by distance.
    pub distance_bias: Option<DistanceBias<'a>>,
    /// `[query_heads]`
    pub sink: Option<View<'a, f32, 1>>,
    /// `[batch, query_time]`; None: the order.
    pub query_positions: Option<View<'a, f64, 2>>,
    /// `[key_batch, key_time]`; None: the order.
    pub key_positions: Option<View<'a, f64, 2>>,
    /// Rotation.
    pub rotary: Option<Rotary<'a>>,
}

/// Computes the output and, where asked, the LSE `[batch, query_heads, query_time]`. The arguments are checked first.
pub fn attention(problem: &Attention<'_>, output: Output<'_>, lse: Option<ViewMut<'_, f32, 3>>) -> Result<()> {
    let shape = problem::check(problem, &output, lse.as_ref())?;
    let work = Work {
        head_dim: shape.head_dim,
        value_dim: shape.value_dim,
        group: shape.group(),
        far: problem.rotary.is_some_and(|rotary| rotary.far.is_some()),
        parts: shape.key_heads * problem.sequences.len(),
        threads: threads::num_threads(),
    };
    let context = problem::Context::new(problem, shape, work, dispatch::machine()?);
    let (streams, blocks) = pieces::cut(&context, output, lse);
    threads::share(work.is_little(problem.sequences), |hands| {
        stream::spawn(hands, &context, streams);
        block::spawn(hands, &context, blocks);
    })
}
