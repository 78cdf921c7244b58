//! The hooks of attention, as `farspan._backend.hooks.Hooks` lists them.

use crate::layout::Layout;
use crate::named::named;
use farspan_core::Result;

named! {
    /// All arguments of attention but the large arrays, whichever way a backend holds an array `A`.
    pub(crate) struct Hooks<A> {
        causal: bool,
        left: Option<i64>,
        right: Option<i64>,
        keep_first: i64,
        scale: Option<f64>,
        softcap: Option<f64>,
        sink: Option<A>,
        key_bias: Option<A>,
        query_scale: Option<A>,
        distance_table: Option<A>,
        distance_minimum: i64,
        inv_freq: Option<A>,
        magnitude: f64,
        interleaved: bool,
        border: Option<f64>,
        far_query_positions: Option<A>,
        far_key_positions: Option<A>,
        query_positions: Option<A>,
        key_positions: Option<A>,
        key_lengths: Option<A>,
        query_offsets: Option<A>,
        key_offsets: Option<A>,
        block_table: Option<A>,
    }
}

impl<A> Hooks<A> {
    /// How the query is laid out, and how key and value are.
    pub(crate) fn layouts(&self) -> Result<(Layout, Layout)> {
        Layout::of(self.query_offsets.is_some(), self.key_offsets.is_some(), self.block_table.is_some())
    }
}
