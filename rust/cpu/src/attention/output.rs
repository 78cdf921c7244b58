//! Results cut into blocks that different threads fill.

use super::Output;
use super::context::{Context, QueryBlock};
use super::packing::runs;
use crate::arch::attention::{RowsMut, State};
use crate::{ViewMut, map};

/// Results of rows, an axis of batch entries, one of heads and one of queries first.
pub(super) trait Rows: Sized {
    /// The indices below `at` of one of these axes, and the others.
    fn split(self, axis: usize, at: usize) -> (Self, Self);
}

/// A block of queries with the part of the results that is theirs.
pub(super) struct Block<R> {
    pub query_block: QueryBlock,
    pub results: R,
}

/// Output and LSE, cut together.
pub(super) struct Weighted<'a> {
    pub output: Output<'a>,
    pub lse: Option<ViewMut<'a, f32, 3>>,
}

/// A block whose values are weighed.
pub(super) type OutputBlock<'a> = Block<Weighted<'a>>;

impl Output<'_> {
    pub(super) fn split(self, dimension: usize, at: usize) -> (Self, Self) {
        map!(view in self => view.split(dimension, at)).unzip()
    }
}

impl Rows for Weighted<'_> {
    fn split(self, axis: usize, at: usize) -> (Self, Self) {
        let (output, output_rest) = self.output.split(axis, at);
        let (lse, lse_rest) = match self.lse.map(|lse| lse.split(axis, at)) {
            Some((lse, rest)) => (Some(lse), Some(rest)),
            None => (None, None),
        };
        (Weighted { output, lse }, Weighted { output: output_rest, lse: lse_rest })
    }
}

/// Blocks for streaming, a list for each sequence, and those that pack their keys, the most work first.
pub(super) fn cut<R: Rows>(context: &Context, whole: R) -> (Vec<Vec<Block<R>>>, Vec<Block<R>>) {
    let (mut streams, mut blocks) = (Vec::new(), Vec::new());
    let dense = context.shape.batch == context.problem.sequences.len();
    let mut rest = whole;
    for (index, sequence) in context.problem.sequences.iter().enumerate() {
        let (mut of_sequence, behind) = if dense { rest.split(0, 1) } else { rest.split(2, sequence.queries) };
        rest = behind;
        if sequence.queries == 0 {
            continue;
        }
        let streamed = context.work.streams(sequence.queries, sequence.keys);
        let length = if streamed { sequence.queries } else { context.work.block_queries(sequence.queries) };
        let mut of_blocks = Vec::new();
        for key_head in 0..context.shape.key_heads {
            let group = context.shape.group();
            for first in (0..group).step_by(context.work.heads()) {
                let heads = (group - first).min(context.work.heads());
                let (mut of_heads, behind) = of_sequence.split(1, heads);
                of_sequence = behind;
                let head = key_head * group + first;
                for start in (0..sequence.queries).step_by(length) {
                    let queries = start..(start + length).min(sequence.queries);
                    let (results, behind) = of_heads.split(2, queries.len());
                    of_heads = behind;
                    let query_block = QueryBlock { sequence: index, key_head, heads: head..head + heads, queries };
                    of_blocks.push(Block { query_block, results });
                }
            }
        }
        if streamed { streams.push(of_blocks) } else { blocks.append(&mut of_blocks) }
    }
    blocks.sort_by_key(|block: &Block<R>| std::cmp::Reverse(block.query_block.queries.end * block.query_block.rows()));
    (streams, blocks)
}

impl OutputBlock<'_> {
    /// Divides a tile's sums by its states' sums, from row `first` of the block on.
    pub(super) fn finish(&mut self, context: &Context, first: usize, rows: usize, state: &State, sums: &[f32]) {
        let width = context.width();
        let QueryBlock { heads, queries, .. } = &self.query_block;
        let Weighted { output, lse } = &mut self.results;
        let factors = state.sum.map(|sum| if sum == 0.0 { 0.0 } else { 1.0 / sum });
        runs(&self.query_block, first..first + rows, |query, head, place| {
            let [head, query] = [head - heads.start, query - queries.start];
            let out = RowsMut::new(output, [0, head, query], place.len());
            context.kernels.finish(&sums[place.start * width..], width, &factors[place.clone()], out);
            if let Some(lse) = lse {
                let of_head = lse.row_mut([0, head, 0])[query..].iter_mut();
                for (lse, r) in of_head.zip(place) {
                    *lse = logarithm_of_sum(state.maximum[r], state.sum[r]);
                }
            }
        });
    }
}

/// `ln(sum of exp(scores))`, minus infinity for no score.
pub(super) fn logarithm_of_sum(maximum: f32, sum: f32) -> f32 {
    if sum == 0.0 { f32::NEG_INFINITY } else { (f64::from(maximum) + f64::from(sum).ln()) as f32 }
}
