//! Where the keys and values of a chunk lie: evenly spaced in an array, or spread over pages.

use super::Input;
use super::context::Context;
use crate::arch::attention::{Rows, Spread};
use farspan_core::attention::Sequence;
use std::ops::Range;

/// A chunk of the keys, or of the values, of a sequence, in every head.
pub(super) struct ChunkRows<'r> {
    input: &'r Input<'r>,
    batch: usize,
    start: usize,
    count: usize,
    spread: Option<&'r Spread>,
}

impl<'r> ChunkRows<'r> {
    /// Those of `keys`; `room` holds where they lie, should they be spread.
    pub(super) fn new(
        context: &Context<'r, '_>,
        input: &'r Input<'r>,
        sequence: &Sequence,
        keys: &Range<usize>,
        room: &'r mut Spread,
    ) -> Self {
        let spread = context.problem.block_table.map(|table| {
            // The problem's check has seen every entry that names existing keys.
            room.set(input, keys.clone(), |block| table.at([sequence.key_batch, block]) as usize);
            &*room
        });
        ChunkRows {
            input,
            batch: sequence.key_batch,
            start: sequence.key_start + keys.start,
            count: keys.len(),
            spread,
        }
    }

    /// Those of one head.
    pub(super) fn of(&self, head: usize) -> Rows<'r> {
        match self.spread {
            Some(spread) => Rows::spread(self.input, head, spread),
            None => Rows::new(self.input, self.batch, head, self.start, self.count),
        }
    }
}
