//! `_core.attention_statistics`.

use super::hooks::Hooks;
use super::problem::Inputs;
use super::{Slot, input, per_row, sequences};
use crate::arrays::{large, named_dtype, readwrite};
use crate::failure::{Outcome, detached};
use crate::named::named;
use farspan_cpu::attention::{Statistics as Views, attention_statistics as run};
use pyo3::prelude::*;

named! {
    /// Memory for the statistics, as `farspan._results.AttentionStatistics` lists them.
    pub(crate) struct Statistics<A> {
        lse: A,
        entropy: A,
        largest: A,
        first: A,
        sink: A,
        distance: A,
    }
}

/// Writes the statistics `[batch, heads, time]`, with offsets `[heads, total]`.
#[pyfunction]
#[pyo3(signature = (dtype, statistics, query, key, hooks, /))]
pub(crate) fn attention_statistics<'py>(
    py: Python<'py>,
    dtype: &str,
    statistics: Statistics<Bound<'py, PyAny>>,
    query: &Bound<'py, PyAny>,
    key: &Bound<'py, PyAny>,
    hooks: Hooks<Slot<'py>>,
) -> Outcome {
    let dtype = named_dtype("query", dtype)?;
    let (query, key) = (large("query", dtype, query)?, large("key", dtype, key)?);
    let block_table = hooks.block_table.as_ref().map(Slot::pages).transpose()?;
    let (of_query, of_keys) = hooks.layouts()?;
    let (query, key) = (input("query", &query, of_query)?, input("key", &key, of_keys)?);
    // Nobody looks at values: the keys stand in for them.
    let inputs = Inputs::new([query, key, key], block_table, &hooks)?;
    if inputs.has_no_rows() {
        return Ok(());
    }
    let sequences = sequences(&inputs.shape, &hooks)?;
    let problem = inputs.problem(&sequences[..], &hooks)?;

    let Statistics { lse, entropy, largest, first, sink, distance } = &statistics;
    let mut lse = readwrite("lse", lse)?;
    let mut entropy = readwrite("entropy", entropy)?;
    let mut largest = readwrite("largest", largest)?;
    let mut first = readwrite("first", first)?;
    let mut sink = readwrite("sink", sink)?;
    let mut distance = readwrite("distance", distance)?;
    let views = Views {
        lse: per_row("lse", &mut lse, of_query)?,
        entropy: per_row("entropy", &mut entropy, of_query)?,
        largest: per_row("largest", &mut largest, of_query)?,
        first: per_row("first", &mut first, of_query)?,
        sink: per_row("sink", &mut sink, of_query)?,
        distance: per_row("distance", &mut distance, of_query)?,
    };
    detached(py, || run(&problem, views))
}
