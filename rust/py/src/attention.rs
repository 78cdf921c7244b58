//! `_core.attention`.

pub(crate) mod hooks;

use crate::arrays::{
    Large, broadcast_table, integer_rows, integers, large, large_mut, named_dtype, positions, readwrite, table,
};
use crate::failure::{Outcome, detached};
use crate::layout::{Layout, wrong_offsets};
use farspan_core::attention::{Rules, Shape, dense_sequences, paged_sequences, ragged_sequences};
use farspan_core::{Error, Result};
use farspan_cpu::attention::{Attention, DistanceBias, Far, Input, Rotary, attention as run};
use farspan_cpu::{View, ViewMut, map};
use hooks::Hooks;
use numpy::ndarray::{Array2, ArrayViewD, ArrayViewMutD, Axis, IxDyn};
use pyo3::prelude::*;

/// Writes output and LSE. With offsets the large arrays are `[total, heads, dim]`, else `[batch, heads, time, dim]`.
#[pyfunction]
#[expect(clippy::too_many_arguments, reason = "five arrays, and what they are read with")]
#[pyo3(signature = (dtype, output, lse, query, key, value, hooks, /))]
pub(crate) fn attention<'py>(
    py: Python<'py>,
    dtype: &str,
    output: &Bound<'py, PyAny>,
    lse: &Bound<'py, PyAny>,
    query: &Bound<'py, PyAny>,
    key: &Bound<'py, PyAny>,
    value: &Bound<'py, PyAny>,
    hooks: Hooks<Bound<'py, PyAny>>,
) -> Outcome {
    let Hooks {
        causal, left, right, keep_first, scale, softcap, distance_minimum, magnitude, interleaved, border, ..
    } = hooks;
    let Hooks { sink, key_bias, query_scale, distance_table, inv_freq, .. } = &hooks;
    let Hooks { far_query_positions, far_key_positions, query_positions, key_positions, .. } = &hooks;
    let Hooks { key_lengths, query_offsets, key_offsets, block_table, .. } = &hooks;
    let dtype = named_dtype("query", dtype)?;
    let ragged = query_offsets.is_some();
    let (query, key, value) = (large("query", dtype, query)?, large("key", dtype, key)?, large("value", dtype, value)?);
    let block_table = block_table.as_ref().map(|table| integer_rows("block_table", table)).transpose()?;
    let block_table = block_table.as_ref().map(|table| View::new("block_table", &table.view())).transpose()?;
    let (of_query, of_keys) = Layout::of(ragged, block_table.is_some());
    let query = input("query", &query, of_query)?;
    let (key, value) = (input("key", &key, of_keys)?, input("value", &value, of_keys)?);
    let shape = match &block_table {
        Some(table) => Shape::paged(query.shape(), key.shape(), value.shape(), table.shape())?,
        None => Shape::new(query.shape(), key.shape(), value.shape())?,
    };
    let Shape { batch, query_heads, query_time, key_batch, key_time, .. } = shape;
    let rules = Rules::new(shape.head_dim, causal, (left, right), keep_first, scale, softcap)?;
    if [batch, query_heads, query_time].contains(&0) {
        return Ok(()); // before anything is made for each of what may be 2^60 batch entries
    }

    let key_lengths = key_lengths.as_ref().map(|lengths| integers("key_lengths", lengths)).transpose()?;
    let sequences = match (query_offsets, key_offsets, block_table) {
        (Some(queries), Some(keys), None) => {
            let (queries, keys) = (integers("query_offsets", queries)?, integers("key_offsets", keys)?);
            ragged_sequences(&shape, &queries, &keys, key_lengths.as_deref())?
        }
        (Some(queries), None, Some(_)) => {
            paged_sequences(&shape, &integers("query_offsets", queries)?, key_lengths.as_deref())?
        }
        (None, None, _) => dense_sequences(&shape, key_lengths.as_deref())?,
        _ => return Err(wrong_offsets(block_table.is_some()).into()),
    };

    let (query_scale, key_bias, sink) = (
        table("query_scale", query_scale.as_ref())?,
        table("key_bias", key_bias.as_ref())?,
        table("sink", sink.as_ref())?,
    );
    let (distance_table, inv_freq) =
        (table("distance_bias", distance_table.as_ref())?, table("inv_freq", inv_freq.as_ref())?);
    let query_positions = query_positions.as_ref().map(|p| positions("query_positions", p)).transpose()?;
    let key_positions = key_positions.as_ref().map(|p| positions("key_positions", p)).transpose()?;
    let far_query_positions = far_query_positions.as_ref().map(|p| positions("far_query_positions", p)).transpose()?;
    let far_key_positions = far_key_positions.as_ref().map(|p| positions("far_key_positions", p)).transpose()?;
    let far_query = per_time("far_query_positions", far_query_positions.as_ref(), batch, query_time)?;
    let far_key = per_time("far_key_positions", far_key_positions.as_ref(), key_batch, key_time)?;
    let columns = |table: Option<&_>| table.and_then(last_size).unwrap_or(0);

    let far = match (border, far_query, far_key) {
        (None, None, None) => None,
        (Some(border), Some(query_positions), Some(key_positions)) => {
            Some(Far { border, query_positions, key_positions })
        }
        _ => {
            let expected = "border, far_query_positions and far_key_positions together";
            return Err(Error::argument("rotary", expected, "only some of them").into());
        }
    };
    let inv_freq_shape = [sequences.len(), columns(inv_freq.as_ref())];
    let rotary = broadcast_table("inv_freq", inv_freq.as_ref(), inv_freq_shape)?.map(|inv_freq| Rotary {
        inv_freq,
        magnitude: magnitude as f32,
        interleaved,
        far,
    });
    let table_shape = [query_heads, columns(distance_table.as_ref())];
    let distance_bias = broadcast_table("distance_bias", distance_table.as_ref(), table_shape)?
        .map(|table| DistanceBias { table, minimum: distance_minimum });
    let problem = Attention {
        query,
        key,
        value,
        block_table,
        sequences: &sequences,
        rules,
        query_scale: broadcast_table("query_scale", query_scale.as_ref(), [batch, query_heads, query_time])?,
        key_bias: broadcast_table("key_bias", key_bias.as_ref(), [key_batch, query_heads, key_time])?,
        distance_bias,
        sink: broadcast_table("sink", sink.as_ref(), [query_heads])?,
        query_positions: per_time("query_positions", query_positions.as_ref(), batch, query_time)?,
        key_positions: per_time("key_positions", key_positions.as_ref(), key_batch, key_time)?,
        rotary,
    };

    let (mut output, mut lse) = (large_mut("output", dtype, output)?, readwrite("lse", lse)?);
    let output = map!(x in &mut output => ViewMut::new("output", &mut batched_mut(x.as_array_mut(), ragged))?);
    let mut lse: ArrayViewMutD<'_, f32> = lse.as_array_mut();
    if ragged {
        lse.insert_axis_inplace(Axis(0));
    }
    let lse = ViewMut::new("lse", &mut lse)?;
    detached(py, || run(&problem, output, Some(lse)))
}

/// The axes that the backend speaks of: a ragged `[total, heads, dim]` is one batch entry `[1, heads, total, dim]`.
fn batched<T>(array: ArrayViewD<'_, T>, ragged: bool) -> ArrayViewD<'_, T> {
    match ragged && array.ndim() == 3 {
        true => array.permuted_axes(IxDyn(&[1, 0, 2])).insert_axis(Axis(0)),
        false => array,
    }
}

/// As [`batched`].
fn batched_mut<T>(array: ArrayViewMutD<'_, T>, ragged: bool) -> ArrayViewMutD<'_, T> {
    match ragged && array.ndim() == 3 {
        true => array.permuted_axes(IxDyn(&[1, 0, 2])).insert_axis(Axis(0)),
        false => array,
    }
}

fn input<'a>(argument: &'static str, array: &'a Large<'_, IxDyn>, layout: Layout) -> Result<Input<'a>> {
    Ok(map!(x in array => view(argument, x.as_array(), layout)?))
}

fn view<'a, T>(argument: &'static str, array: ArrayViewD<'a, T>, layout: Layout) -> Result<View<'a, T, 4>> {
    layout.check(argument, array.shape())?;
    View::new(argument, &batched(array, layout == Layout::Ragged))
}

fn per_time<'a>(
    argument: &'static str,
    positions: Option<&'a Array2<f64>>,
    batch: usize,
    time: usize,
) -> Result<Option<View<'a, f64, 2>>> {
    positions.map(|positions| View::new(argument, &positions.view())?.broadcast(argument, [batch, time])).transpose()
}

fn last_size(table: &numpy::PyReadonlyArray<'_, f32, IxDyn>) -> Option<usize> {
    table.as_array().shape().last().copied()
}
