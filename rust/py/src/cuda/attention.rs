//! `_core.cuda_attention`, its backward pass and its statistics: attention over memory of a device.

use super::device::{Array, Memory, broadcast, tensor};
use crate::arrays::named_dtype;
use crate::attention::backward::{Above, Gradients};
use crate::attention::hooks::Hooks;
use crate::attention::problem::{Given, Inputs};
use crate::attention::statistics::Statistics;
use crate::failure::{Outcome, guarded};
use crate::layout::Layout;
use farspan_core::{Dtype, Error, Result};
use farspan_cuda::attention::gradient::{self, Backward, Gradients as Wanted};
use farspan_cuda::attention::statistics::{self, Statistics as Places};
use farspan_cuda::attention::{Large, NumberType, Numbers, Offsets, Sequences, Tensors, attention, workspace_bytes};
use farspan_cuda::{Memory as _, Tensor};
use pyo3::prelude::*;

/// An [`Array`] and the name of its element type.
type Typed = (Array, String);

/// Writes output and LSE. With offsets the large arrays are `[total, heads, dim]`, else `[batch, heads, time, dim]`.
#[pyfunction]
#[expect(clippy::too_many_arguments, reason = "five arrays, and what they are read with")]
#[pyo3(signature = (memory, dtype, output, lse, query, key, value, hooks, /))]
pub(crate) fn cuda_attention(
    memory: &Bound<'_, PyAny>,
    dtype: &str,
    output: Array,
    lse: Array,
    query: Array,
    key: Array,
    value: Array,
    hooks: Hooks<Typed>,
) -> Outcome {
    guarded(|| {
        let dtype = named_dtype("query", dtype)?;
        let (of_query, of_keys) = hooks.layouts()?;
        let query = matrix("query", dtype, query, of_query)?;
        let (key, value) = (matrix("key", dtype, key, of_keys)?, matrix("value", dtype, value, of_keys)?);
        let block_table = some_whole("block_table", &hooks.block_table)?;
        let inputs = Inputs::<Tensors>::new([query, key, value], block_table, &hooks)?;
        if inputs.has_no_rows() {
            return Ok(());
        }
        let problem = inputs.problem(sequences(&hooks)?, &hooks)?;

        let memory = Memory::new(memory);
        let place = memory.place()?;
        let bytes = workspace_bytes(&problem, &place.device().limits())?;
        let workspace = memory.workspace(bytes)?;
        let output = matrix("output", dtype, output, of_query)?;
        let lse = per_row("lse", lse, of_query)?;
        // SAFETY: Python's arrays have the extents that it said, on this device, and live until the work is done.
        unsafe { attention(place.device(), &problem, output, Some(lse), workspace)? };
        Ok(())
    })
}

/// Writes the statistics `[batch, heads, time]`, with offsets `[heads, total]`.
#[pyfunction]
#[pyo3(signature = (memory, dtype, statistics, query, key, hooks, /))]
pub(crate) fn cuda_attention_statistics(
    memory: &Bound<'_, PyAny>,
    dtype: &str,
    statistics: Statistics<Array>,
    query: Array,
    key: Array,
    hooks: Hooks<Typed>,
) -> Outcome {
    guarded(|| {
        let dtype = named_dtype("query", dtype)?;
        let (of_query, of_keys) = hooks.layouts()?;
        let (query, key) = (matrix("query", dtype, query, of_query)?, matrix("key", dtype, key, of_keys)?);
        let block_table = some_whole("block_table", &hooks.block_table)?;
        // Nobody looks at values: the keys stand in for them.
        let inputs = Inputs::<Tensors>::new([query, key, key], block_table, &hooks)?;
        if inputs.has_no_rows() {
            return Ok(());
        }
        let problem = inputs.problem(sequences(&hooks)?, &hooks)?;
        let places = Places {
            lse: per_row("lse", statistics.lse, of_query)?,
            entropy: per_row("entropy", statistics.entropy, of_query)?,
            largest: per_row("largest", statistics.largest, of_query)?,
            first: per_row("first", statistics.first, of_query)?,
            sink: per_row("sink", statistics.sink, of_query)?,
            distance: per_row("distance", statistics.distance, of_query)?,
        };

        let memory = Memory::new(memory);
        let place = memory.place()?;
        let bytes = statistics::workspace_bytes(&problem, &place.device().limits())?;
        let workspace = memory.workspace(bytes)?;
        // SAFETY: Python's arrays have the extents that it said, on this device, and live until the work is done.
        unsafe { statistics::attention_statistics(place.device(), &problem, &places, workspace)? };
        Ok(())
    })
}

/// Writes the gradients, arrays of zeros that are laid out as those of the call, or None where nobody asks. The small
/// ones have the shapes of their arguments.
#[pyfunction]
#[expect(clippy::too_many_arguments, reason = "the arrays of a call, and what they are read with")]
#[pyo3(signature = (memory, dtype, gradients, query, key, value, output, output_gradient, above, hooks, /))]
pub(crate) fn cuda_attention_backward(
    memory: &Bound<'_, PyAny>,
    dtype: &str,
    gradients: Gradients<Array>,
    query: Array,
    key: Array,
    value: Array,
    output: Array,
    output_gradient: Array,
    above: Above<Typed>,
    hooks: Hooks<Typed>,
) -> Outcome {
    guarded(|| {
        let dtype = named_dtype("query", dtype)?;
        let (of_query, of_keys) = hooks.layouts()?;
        let large = [
            matrix("query", dtype, query, of_query)?,
            matrix("key", dtype, key, of_keys)?,
            matrix("value", dtype, value, of_keys)?,
        ];
        let block_table = some_whole("block_table", &hooks.block_table)?;
        let inputs = Inputs::<Tensors>::new(large, block_table, &hooks)?;
        if inputs.has_no_rows() {
            return Ok(());
        }
        let rows = [inputs.shape.batch, inputs.shape.query_heads, inputs.shape.query_time];
        let call = Backward {
            problem: inputs.problem(sequences(&hooks)?, &hooks)?,
            output: matrix("output", dtype, output, of_query)?,
            lse: above.lse.table("lse", rows)?,
            output_gradient: matrix("output_gradient", dtype, output_gradient, of_query)?,
            lse_gradient: above.lse_gradient.as_ref().map(|x| x.table("lse_gradient", rows)).transpose()?,
        };
        let rows_of = |argument, array: Option<Array>, layout| {
            array.map(|array| matrix(argument, dtype, array, layout)).transpose()
        };
        let wanted = Wanted {
            query: rows_of("query", gradients.query, of_query)?,
            key: rows_of("key", gradients.key, of_keys)?,
            value: rows_of("value", gradients.value, of_keys)?,
            query_scale: gradients.query_scale.map(|x| behind_ones("query_scale", x)).transpose()?,
            key_bias: gradients.key_bias.map(|x| behind_ones("key_bias", x)).transpose()?,
            distance_bias: gradients.distance_table.map(|x| behind_ones("distance_bias", x)).transpose()?,
            sink: gradients.sink.map(|x| behind_ones("sink", x)).transpose()?,
        };

        let memory = Memory::new(memory);
        let place = memory.place()?;
        let bytes = gradient::workspace_bytes(&call, &wanted, &place.device().limits())?;
        let workspace = memory.workspace(bytes)?;
        // SAFETY: Python's arrays have the extents that it said, on this device, and live until the work is done.
        unsafe { gradient::attention_backward(place.device(), &call, &wanted, workspace)? };
        Ok(())
    })
}

fn sequences(hooks: &Hooks<Typed>) -> Result<Sequences> {
    let key = some_whole("key_offsets", &hooks.key_offsets)?;
    let offsets = some_whole("query_offsets", &hooks.query_offsets)?.map(|query| Offsets { query, key });
    Ok(Sequences { offsets, key_lengths: some_whole("key_lengths", &hooks.key_lengths)? })
}

/// With leading dimensions of size 1.
fn behind_ones<const N: usize>(argument: &'static str, (pointer, mut shape, mut strides): Array) -> Result<Tensor<N>> {
    while shape.len() < N {
        shape.insert(0, 1);
        strides.insert(0, 0);
    }
    tensor(argument, (pointer, shape, strides))
}

impl Given<'_> for Typed {
    type Arrays = Tensors;

    fn columns(&self) -> usize {
        self.0.1.last().copied().unwrap_or(0)
    }

    fn table<const N: usize>(&self, argument: &'static str, shape: [usize; N]) -> Result<Tensor<N>> {
        let (array, dtype) = self.clone();
        match dtype.as_str() {
            "float32" => broadcast(argument, array, shape),
            _ => Err(Error::Dtype { argument, expected: "float32".into(), given: dtype }),
        }
    }

    fn positions(&self, argument: &'static str, shape: [usize; 2]) -> Result<Numbers<2>> {
        let (array, dtype) = self.clone();
        let kind = match dtype.as_str() {
            "int32" => NumberType::I32,
            "int64" => NumberType::I64,
            "float32" => NumberType::F32,
            _ => return Err(Error::Dtype { argument, expected: "int32, int64 or float32".into(), given: dtype }),
        };
        if !(1..=2).contains(&array.1.len()) {
            return Err(Error::argument(argument, "shape [time] or [batch, time]", format!("{:?}", array.1)));
        }
        Ok(Numbers { kind, tensor: broadcast(argument, array, shape)? })
    }
}

/// Lengths, offsets or a block table.
fn some_whole<const N: usize>(argument: &'static str, array: &Option<Typed>) -> Result<Option<Numbers<N>>> {
    let Some((array, dtype)) = array.clone() else { return Ok(None) };
    let kind = match dtype.as_str() {
        "int32" => NumberType::I32,
        "int64" => NumberType::I64,
        _ => return Err(Error::Dtype { argument, expected: "int32 or int64".into(), given: dtype }),
    };
    Ok(Some(Numbers { kind, tensor: tensor(argument, array)? }))
}

/// A large array in the axes of the backend: a ragged `[total, heads, dim]` is a batch of one.
fn matrix(argument: &'static str, dtype: Dtype, array: Array, layout: Layout) -> Result<Large> {
    layout.check(argument, &array.1)?;
    let tensor = match layout {
        Layout::Ragged => {
            let Tensor { pointer, shape: [total, heads, dim], strides: [time, head, last] } = tensor(argument, array)?;
            Tensor { pointer, shape: [1, heads, total, dim], strides: [0, head, time, last] }
        }
        Layout::Dense | Layout::Pages => tensor(argument, array)?,
    };
    Ok(Large { dtype, tensor })
}

/// A number for each row, in the axes of the backend: a ragged `[heads, total]` is a batch of one.
fn per_row(argument: &'static str, array: Array, layout: Layout) -> Result<Tensor<3>> {
    match layout {
        Layout::Ragged => {
            let Tensor { pointer, shape: [heads, total], strides: [head, time] } = tensor(argument, array)?;
            Ok(Tensor { pointer, shape: [1, heads, total], strides: [0, head, time] })
        }
        Layout::Dense | Layout::Pages => tensor(argument, array),
    }
}
