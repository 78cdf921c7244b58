//! Queries turned, scaled and packed into tiles.

use super::problem::{Context, Share, Side};
use crate::arch::attention::{MAX_DIM, Rows, height};
use crate::arch::lanes::LANES;
use std::ops::Range;

/// The rows `first .. first + rows` of a share, packed for kernels of `height` rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    pub first: usize,
    pub rows: usize,
    pub height: usize,
}

/// Cuts a share's rows into tiles.
pub(super) fn tiles(rows: usize, most: usize) -> impl Iterator<Item = Cut> {
    (0..rows).step_by(most).map(move |first| {
        let rows = (rows - first).min(most);
        Cut { first, rows, height: height(rows) }
    })
}

/// Packs a tile's queries as `[head_dim, height]`, scale included; rows that do not exist are 0.
pub(super) fn pack(context: &Context, share: &Share, cut: Cut, side: Side, out: &mut [f32]) {
    let sequence = context.sequence(share.sequence);
    let (dim, half) = (context.shape.head_dim, context.half());
    let mut row_room = [0.0; MAX_DIM];
    let row = &mut row_room[..dim.next_multiple_of(LANES)];
    let (mut cos, mut sin) = ([0.0; MAX_DIM / 2], [0.0; MAX_DIM / 2]);
    let mut turned = None;
    out.fill(0.0);
    for lane in 0..cut.rows {
        let (head, query) = share.row(cut.first + lane);
        let time = sequence.query_start + query;
        context.kernels.widen(&Rows::new(&context.problem.query, sequence.batch, head, time, 1), row);
        if let Some(rotary) = &context.problem.rotary {
            if turned != Some(query) {
                let position = [context.query_position(sequence, query, side)];
                context.turn_table(share.sequence, &position, [&mut cos[..half], &mut sin[..half]]);
                turned = Some(query);
            }
            context.kernels.turn_row(row, &cos[..half], &sin[..half], rotary.interleaved);
        }
        let scale = context.problem.query_scale.map_or(1.0, |scale| scale.at([sequence.batch, head, time]));
        let scale = scale * context.problem.rules.scale;
        for (column, x) in out.chunks_exact_mut(cut.height).zip(row.iter()) {
            column[lane] = x * scale;
        }
    }
}

/// Smallest and largest position of the rows `rows` of a share.
pub(super) fn span(context: &Context, share: &Share, rows: Range<usize>) -> (f64, f64) {
    let sequence = context.sequence(share.sequence);
    let queries = share.row(rows.start).1..share.row(rows.end - 1).1 + 1;
    extent(queries.map(|query| context.query_position(sequence, query, Side::Near)))
}

/// Smallest and largest of some positions.
pub(super) fn extent(positions: impl IntoIterator<Item = f64>) -> (f64, f64) {
    let start = (f64::INFINITY, f64::NEG_INFINITY);
    positions.into_iter().fold(start, |(low, high), p| (low.min(p), high.max(p)))
}
