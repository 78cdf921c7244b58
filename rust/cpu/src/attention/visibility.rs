//! Which parts of a chunk some rows see at all, and by which rotation.

use super::problem::{Context, Share, Side};
use crate::arch::attention::Distance;
use crate::arch::lanes::LANES;
use farspan_core::attention::{KEY_CHUNK, Visible};
use std::ops::Range;

/// The chunks of which some query of a share sees a key.
pub(super) fn chunks(context: &Context, share: &Share) -> Vec<usize> {
    let sequence = context.sequence(share.sequence);
    let seen = union(context, share, share.queries.clone());
    let all = 0..sequence.keys.div_ceil(KEY_CHUNK);
    all.filter(|&chunk| hull(&seen, &context.chunk_keys(sequence, chunk)).is_some()).collect()
}

/// A superset of what consecutive queries see: their windows move with them, so the ends belong to the first and last.
pub(super) fn union(context: &Context, share: &Share, queries: Range<usize>) -> Visible {
    let sequence = context.sequence(share.sequence);
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
