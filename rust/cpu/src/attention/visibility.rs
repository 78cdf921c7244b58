//! Which parts of a chunk some rows see at all, and by which rotation.

use super::context::{Context, QueryBlock, Side};
use crate::arch::attention::Distance;
use crate::arch::lanes::LANES;
use farspan_core::attention::{KEY_CHUNK, Visible};
use std::ops::Range;

/// The chunks of which some query of a block of queries sees a key.
pub(super) fn chunks(context: &Context, query_block: &QueryBlock) -> Vec<usize> {
    let sequence = context.sequence(query_block.sequence);
    let seen = union(context, query_block, query_block.queries.clone());
    let all = 0..sequence.keys.div_ceil(KEY_CHUNK);
    all.filter(|&chunk| hull(&seen, &context.chunk_keys(sequence, chunk)).is_some()).collect()
}

/// A superset of what consecutive queries see: their windows move with them, so the ends belong to the first and last.
pub(super) fn union(context: &Context, query_block: &QueryBlock, queries: Range<usize>) -> Visible {
    let sequence = context.sequence(query_block.sequence);
    let (first, last) = (context.visible(sequence, queries.start), context.visible(sequence, queries.end - 1));
    Visible { start: first.start, end: last.end, first: last.first }
}

/// The panels of a chunk, counted from its first, that hold the keys of `seen`; None without any.
pub(super) fn hull(seen: &Visible, keys: &Range<usize>) -> Option<Range<usize>> {
    let window = seen.start.max(keys.start)..seen.end.min(keys.end);
    let first = keys.start..seen.first.min(keys.end);
    let joined = match (window.is_empty(), first.is_empty()) {
        (true, true) => return None,
        (true, false) => first,
        (false, true) => window,
        (false, false) => first.start..window.end.max(first.end),
    };
    Some((joined.start - keys.start) / LANES..(joined.end - keys.start).div_ceil(LANES))
}

/// Smallest and largest position of the rows `rows` of a block of queries.
pub(super) fn span(context: &Context, query_block: &QueryBlock, rows: Range<usize>) -> (f64, f64) {
    let sequence = context.sequence(query_block.sequence);
    let queries = query_block.row(rows.start).1..query_block.row(rows.end - 1).1 + 1;
    extent(queries.map(|query| context.query_position(sequence, query, Side::Near)))
}

/// Smallest and largest of some positions.
pub(super) fn extent(positions: impl IntoIterator<Item = f64>) -> (f64, f64) {
    let start = (f64::INFINITY, f64::NEG_INFINITY);
    positions.into_iter().fold(start, |(low, high), p| (low.min(p), high.max(p)))
}

/// Which rotation scores take between query and key positions of these extents.
pub(super) fn distance(context: &Context, queries: (f64, f64), keys: (f64, f64)) -> Distance {
    match context.border() {
        None => Distance::Near,
        Some(border) if queries.1 - keys.0 < border => Distance::Near,
        Some(border) if queries.0 - keys.1 >= border => Distance::Far,
        Some(_) => Distance::Mixed,
    }
}

/// Whether a tile at this distance needs this rotation.
pub(super) fn needs(distance: Distance, side: Side) -> bool {
    distance == Distance::Mixed || (distance == Distance::Far) == (side == Side::Far)
}
