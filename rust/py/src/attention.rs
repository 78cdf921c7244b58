//! `_core.attention`.

pub(crate) mod backward;
pub(crate) mod hooks;
pub(crate) mod problem;
pub(crate) mod statistics;

use crate::arrays::{
    Large, broadcast, integer_rows, integers, large, large_mut, named_dtype, positions, readonly, readwrite,
};
use crate::failure::{Outcome, detached};
use crate::layout::Layout;
use farspan_core::Result;
use farspan_core::attention::{Sequence, Shape, dense_sequences, paged_sequences, ragged_sequences};
use farspan_cpu::attention::{Input, Views, attention as run};
use farspan_cpu::{View, ViewMut, map};
use hooks::Hooks;
use numpy::ndarray::{Array2, ArrayViewD, ArrayViewMutD, Axis, IxDyn};
use numpy::{PyReadonlyArray, PyReadwriteArray, PyUntypedArray, PyUntypedArrayMethods};
use problem::{Given, Inputs};
use pyo3::prelude::*;
use std::cell::OnceCell;
use std::convert::Infallible;

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
    hooks: Hooks<Slot<'py>>,
) -> Outcome {
    let dtype = named_dtype("query", dtype)?;
    let (query, key, value) = (large("query", dtype, query)?, large("key", dtype, key)?, large("value", dtype, value)?);
    let block_table = hooks.block_table.as_ref().map(Slot::pages).transpose()?;
    let (of_query, of_keys) = hooks.layouts()?;
    let large_inputs =
        [input("query", &query, of_query)?, input("key", &key, of_keys)?, input("value", &value, of_keys)?];
    let inputs = Inputs::new(large_inputs, block_table, &hooks)?;
    if inputs.has_no_rows() {
        return Ok(());
    }
    let sequences = sequences(&inputs.shape, &hooks)?;
    let problem = inputs.problem(&sequences[..], &hooks)?;

    let (mut output, mut lse) = (large_mut("output", dtype, output)?, readwrite("lse", lse)?);
    let ragged = of_query == Layout::Ragged;
    let output = map!(x in &mut output => ViewMut::new("output", &mut batched_mut(x.as_array_mut(), ragged))?);
    let lse = per_row("lse", &mut lse, of_query)?;
    detached(py, || run(&problem, output, Some(lse)))
}

/// Numbers of rows in the axes of the backend: a ragged `[heads, total]` is a batch of one.
fn per_row<'a>(
    argument: &'static str,
    array: &'a mut PyReadwriteArray<'_, f32, IxDyn>,
    layout: Layout,
) -> Result<ViewMut<'a, f32, 3>> {
    let mut array: ArrayViewMutD<'a, f32> = array.as_array_mut();
    if layout == Layout::Ragged {
        array.insert_axis_inplace(Axis(0));
    }
    ViewMut::new(argument, &mut array)
}

/// Lengths and offsets are read here.
fn sequences(shape: &Shape, hooks: &Hooks<Slot<'_>>) -> Result<Vec<Sequence>> {
    let numbers = |argument, slot: &Option<Slot<'_>>| -> Result<Option<Vec<i64>>> {
        slot.as_ref().map(|slot| integers(argument, &slot.object)).transpose()
    };
    let lengths = numbers("key_lengths", &hooks.key_lengths)?;
    let (queries, keys) =
        (numbers("query_offsets", &hooks.query_offsets)?, numbers("key_offsets", &hooks.key_offsets)?);
    match (queries, keys) {
        (Some(queries), Some(keys)) => ragged_sequences(shape, &queries, &keys, lengths.as_deref()),
        (Some(queries), None) => paged_sequences(shape, &queries, lengths.as_deref()),
        (None, _) => dense_sequences(shape, lengths.as_deref()),
    }
}

/// An array of a hook, with what it becomes for the call: borrowed memory, or converted numbers.
pub(crate) struct Slot<'py> {
    object: Bound<'py, PyAny>,
    table: OnceCell<PyReadonlyArray<'py, f32, IxDyn>>,
    positions: OnceCell<Array2<f64>>,
    pages: OnceCell<Array2<i64>>,
}

impl<'py> FromPyObject<'_, 'py> for Slot<'py> {
    type Error = Infallible;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> std::result::Result<Self, Infallible> {
        let (table, positions, pages) = Default::default();
        Ok(Slot { object: object.to_owned(), table, positions, pages })
    }
}

impl<'a> Given<'a> for Slot<'_> {
    type Arrays = Views<'a>;

    fn columns(&self) -> usize {
        self.object.cast::<PyUntypedArray>().ok().and_then(|array| array.shape().last().copied()).unwrap_or(0)
    }

    fn table<const N: usize>(&'a self, argument: &'static str, shape: [usize; N]) -> Result<View<'a, f32, N>> {
        broadcast(argument, kept(&self.table, readonly(argument, &self.object)?).as_array(), shape)
    }

    fn positions(&'a self, argument: &'static str, shape: [usize; 2]) -> Result<View<'a, f64, 2>> {
        let positions = kept(&self.positions, positions(argument, &self.object)?);
        View::new(argument, &positions.view())?.broadcast(argument, shape)
    }
}

impl Slot<'_> {
    /// As a block table.
    fn pages(&self) -> Result<View<'_, i64, 2>> {
        View::new("block_table", &kept(&self.pages, integer_rows("block_table", &self.object)?).view())
    }
}

fn kept<T>(cell: &OnceCell<T>, value: T) -> &T {
    cell.get_or_init(|| value)
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
