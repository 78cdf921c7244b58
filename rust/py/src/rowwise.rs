//! `_core.rms_norm` and `activate`: float32 rows.

use crate::arrays::{readonly, readwrite};
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
    let weight = weight.as_slice().map_err(|_| Error::argument("weight", "contiguous numbers", "a strided array"))?;
    let mut out = readwrite::<f32, Ix2>("out", out)?;
    let (x, out) = (x.as_array(), rows_mut(&mut out)?);
    detached(py, || rowwise::rms_norm(x, weight, eps, out))
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
    let activation = match activation {
        "silu" => Activation::Silu,
        "gelu_pytorch_tanh" => Activation::GeluTanh,
        "gelu" => Activation::Gelu,
        "relu" => Activation::Relu,
        other => return Err(dtype("activation", "silu, gelu_pytorch_tanh, gelu or relu", other).into()),
    };
    let x = readonly::<f32, Ix2>("x", x)?;
    let mut out = readwrite::<f32, Ix2>("out", out)?;
    let (x, out) = (x.as_array(), rows_mut(&mut out)?);
    detached(py, || rowwise::activate(x, activation, gated, out))
}

fn rows_mut<'a>(out: &'a mut PyReadwriteArray2<'_, f32>) -> Result<&'a mut [f32]> {
    out.as_slice_mut().map_err(|_| Error::argument("out", "contiguous rows", "a strided array"))
}
