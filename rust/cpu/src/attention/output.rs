//! The output cut into blocks that different threads fill.

use super::Output;
use super::context::{Context, QueryBlock};
use crate::arch::attention::State;
use crate::typed::RowMut;
use crate::{ViewMut, map};

/// A block of queries with the part of the output that is theirs.
pub(super) struct OutputBlock<'a> {
    pub query_block: QueryBlock,
    output: Output<'a>,
    lse: Option<ViewMut<'a, f32, 3>>,
}

impl Output<'_> {
    pub(super) fn split(self, dimension: usize, at: usize) -> (Self, Self) {
        map!(view in self => view.split(dimension, at)).unzip()
    }

    pub(super) fn row(&mut self, index: [usize; 4]) -> RowMut<'_> {
        map!(view in self => view.row_mut(index))
    }
}

/// Output and LSE, cut together.
struct Rest<'a>(Output<'a>, Option<ViewMut<'a, f32, 3>>);

impl<'a> Rest<'a> {
    fn split(self, dimension: usize, at: usize) -> (Self, Self) {
        let (output, output_rest) = self.0.split(dimension, at);
        let (lse, lse_rest) = match self.1.map(|lse| lse.split(dimension, at)) {
            Some((lse, rest)) => (Some(lse), Some(rest)),
            None => (None, None),
        };
        (Rest(output, lse), Rest(output_rest, lse_rest))
    }
}

/// Blocks for streaming, a list for each sequence, and those that pack their keys, the most work first.
pub(super) fn cut<'a>(
    context: &Context,
    output: Output<'a>,
    lse: Option<ViewMut<'a, f32, 3>>,
) -> (Vec<Vec<OutputBlock<'a>>>, Vec<OutputBlock<'a>>) {
    let (mut streams, mut blocks) = (Vec::new(), Vec::new());
    let dense = context.shape.batch == context.problem.sequences.len();
    let mut rest = Rest(output, lse);
    for (index, sequence) in context.problem.sequences.iter().enumerate() {
        let (mut of_sequence, behind) = if dense { rest.split(0, 1) } else { rest.split(2, sequence.queries) };
        rest = behind;
        if sequence.queries == 0 {
            continue;
        }
        let streamed = context.work.streams(sequence.queries);
        let length = if streamed { sequence.queries } else { context.work.block_queries(sequence.queries) };
        let mut output_blocks = Vec::new();
        for key_head in 0..context.shape.key_heads {
            let group = context.shape.group();
            for first in (0..group).step_by(context.work.heads()) {
                let heads = (group - first).min(context.work.heads());
                let (mut of_heads, behind) = of_sequence.split(1, heads);
                of_sequence = behind;
                let head = key_head * group + first;
                for start in (0..sequence.queries).step_by(length) {
                    let queries = start..(start + length).min(sequence.queries);
                    let (Rest(output, lse), behind) = of_heads.split(2, queries.len());
                    of_heads = behind;
                    let query_block = QueryBlock { sequence: index, key_head, heads: head..head + heads, queries };
                    output_blocks.push(OutputBlock { query_block, output, lse });
                }
            }
        }
        if streamed { streams.push(output_blocks) } else { blocks.append(&mut output_blocks) }
    }
    blocks.sort_by_key(|output_block| {
        std::cmp::Reverse(output_block.query_block.queries.end * output_block.query_block.rows())
    });
    (streams, blocks)
}

impl OutputBlock<'_> {
    /// Divides a tile's sums by its states' sums, from row `first` of the block on.
    pub(super) fn finish(&mut self, context: &Context, first: usize, rows: usize, state: &State, sums: &[f32]) {
        let width = context.width();
        for r in 0..rows {
            let (head, query) = self.query_block.row(first + r);
            let index = [0, head - self.query_block.heads.start, query - self.query_block.queries.start, 0];
            let factor = if state.sum[r] == 0.0 { 0.0 } else { 1.0 / state.sum[r] };
            context.kernels.finish(&sums[r * width..(r + 1) * width], factor, self.output.row(index));
            if let Some(lse) = &mut self.lse {
                lse.row_mut([index[0], index[1], 0])[index[2]] = logarithm_of_sum(state.maximum[r], state.sum[r]);
            }
        }
    }
}

/// `ln(sum of exp(scores))`, minus infinity for no score.
fn logarithm_of_sum(maximum: f32, sum: f32) -> f32 {
    if sum == 0.0 { f32::NEG_INFINITY } else { (f64::from(maximum) + f64::from(sum).ln()) as f32 }
}
