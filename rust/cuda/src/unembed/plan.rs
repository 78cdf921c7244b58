//! How a call is cut into tiles and launches, and what it needs for a workspace: a function of shapes, limits and the
//! workspace's size alone. No result depends on it.

use super::params::{MAX_WINDOW, SEGMENT, size};
use super::variants::{TOKENS, shared_bytes, tile_rows};
use crate::device::Limits;
use farspan_core::Dtype;
use std::ops::Range;

/// Bytes of workspace beyond which rows are taken in several goes.
const BUDGET: usize = 64 << 20;
/// Where each thing in the workspace begins, and how many things there are.
pub(crate) const ALIGNMENT: usize = 256;
const PLACES: usize = 9;
/// The most entries that a tile lists. More make a second look at a tile rarer and every row's lists longer.
const LISTED: usize = 16;

/// How many tiles hold these tokens: tiles begin at multiples of their size in token ids.
pub(super) fn tiles(tokens: &Range<usize>) -> usize {
    if tokens.is_empty() { 0 } else { (tokens.start % TOKENS + tokens.len()).div_ceil(TOKENS) }
}

/// What is wanted beside softmax sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wants {
    /// Draws of each row.
    pub samples: usize,
    /// The length of a row's list of its largest logits.
    pub list: usize,
    /// The logit of a token of each row, which the pass compares with the others.
    pub target: bool,
    /// How many tokens come before it.
    pub before: bool,
}

/// The plan of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    wants: Wants,
    /// Rows of a tile.
    pub tile_rows: usize,
    /// Dynamic shared memory of the pass.
    pub shared_bytes: usize,
    pub tiles: usize,
    pub segments: usize,
    /// Entries that one selection writes.
    pub window: usize,
    /// Entries that a tile lists.
    pub listed: usize,
    /// Tiles of a row that can be looked at again.
    pub slots: usize,
    /// Rows that share the workspace.
    pub rows_at_once: usize,
    pub layout: Layout,
}

/// Where things lie in the workspace: offsets in bytes, and how many there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Layout {
    pub parts: usize,
    pub bests: usize,
    pub before: usize,
    pub lists: usize,
    pub slots: usize,
    pub overflow: usize,
    pub total: usize,
    pub below: usize,
    pub target: usize,
    pub bytes: usize,
    /// What one more row takes.
    bytes_of_row: usize,
}

/// The kernels' name of an element type.
pub(crate) fn name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F32 => "f32",
        Dtype::Bf16 => "bf16",
        Dtype::F16 => "f16",
    }
}

impl Plan {
    pub(super) fn new(dtype: Dtype, rows: usize, tokens: &Range<usize>, wants: Wants, limits: &Limits) -> Plan {
        let sizes = tile_rows(name(dtype));
        let fit = sizes.iter().copied().filter(|rows| shared_bytes(*rows) <= limits.shared_bytes_per_block as usize);
        let fit: Vec<usize> = fit.collect();
        let tile_rows = fit.iter().copied().find(|size| rows <= *size).or(fit.last().copied()).unwrap_or(sizes[0]);
        let tiles = tiles(tokens);
        let window = wants.list.min(MAX_WINDOW);
        let listed = window.min(LISTED);
        // Of the window's entries each tile that hides some has listed as many.
        let slots = if window > listed { window / listed } else { 0 };
        let plan = Plan {
            wants,
            tile_rows,
            shared_bytes: shared_bytes(tile_rows),
            tiles,
            segments: tiles.div_ceil(SEGMENT),
            window,
            listed,
            slots,
            rows_at_once: rows,
            layout: Layout::default(),
        };
        plan.within(BUDGET)
    }

    /// The same plan for as many rows at once as `bytes` of workspace serve, or for one.
    pub(super) fn within(self, bytes: usize) -> Plan {
        let of = |rows| Layout::new(rows, self.tiles, self.listed, self.slots, self.wants);
        let most = bytes.saturating_sub(PLACES * ALIGNMENT) / of(1).bytes_of_row;
        let whole_tiles = if most > self.tile_rows { most / self.tile_rows * self.tile_rows } else { most.max(1) };
        let rows_at_once = if of(self.rows_at_once).bytes <= bytes { self.rows_at_once } else { whole_tiles };
        let rows_at_once = rows_at_once.min(self.rows_at_once);
        Plan { rows_at_once, layout: of(rows_at_once), ..self }
    }
}

impl Layout {
    fn new(rows: usize, tiles: usize, listed: usize, slots: usize, wants: Wants) -> Layout {
        let (mut bytes, mut bytes_of_row) = (0, 0);
        let mut room = |each: usize| {
            let start = bytes;
            bytes += (rows * each).next_multiple_of(ALIGNMENT);
            bytes_of_row += each;
            start
        };
        Layout {
            parts: room(tiles * size::PART),
            bests: room(tiles * wants.samples * size::BEST),
            before: room(if wants.before { tiles * 4 } else { 0 }),
            lists: room(tiles * listed * size::ENTRY),
            slots: room(if slots > 0 { tiles * 4 } else { 0 }),
            overflow: room(slots * TOKENS * size::ENTRY),
            total: room(size::TOTAL),
            below: room(size::ENTRY),
            target: room(if wants.target { 4 } else { 0 }),
            bytes,
            bytes_of_row,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LARGE: Limits = Limits { multiprocessors: 132, shared_bytes_per_block: 227 << 10, architecture: 90 };
    const SMALL: Limits = Limits { multiprocessors: 4, shared_bytes_per_block: 99 << 10, architecture: 86 };
    const NOTHING: Wants = Wants { samples: 0, list: 0, target: false, before: false };

    fn plan(rows: usize, vocab: usize, wants: Wants, limits: Limits) -> Plan {
        Plan::new(Dtype::Bf16, rows, &(0..vocab), wants, &limits)
    }

    #[test]
    fn tiles_are_as_wide_as_the_batch() {
        let sizes =
            |dtype| [1, 8, 9, 64, 65, 128, 1000].map(|rows| Plan::new(dtype, rows, &(0..9), NOTHING, &LARGE).tile_rows);
        assert_eq!(sizes(Dtype::Bf16), [8, 8, 64, 64, 128, 128, 128]);
        assert_eq!(sizes(Dtype::F32), [8, 8, 64, 64, 64, 64, 64]);
    }

    #[test]
    fn every_tile_fits_every_device() {
        for rows in [8, 64, 128] {
            assert!(shared_bytes(rows) <= SMALL.shared_bytes_per_block as usize, "{rows} rows");
        }
        let tiny = Limits { shared_bytes_per_block: 80 << 10, ..SMALL };
        assert_eq!(plan(500, 9, NOTHING, tiny).tile_rows, 64);
    }

    #[test]
    fn tiles_begin_at_their_multiples() {
        let tiles = |first, count| tiles(&(first..first + count));
        assert_eq!([tiles(0, 0), tiles(0, 1), tiles(0, 128), tiles(0, 129)], [0, 1, 1, 2]);
        assert_eq!([tiles(2048, 128), tiles(100, 28), tiles(100, 29), tiles(127, 130)], [1, 1, 2, 3]);
    }

    proptest! {
        #[test]
        fn the_workspace_is_bounded_and_its_parts_lie_apart(
            rows in 1usize..5000, vocab in 1usize..300_000, samples in 0usize..4, list in 0usize..3000, counted: bool,
        ) {
            let wants = Wants { samples, list, target: counted, before: counted };
            let plan = plan(rows, vocab, wants, SMALL);
            let one = Layout::new(1, plan.tiles, plan.listed, plan.slots, wants).bytes;
            prop_assert!(plan.layout.bytes <= BUDGET.max(one));
            prop_assert!(plan.rows_at_once == rows || plan.rows_at_once > BUDGET / one / 2);
            prop_assert_eq!(plan.within(plan.layout.bytes), plan);
            let fewer = plan.within(plan.layout.bytes / 3);
            prop_assert!(fewer.layout.bytes <= (plan.layout.bytes / 3).max(one));
            let Layout { parts, bests, before, lists, slots, overflow, total, below, target, bytes, .. } = plan.layout;
            let places = [parts, bests, before, lists, slots, overflow, total, below, target, bytes];
            prop_assert!(places.is_sorted() && places.iter().all(|place| place % ALIGNMENT == 0));
            prop_assert!(lists + plan.rows_at_once * plan.tiles * plan.listed * 8 <= slots);
            prop_assert!(overflow + plan.rows_at_once * plan.slots * TOKENS * 8 <= total);
            prop_assert!(bests + plan.rows_at_once * plan.tiles * samples * size::BEST <= before);
        }
    }

    #[test]
    fn a_tile_that_hides_entries_has_a_slot() {
        for list in [1, 15, 16, 17, 31, 32, 100, 1024, 5000] {
            let plan = plan(1, 150_000, Wants { list, ..NOTHING }, LARGE);
            assert_eq!(plan.window, list.min(1024));
            // Tiles whose whole short list is among the window's entries, when some others may lie behind.
            let most = if plan.window == plan.listed { 0 } else { plan.window / plan.listed };
            assert_eq!(plan.slots, most, "{list}");
        }
    }
}
