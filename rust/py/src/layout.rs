//! The axes of attention's large inputs.

use farspan_core::{Error, Result};

/// How a query, key or value is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// `[batch, heads, time, dim]`
    Dense,
    /// `[total, heads, dim]`
    Ragged,
    /// `[pages, heads, page_size, dim]`
    Pages,
}

impl Layout {
    /// Of the query, and of key and value. Refuses offsets that do not go together.
    pub(crate) fn of(query_offsets: bool, key_offsets: bool, block_table: bool) -> Result<(Layout, Layout)> {
        match (query_offsets, key_offsets, block_table) {
            (false, false, false) => Ok((Layout::Dense, Layout::Dense)),
            (false, false, true) => Ok((Layout::Dense, Layout::Pages)),
            (true, true, false) => Ok((Layout::Ragged, Layout::Ragged)),
            (true, false, true) => Ok((Layout::Ragged, Layout::Pages)),
            (_, true, true) => Err(Error::argument("key_offsets", "none, as there is a block_table", "some")),
            _ => Err(Error::argument("query_offsets", "key_offsets too, or neither", "one of the two")),
        }
    }

    /// Refuses an array of another rank.
    pub(crate) fn check(self, argument: &'static str, shape: &[usize]) -> Result<()> {
        let (rank, expected) = match self {
            Layout::Dense => (4, "shape [batch, heads, time, dim], or offsets for [total, heads, dim]"),
            Layout::Ragged => (3, "shape [total, heads, dim], as there are query_offsets"),
            Layout::Pages => (4, "shape [pages, heads, page_size, dim], as there is a block_table"),
        };
        match shape.len() == rank {
            true => Ok(()),
            false => Err(Error::argument(argument, expected, format!("shape {shape:?}"))),
        }
    }
}
