//! `_core.linear`: matrices of two dimensions.

use crate::arrays::{large, large_mut, matrix, named_dtype, optional_row, slice};
use crate::failure::{Outcome, detached};
use farspan_cpu::map;
use pyo3::prelude::*;

/// `out = x @ weight.T + bias`; `weight` may be of another element type.
#[pyfunction]
#[pyo3(signature = (dtype, weight_dtype, out, x, weight, bias, /))]
pub(crate) fn linear(
    py: Python<'_>,
    dtype: &str,
    weight_dtype: &str,
    out: &Bound<'_, PyAny>,
    x: &Bound<'_, PyAny>,
    weight: &Bound<'_, PyAny>,
    bias: Option<&Bound<'_, PyAny>>,
) -> Outcome {
    let (dtype, weight_dtype) = (named_dtype("x", dtype)?, named_dtype("weight", weight_dtype)?);
    let (x, weight) = (large("x", dtype, x)?, large("weight", weight_dtype, weight)?);
    let (x, weight) = (matrix(&x), matrix(&weight));
    let bias = optional_row("bias", bias)?;
    let bias = bias.as_ref().map(|bias| slice("bias", bias)).transpose()?;
    let mut out = large_mut("out", dtype, out)?;
    let out = map!(x in &mut out => x.as_array_mut());
    detached(py, || farspan_cpu::linear::linear(x, weight, bias, out))
}
