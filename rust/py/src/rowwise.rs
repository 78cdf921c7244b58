//! `_core.rms_norm`, `activate` and their gradients: float32 rows.

use crate::arrays::{readonly, readwrite, slice, slice_mut};
use crate::failure::{Outcome, detached, dtype};
use farspan_core::{Error, Result};
use farspan_cpu::rowwise::{self, Activation};
use numpy::PyReadwriteArray2;
use numpy::ndarray::{Ix1, Ix2};
use pyo3::prelude::*;

/// `out = x / sqrt(mean(x ** 2) + eps) * weight`, row by row.
#[pyfunction]
#[pyo3(signature = (out, x, weight, eps, /))]
pub(crate) fn rms_norm(
    py: Python<'_>,
    out: &Bound<'_, PyAny>,
    x: &Bound<'_, PyAny>,
    weight: &Bound<'_, PyAny>,
    eps: f32,
) -> Outcome {
    let (x, weight) = (readonly::<f32, Ix2>("x", x)?, readonly::<f32, Ix1>("weight", weight)?);
    let weight = slice("weight", &weight)?;
    let mut out = readwrite::<f32, Ix2>("out", out)?;
    let (x, out) = (x.as_array(), rows_mut(&mut out)?);
    detached(py, || rowwise::rms_norm(x, weight, eps, out))
}

/// `sum = x + y`, and the norm of that.
#[pyfunction]
#[pyo3(signature = (sum, out, x, y, weight, eps, /))]
pub(crate) fn add_rms_norm(
    py: Python<'_>,
    sum: &Bound<'_, PyAny>,
    out: &Bound<'_, PyAny>,
    x: &Bound<'_, PyAny>,
    y: &Bound<'_, PyAny>,
    weight: &Bound<'_, PyAny>,
    eps: f32,
) -> Outcome {
    let (x, y) = (readonly::<f32, Ix2>("x", x)?, readonly::<f32, Ix2>("y", y)?);
    let weight = readonly::<f32, Ix1>("weight", weight)?;
    let weight = slice("weight", &weight)?;
    let (mut sum, mut out) = (readwrite::<f32, Ix2>("sum", sum)?, readwrite::<f32, Ix2>("out", out)?);
    let (x, y, sum, out) = (x.as_array(), y.as_array(), rows_mut(&mut sum)?, rows_mut(&mut out)?);
    detached(py, || rowwise::add_rms_norm(x, y, weight, eps, sum, out))
}

/// The slopes by x, where `beside` is given added to that, and by the weight.
#[pyfunction]
#[pyo3(signature = (out, of_weight, x, weight, eps, slope, beside, /))]
#[expect(clippy::too_many_arguments, reason = "Python gives them one by one")]
pub(crate) fn rms_norm_gradient(
    py: Python<'_>,
    out: &Bound<'_, PyAny>,
    of_weight: &Bound<'_, PyAny>,
    x: &Bound<'_, PyAny>,
    weight: &Bound<'_, PyAny>,
    eps: f32,
    slope: &Bound<'_, PyAny>,
    beside: Option<&Bound<'_, PyAny>>,
) -> Outcome {
    let (x, slope) = (readonly::<f32, Ix2>("x", x)?, readonly::<f32, Ix2>("slope", slope)?);
    let beside = beside.map(|beside| readonly::<f32, Ix2>("beside", beside)).transpose()?;
    let weight = readonly::<f32, Ix1>("weight", weight)?;
    let weight = slice("weight", &weight)?;
    let (mut out, mut of_weight) = (readwrite::<f32, Ix2>("out", out)?, readwrite::<f32, Ix1>("of_weight", of_weight)?);
    let of_weight = slice_mut("of_weight", &mut of_weight)?;
    let (x, slope, beside) = (x.as_array(), slope.as_array(), beside.as_ref().map(|beside| beside.as_array()));
    let out = rows_mut(&mut out)?;
    detached(py, || rowwise::rms_norm_gradient(x, weight, eps, slope, beside, out, of_weight))
}

/// `out = activation(x)`, or `activation(gate) * up` of rows that are both side by side.
#[pyfunction]
#[pyo3(signature = (out, x, activation, gated, /))]
pub(crate) fn activate(
    py: Python<'_>,
    out: &Bound<'_, PyAny>,
    x: &Bound<'_, PyAny>,
    activation: &str,
    gated: bool,
) -> Outcome {
    let activation = activation_of(activation)?;
    let x = readonly::<f32, Ix2>("x", x)?;
    let mut out = readwrite::<f32, Ix2>("out", out)?;
    let (x, out) = (x.as_array(), rows_mut(&mut out)?);
    detached(py, || rowwise::activate(x, activation, gated, out))
}

/// The slopes by x of what [`activate`] makes of it.
#[pyfunction]
#[pyo3(signature = (out, x, activation, gated, slope, /))]
pub(crate) fn activate_gradient(
    py: Python<'_>,
    out: &Bound<'_, PyAny>,
    x: &Bound<'_, PyAny>,
    activation: &str,
    gated: bool,
    slope: &Bound<'_, PyAny>,
) -> Outcome {
    let activation = activation_of(activation)?;
    let (x, slope) = (readonly::<f32, Ix2>("x", x)?, readonly::<f32, Ix2>("slope", slope)?);
    let mut out = readwrite::<f32, Ix2>("out", out)?;
    let (x, slope, out) = (x.as_array(), slope.as_array(), rows_mut(&mut out)?);
    detached(py, || rowwise::activate_gradient(x, activation, gated, slope, out))
}

fn activation_of(name: &str) -> Result<Activation> {
    Ok(match name {
        "silu" => Activation::Silu,
        "gelu_pytorch_tanh" => Activation::GeluTanh,
        "gelu" => Activation::Gelu,
        "relu" => Activation::Relu,
        other => return Err(dtype("activation", "silu, gelu_pytorch_tanh, gelu or relu", other)),
    })
}

fn rows_mut<'a>(out: &'a mut PyReadwriteArray2<'_, f32>) -> Result<&'a mut [f32]> {
    out.as_slice_mut().map_err(|_| Error::argument("out", "contiguous rows", "a strided array"))
}
