//! `_core.cuda_attention`: attention over memory of a device.

use super::device::{Array, Memory, broadcast, tensor};
use crate::arrays::named_dtype;
use crate::attention::hooks::Hooks;
use crate::failure::{Outcome, guarded};
use crate::layout::{Layout, wrong_offsets};
use farspan_core::attention::{Rules, Shape};
use farspan_core::{Dtype, Error, Result};
use farspan_cuda::attention::{
    Attention, DistanceBias, Far, Matrix, NumberType, Numbers, Offsets, Rotary, attention, workspace_bytes,
};
use farspan_cuda::{Tensor, Workspace};
use pyo3::prelude::*;

/// An [`Array`] and the name of its element type.
type Typed = (u64, Vec<usize>, Vec<i64>, String);

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
    let Hooks {
        causal, left, right, keep_first, scale, softcap, distance_minimum, magnitude, interleaved, border, ..
    } = hooks;
    let Hooks { sink, key_bias, query_scale, distance_table, inv_freq, query_positions, key_positions, .. } = hooks;
    let Hooks { far_query_positions, far_key_positions, key_lengths, query_offsets, key_offsets, block_table, .. } =
        hooks;
    guarded(|| {
        let dtype = named_dtype("query", dtype)?;
        let ragged = query_offsets.is_some();
        let (of_query, of_keys) = Layout::of(ragged, block_table.is_some());
        let query = matrix("query", dtype, query, of_query)?;
        let (key, value) = (matrix("key", dtype, key, of_keys)?, matrix("value", dtype, value, of_keys)?);
        let block_table = block_table.map(|table| whole("block_table", table)).transpose()?;
        let sizes = (query.tensor.shape, key.tensor.shape, value.tensor.shape);
        let shape = match &block_table {
            Some(table) => Shape::paged(sizes.0, sizes.1, sizes.2, table.tensor.shape)?,
            None => Shape::new(sizes.0, sizes.1, sizes.2)?,
        };
        let Shape { batch, query_heads, query_time, key_batch, key_time, .. } = shape;
        if [batch, query_heads, query_time].contains(&0) {
            return Ok(());
        }
        let key_offsets = key_offsets.map(|offsets| whole("key_offsets", offsets)).transpose()?;
        let offsets = match (query_offsets, key_offsets, block_table) {
            (Some(query), key, table) if key.is_some() != table.is_some() => {
                Some(Offsets { query: whole("query_offsets", query)?, key })
            }
            (None, None, _) => None,
            _ => return Err(wrong_offsets(block_table.is_some()).into()),
        };
        let sequences = offsets.map_or(batch, |offsets| offsets.query.tensor.shape[0].saturating_sub(1));
        let times = |argument, array: Option<Typed>, shape: [usize; 2]| {
            array.map(|array| positions(argument, array, shape)).transpose()
        };
        let (queries, keys) = ([batch, query_time], [key_batch, key_time]);
        let far = match (
            border,
            times("far_query_positions", far_query_positions, queries)?,
            times("far_key_positions", far_key_positions, keys)?,
        ) {
            (None, None, None) => None,
            (Some(border), Some(query_positions), Some(key_positions)) => {
                Some(Far { border, query_positions, key_positions })
            }
            _ => {
                let expected = "border, far_query_positions and far_key_positions together";
                return Err(Error::argument("rotary", expected, "only some of them").into());
            }
        };
        let columns = |array: &Typed| array.1.last().copied().unwrap_or(0);
        let rotary = inv_freq.map(|array| {
            let half = columns(&array);
            let inv_freq = table("inv_freq", array, [sequences, half])?;
            Ok::<_, Error>(Rotary { inv_freq, magnitude: magnitude as f32, interleaved, far })
        });
        let distance_bias = distance_table.map(|array| {
            let length = columns(&array);
            let table = table("distance_bias", array, [query_heads, length])?;
            Ok::<_, Error>(DistanceBias { table, minimum: distance_minimum })
        });
        let problem = Attention {
            query,
            key,
            value,
            block_table,
            offsets,
            key_lengths: key_lengths.map(|lengths| whole("key_lengths", lengths)).transpose()?,
            rules: Rules::new(shape.head_dim, causal, (left, right), keep_first, scale, softcap)?,
            query_scale: some_table("query_scale", query_scale, [batch, query_heads, query_time])?,
            key_bias: some_table("key_bias", key_bias, [key_batch, query_heads, key_time])?,
            distance_bias: distance_bias.transpose()?,
            sink: some_table("sink", sink, [query_heads])?,
            query_positions: times("query_positions", query_positions, queries)?,
            key_positions: times("key_positions", key_positions, keys)?,
            rotary: rotary.transpose()?,
        };
        let memory = Memory::new(memory);
        let place = memory.place()?;
        let bytes = workspace_bytes(&problem, &place.device().limits())?;
        let workspace = Workspace { pointer: memory.allocate(bytes)?, bytes };
        let output = matrix("output", dtype, output, of_query)?;
        let lse = if ragged { ragged_lse(tensor("lse", lse)?) } else { tensor("lse", lse)? };
        // SAFETY: Python's arrays have the extents that it said, on this device, and live until the work is done.
        unsafe { attention(place.device(), &problem, output, Some(lse), workspace)? };
        Ok(())
    })
}

/// A large array in the axes of the backend: a ragged `[total, heads, dim]` is a batch of one.
fn matrix(argument: &'static str, dtype: Dtype, array: Array, layout: Layout) -> Result<Matrix> {
    layout.check(argument, &array.1)?;
    let tensor = match layout {
        Layout::Ragged => {
            let Tensor { pointer, shape: [total, heads, dim], strides: [time, head, last] } = tensor(argument, array)?;
            Tensor { pointer, shape: [1, heads, total, dim], strides: [0, head, time, last] }
        }
        Layout::Dense | Layout::Pages => tensor(argument, array)?,
    };
    Ok(Matrix { dtype, tensor })
}

fn ragged_lse(Tensor { pointer, shape: [heads, total], strides: [head, time] }: Tensor<2>) -> Tensor<3> {
    Tensor { pointer, shape: [1, heads, total], strides: [0, head, time] }
}

/// A table of float32, broadcast.
fn table<const N: usize>(argument: &'static str, array: Typed, shape: [usize; N]) -> Result<Tensor<N>> {
    let (pointer, given, strides, dtype) = array;
    match dtype.as_str() {
        "float32" => broadcast(argument, (pointer, given, strides), shape),
        _ => Err(Error::Dtype { argument, expected: "float32".into(), given: dtype }),
    }
}

fn some_table<const N: usize>(
    argument: &'static str,
    array: Option<Typed>,
    shape: [usize; N],
) -> Result<Option<Tensor<N>>> {
    array.map(|array| table(argument, array, shape)).transpose()
}

/// Lengths, offsets or a block table.
fn whole<const N: usize>(argument: &'static str, (pointer, shape, strides, dtype): Typed) -> Result<Numbers<N>> {
    let kind = match dtype.as_str() {
        "int32" => NumberType::I32,
        "int64" => NumberType::I64,
        _ => return Err(Error::Dtype { argument, expected: "int32 or int64".into(), given: dtype }),
    };
    Ok(Numbers { kind, tensor: tensor(argument, (pointer, shape, strides))? })
}

/// Positions `[time]` or `[batch, time]`, broadcast over the batch.
fn positions(argument: &'static str, (pointer, given, strides, dtype): Typed, shape: [usize; 2]) -> Result<Numbers<2>> {
    let kind = match dtype.as_str() {
        "int32" => NumberType::I32,
        "int64" => NumberType::I64,
        "float32" => NumberType::F32,
        _ => return Err(Error::Dtype { argument, expected: "int32, int64 or float32".into(), given: dtype }),
    };
    if !(1..=2).contains(&given.len()) {
        return Err(Error::argument(argument, "shape [time] or [batch, time]", format!("{given:?}")));
    }
    Ok(Numbers { kind, tensor: broadcast(argument, (pointer, given, strides), shape)? })
}
