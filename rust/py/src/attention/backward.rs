//! `_core.attention_backward` and `_core.attention_backward_of_heads`.

use super::problem::{Given, Inputs};
use super::{Slot, batched_mut, input, sequences};
use crate::arrays::{Large, LargeMut, large, large_mut, named_dtype, readwrite};
use crate::failure::{Outcome, detached};
use crate::layout::Layout;
use crate::named::named;
use farspan_core::{Error, Result};
use farspan_cpu::attention::{Backward, Gradients as Wanted, Output, attention_backward as run};
use farspan_cpu::{Dtype, ViewMut, each, map};
use numpy::ndarray::{ArrayViewMutD, Axis, IxDyn};
use numpy::{PyReadwriteArray, PyUntypedArrayMethods};
use pyo3::prelude::*;

use super::hooks::Hooks;

named! {
    /// What the call gave, and what its results are asked for, as `farspan._backend.hooks.Above` lists it.
    pub(crate) struct Above<A> {
        lse: A,
        lse_gradient: Option<A>,
    }
}

named! {
    /// Memory for the gradients, as `farspan._backend.hooks.Gradients` lists them: zeros, or None where nobody asks.
    pub(crate) struct Gradients<A> {
        query: Option<A>,
        key: Option<A>,
        value: Option<A>,
        sink: Option<A>,
        key_bias: Option<A>,
        query_scale: Option<A>,
        distance_table: Option<A>,
    }
}

type Any<'py> = Bound<'py, PyAny>;

/// Writes the gradients. The small ones have the shapes of their arguments. Arrays are laid out as those of the call.
#[pyfunction]
#[expect(clippy::too_many_arguments, reason = "the arrays of a call, and what they are read with")]
#[pyo3(signature = (dtype, gradients, query, key, value, output, output_gradient, above, hooks, /))]
pub(crate) fn attention_backward<'py>(
    py: Python<'py>,
    dtype: &str,
    gradients: Gradients<Any<'py>>,
    query: &Any<'py>,
    key: &Any<'py>,
    value: &Any<'py>,
    output: &Any<'py>,
    output_gradient: &Any<'py>,
    above: Above<Slot<'py>>,
    hooks: Hooks<Slot<'py>>,
) -> Outcome {
    let dtype = named_dtype("query", dtype)?;
    let (of_query, of_keys) = hooks.layouts()?;
    let mut queries = written("query", dtype, gradients.query.as_ref())?;
    let mut keys = written("key", dtype, gradients.key.as_ref())?;
    let mut values = written("value", dtype, gradients.value.as_ref())?;
    let mut sinks = numbers("sink", gradients.sink.as_ref())?;
    let mut biases = numbers("key_bias", gradients.key_bias.as_ref())?;
    let mut scales = numbers("query_scale", gradients.query_scale.as_ref())?;
    let mut tables = numbers("distance_bias", gradients.distance_table.as_ref())?;
    let wanted = Wanted {
        query: rows_of("query", &mut queries, of_query)?,
        key: rows_of("key", &mut keys, of_keys)?,
        value: rows_of("value", &mut values, of_keys)?,
        query_scale: view("query_scale", &mut scales)?,
        key_bias: view("key_bias", &mut biases)?,
        distance_bias: view("distance_bias", &mut tables)?,
        sink: view("sink", &mut sinks)?,
    };
    write(py, dtype, [query, key, value, output, output_gradient], &above, &hooks, wanted)
}

/// As [`attention_backward`], where heads of queries, of keys and of values lie one behind the other along one axis of
/// one array, and so do their gradients.
#[pyfunction]
#[expect(clippy::too_many_arguments, reason = "the arrays of a call, and what they are read with")]
#[pyo3(signature = (dtype, gradient, query, key, value, output, output_gradient, above, hooks, /))]
pub(crate) fn attention_backward_of_heads<'py>(
    py: Python<'py>,
    dtype: &str,
    gradient: &Any<'py>,
    query: &Any<'py>,
    key: &Any<'py>,
    value: &Any<'py>,
    output: &Any<'py>,
    output_gradient: &Any<'py>,
    above: Above<Slot<'py>>,
    hooks: Hooks<Slot<'py>>,
) -> Outcome {
    let dtype = named_dtype("query", dtype)?;
    let (layout, _) = hooks.layouts()?;
    let counts = [heads("query", dtype, query)?, heads("key", dtype, key)?, heads("value", dtype, value)?];
    let mut shape = shape("query", dtype, query)?;
    shape[1] = counts.iter().sum();
    let mut gradient: LargeMut<'_, IxDyn> = large_mut("gradient", dtype, gradient)?;
    let wanted = each!(x as wrap in &mut gradient => {
        let whole = x.as_array_mut();
        if whole.ndim() < 3 || whole.shape() != shape {
            let expected = format!("shape {shape:?}, {counts:?} heads of queries, of keys and of values");
            return Err(Error::argument("gradient", expected, format!("shape {:?}", whole.shape())).into());
        }
        let whole = batched_mut(whole, layout == Layout::Ragged);
        let (mut queries, rest) = whole.split_at(Axis(1), counts[0]);
        let (mut keys, mut values) = rest.split_at(Axis(1), counts[1]);
        Wanted {
            query: Some(wrap(ViewMut::new("gradient", &mut queries)?)),
            key: Some(wrap(ViewMut::new("gradient", &mut keys)?)),
            value: Some(wrap(ViewMut::new("gradient", &mut values)?)),
            ..Wanted::default()
        }
    });
    write(py, dtype, [query, key, value, output, output_gradient], &above, &hooks, wanted)
}

/// The size of the axis of heads.
fn heads(argument: &'static str, dtype: Dtype, object: &Any<'_>) -> Result<usize> {
    let shape = shape(argument, dtype, object)?;
    let given = || Error::argument(argument, "an axis of heads behind the first", format!("shape {shape:?}"));
    shape.get(1).copied().ok_or_else(given)
}

fn shape<'py>(argument: &'static str, dtype: Dtype, object: &Any<'py>) -> Result<Vec<usize>> {
    let array: Large<'py, IxDyn> = large(argument, dtype, object)?;
    Ok(each!(x in &array => x.shape().to_vec()))
}

/// Writes the gradients that are wanted. `arrays` are query, key, value, output and its gradient.
fn write<'py>(
    py: Python<'py>,
    dtype: Dtype,
    arrays: [&Any<'py>; 5],
    above: &Above<Slot<'py>>,
    hooks: &Hooks<Slot<'py>>,
    wanted: Wanted<'_>,
) -> Outcome {
    let [query, key, value, output, output_gradient] = arrays;
    let (query, key, value) = (large("query", dtype, query)?, large("key", dtype, key)?, large("value", dtype, value)?);
    let (output, output_gradient) =
        (large("output", dtype, output)?, large("output_gradient", dtype, output_gradient)?);
    let block_table = hooks.block_table.as_ref().map(Slot::pages).transpose()?;
    let (of_query, of_keys) = hooks.layouts()?;
    let large_inputs =
        [input("query", &query, of_query)?, input("key", &key, of_keys)?, input("value", &value, of_keys)?];
    let inputs = Inputs::new(large_inputs, block_table, hooks)?;
    if inputs.has_no_rows() {
        return Ok(());
    }
    let rows = [inputs.shape.batch, inputs.shape.query_heads, inputs.shape.query_time];
    let sequences = sequences(&inputs.shape, hooks)?;
    let call = Backward {
        problem: inputs.problem(&sequences[..], hooks)?,
        output: input("output", &output, of_query)?,
        lse: above.lse.table("lse", rows)?,
        output_gradient: input("output_gradient", &output_gradient, of_query)?,
        lse_gradient: above.lse_gradient.as_ref().map(|x| x.table("lse_gradient", rows)).transpose()?,
    };
    detached(py, || run(&call, wanted))
}

fn written<'py>(
    argument: &'static str,
    dtype: Dtype,
    object: Option<&Any<'py>>,
) -> Result<Option<LargeMut<'py, IxDyn>>> {
    object.map(|object| large_mut(argument, dtype, object)).transpose()
}

fn rows_of<'a>(
    argument: &'static str,
    array: &'a mut Option<LargeMut<'_, IxDyn>>,
    layout: Layout,
) -> Result<Option<Output<'a>>> {
    let ragged = layout == Layout::Ragged;
    let Some(array) = array else { return Ok(None) };
    Ok(Some(map!(x in array => ViewMut::new(argument, &mut batched_mut(x.as_array_mut(), ragged))?)))
}

type Numbers<'py> = Option<PyReadwriteArray<'py, f32, IxDyn>>;

fn numbers<'py>(argument: &'static str, object: Option<&Any<'py>>) -> Result<Numbers<'py>> {
    object.map(|object| readwrite(argument, object)).transpose()
}

/// With leading dimensions of size 1.
fn view<'a, const N: usize>(argument: &'static str, array: &'a mut Numbers) -> Result<Option<ViewMut<'a, f32, N>>> {
    let Some(array) = array else { return Ok(None) };
    let mut array: ArrayViewMutD<'a, f32> = array.as_array_mut();
    while array.ndim() < N {
        array.insert_axis_inplace(Axis(0));
    }
    ViewMut::new(argument, &mut array).map(Some)
}
