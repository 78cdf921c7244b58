//! `_core.linear` and its gradients: matrices of two dimensions.

use crate::arrays::{large, large_mut, matrix, named_dtype, optional_row, slice};
use crate::failure::{Outcome, detached};
use farspan_cpu::map;
use farspan_cpu::matrix::{Matrix, MatrixMut};
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

/// `out = gradient @ weight`; `weight` may be of another element type.
#[pyfunction]
#[pyo3(signature = (dtype, weight_dtype, out, gradient, weight, /))]
pub(crate) fn linear_x_gradient(
    py: Python<'_>,
    dtype: &str,
    weight_dtype: &str,
    out: &Bound<'_, PyAny>,
    gradient: &Bound<'_, PyAny>,
    weight: &Bound<'_, PyAny>,
) -> Outcome {
    of_gradient(py, dtype, out, gradient, ("weight", weight_dtype, weight), farspan_cpu::linear::x_gradient)
}

/// `out = gradient.T @ x`; `x` may be of another element type.
#[pyfunction]
#[pyo3(signature = (dtype, x_dtype, out, gradient, x, /))]
pub(crate) fn linear_weight_gradient(
    py: Python<'_>,
    dtype: &str,
    x_dtype: &str,
    out: &Bound<'_, PyAny>,
    gradient: &Bound<'_, PyAny>,
    x: &Bound<'_, PyAny>,
) -> Outcome {
    of_gradient(py, dtype, out, gradient, ("x", x_dtype, x), farspan_cpu::linear::weight_gradient)
}

/// One of the two: `out` of `gradient` and the named operand of the product, which has its own element type.
fn of_gradient(
    py: Python<'_>,
    dtype: &str,
    out: &Bound<'_, PyAny>,
    gradient: &Bound<'_, PyAny>,
    (name, other_dtype, other): (&'static str, &str, &Bound<'_, PyAny>),
    compute: fn(Matrix, Matrix, MatrixMut) -> farspan_core::Result<()>,
) -> Outcome {
    let (dtype, other_dtype) = (named_dtype("gradient", dtype)?, named_dtype(name, other_dtype)?);
    let (gradient, other) = (large("gradient", dtype, gradient)?, large(name, other_dtype, other)?);
    let (gradient, other) = (matrix(&gradient), matrix(&other));
    let mut out = large_mut("out", dtype, out)?;
    let out = map!(x in &mut out => x.as_array_mut());
    detached(py, || compute(gradient, other, out))
}
