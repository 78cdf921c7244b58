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
    /// Of the query, and of key and value.
    pub(crate) fn of(has_query_offsets: bool, has_block_table: bool) -> (Layout, Layout) {
        let query = if has_query_offsets { Layout::Ragged } else { Layout::Dense };
        (query, if has_block_table { Layout::Pages } else { query })
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

/// Refuses offsets that do not go together.
pub(crate) fn wrong_offsets(has_block_table: bool) -> Error {
    match has_block_table {
        true => Error::argument("key_offsets", "none, as there is a block_table", "some"),
        false => Error::argument("query_offsets", "key_offsets too, or neither", "one of the two"),
    }
}
