//! `_core.cuda_attention`: attention over memory of a device.

use super::device::{Array, Memory, broadcast, tensor};
use crate::arrays::named_dtype;
use crate::attention::hooks::Hooks;
use crate::attention::problem::{Given, Inputs};
use crate::failure::{Outcome, guarded};
use crate::layout::Layout;
use farspan_core::{Dtype, Error, Result};
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
        let key_offsets = some_whole("key_offsets", &hooks.key_offsets)?;
        let offsets = some_whole("query_offsets", &hooks.query_offsets)?;
        let offsets = offsets.map(|query| Offsets { query, key: key_offsets });
        let key_lengths = some_whole("key_lengths", &hooks.key_lengths)?;
        let problem = inputs.problem(Sequences { offsets, key_lengths }, &hooks)?;

        let memory = Memory::new(memory);
        let place = memory.place()?;
        let bytes = workspace_bytes(&problem, &place.device().limits())?;
        let workspace = memory.workspace(bytes)?;
        let output = matrix("output", dtype, output, of_query)?;
        let lse = match of_query {
            Layout::Ragged => ragged_lse(tensor("lse", lse)?),
            _ => tensor("lse", lse)?,
        };
        // SAFETY: Python's arrays have the extents that it said, on this device, and live until the work is done.
        unsafe { attention(place.device(), &problem, output, Some(lse), workspace)? };
        Ok(())
    })
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

fn ragged_lse(Tensor { pointer, shape: [heads, total], strides: [head, time] }: Tensor<2>) -> Tensor<3> {
    Tensor { pointer, shape: [1, heads, total], strides: [0, head, time] }
}
