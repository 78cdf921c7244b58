//! `_core.linear_cross_entropy`, `divergence`, and the gradients of both and of `score`.

use crate::arrays::{
    LargeMut, Named, integers, large_mut, named_dtype, optional_row, readonly, readwrite, slice, slice_mut,
};
use crate::failure::{Outcome, detached};
use crate::named::named;
use crate::unembed::{Arguments, Problem};
use farspan_core::loss::{CrossEntropy, Reduction, ScoreSlopes, Scored, target_name};
use farspan_core::{Dtype, Result};
use farspan_cpu::loss::{self, Gradients, Lses, Sides};
use farspan_cpu::map;
use numpy::ndarray::{Ix1, Ix2};
use numpy::{PyReadonlyArray1, PyReadwriteArray1};
use pyo3::prelude::*;

named! {
    /// `CrossEntropy`.
    pub(crate) struct Settings<A> {
        targets: A,
        ignore_index: i64,
        label_smoothing: f64,
        class_weight: Option<A>,
        z_loss: f64,
        reduction: String,
    }
}

named! {
    /// `ScoreRead`.
    pub(crate) struct ScoreRead<A> {
        entropy: A,
        lse: A,
        top_token: A,
        by_logprob: A,
        by_entropy: A,
        by_lse: A,
        by_top_logprob: A,
    }
}

type Array<'py> = Bound<'py, PyAny>;

/// The arrays of a cross-entropy, borrowed or copied for the call.
struct Owned<'py> {
    targets: Vec<i64>,
    ignore_index: i64,
    label_smoothing: f64,
    class_weight: Option<PyReadonlyArray1<'py, f32>>,
    z_loss: f64,
    reduction: Reduction,
}

impl<'py> Owned<'py> {
    fn new(given: &Settings<Array<'py>>) -> Result<Self> {
        Ok(Owned {
            targets: integers("targets", &given.targets)?,
            ignore_index: given.ignore_index,
            label_smoothing: given.label_smoothing,
            class_weight: optional_row("class_weight", given.class_weight.as_ref())?,
            z_loss: given.z_loss,
            reduction: Reduction::from_name(&given.reduction)?,
        })
    }

    fn view(&self) -> Result<CrossEntropy<'_>> {
        Ok(CrossEntropy {
            targets: &self.targets,
            ignore_index: self.ignore_index,
            label_smoothing: self.label_smoothing,
            class_weight: self.class_weight.as_ref().map(|weights| slice("class_weight", weights)).transpose()?,
            z_loss: self.z_loss,
            reduction: self.reduction,
        })
    }
}

/// A row of numbers that are read.
fn row<'py, T: Named>(argument: &'static str, array: &Array<'py>) -> Result<PyReadonlyArray1<'py, T>> {
    readonly::<T, Ix1>(argument, array)
}

/// A row of numbers that are written.
fn row_mut<'py>(argument: &'static str, array: &Array<'py>) -> Result<PyReadwriteArray1<'py, f32>> {
    readwrite::<f32, Ix1>(argument, array)
}

/// Both parts of the lse that a forward pass writes.
fn written<'a>(
    max: &'a mut PyReadwriteArray1<'_, f32>,
    log_sum: &'a mut PyReadwriteArray1<'_, f32>,
) -> Result<Lses<&'a mut [f32]>> {
    Ok(Lses { max: slice_mut("max", max)?, log_sum: slice_mut("log_sum", log_sum)? })
}

/// The same, kept for a backward pass.
fn kept<'a>(max: &'a PyReadonlyArray1<'_, f32>, log_sum: &'a PyReadonlyArray1<'_, f32>) -> Result<Lses<&'a [f32]>> {
    Ok(Lses { max: slice("max", max)?, log_sum: slice("log_sum", log_sum)? })
}

/// The gradients of hidden, weight and bias, borrowed for writing where they are asked for.
struct Buffers<'py> {
    hidden: Option<LargeMut<'py, Ix2>>,
    weight: Option<LargeMut<'py, Ix2>>,
    bias: Option<PyReadwriteArray1<'py, f32>>,
}

/// Gradients as Python allocates them, `None` where they are not asked for.
type Asked<'py> = [Option<Array<'py>>; 3];

impl<'py> Buffers<'py> {
    fn new(dtype: &str, [hidden, weight, bias]: &Asked<'py>) -> Result<Self> {
        let dtype: Dtype = named_dtype("hidden", dtype)?;
        let matrix = |name, array: &Option<Array<'py>>| array.as_ref().map(|x| large_mut(name, dtype, x)).transpose();
        Ok(Buffers {
            hidden: matrix("the gradient of hidden", hidden)?,
            weight: matrix("the gradient of weight", weight)?,
            bias: bias.as_ref().map(|bias| row_mut("the gradient of bias", bias)).transpose()?,
        })
    }

    fn out(&mut self) -> Result<Gradients<'_>> {
        Ok(Gradients {
            hidden: self.hidden.as_mut().map(|array| map!(x in array => x.as_array_mut())),
            weight: self.weight.as_mut().map(|array| map!(x in array => x.as_array_mut())),
            bias: self.bias.as_mut().map(|bias| slice_mut("the gradient of bias", bias)).transpose()?,
        })
    }
}

/// The cross-entropy of given targets; out are loss and both parts of the lse.
#[pyfunction]
#[pyo3(signature = (problem, settings, out, /))]
pub(crate) fn linear_cross_entropy<'py>(
    py: Python<'py>,
    problem: Arguments<'_, 'py>,
    settings: Settings<Array<'py>>,
    out: [Array<'py>; 3],
) -> Outcome {
    let settings = Owned::new(&settings)?;
    let (problem, settings) = (Problem::new(problem)?, settings.view()?);
    let problem = problem.view(None)?;
    let (mut loss, mut max, mut log_sum) =
        (row_mut("loss", &out[0])?, row_mut("max", &out[1])?, row_mut("log_sum", &out[2])?);
    let (loss, lse) = (slice_mut("loss", &mut loss)?, written(&mut max, &mut log_sum)?);
    detached(py, || loss::linear_cross_entropy(&problem, &settings, loss, lse))
}

/// Its gradients; `read` are both parts of the lse and the slopes of a result by the loss.
#[pyfunction]
#[pyo3(signature = (problem, settings, read, out, /))]
pub(crate) fn linear_cross_entropy_gradient<'py>(
    py: Python<'py>,
    problem: Arguments<'_, 'py>,
    settings: Settings<Array<'py>>,
    read: [Array<'py>; 3],
    out: Asked<'py>,
) -> Outcome {
    let (settings, mut buffers) = (Owned::new(&settings)?, Buffers::new(problem.0, &out)?);
    let (problem, settings) = (Problem::new(problem)?, settings.view()?);
    let problem = problem.view(None)?;
    let (max, log_sum, upstream) = (row("max", &read[0])?, row("log_sum", &read[1])?, row::<f32>("by_loss", &read[2])?);
    let (lse, upstream) = (kept(&max, &log_sum)?, slice("by_loss", &upstream)?);
    let out = buffers.out()?;
    detached(py, || loss::linear_cross_entropy_gradient(&problem, &settings, lse, upstream, out))
}

/// The gradients of `score`.
#[pyfunction]
#[pyo3(signature = (problem, targets, read, out, /))]
pub(crate) fn score_gradient<'py>(
    py: Python<'py>,
    problem: Arguments<'_, 'py>,
    targets: Array<'py>,
    read: ScoreRead<Array<'py>>,
    out: Asked<'py>,
) -> Outcome {
    let (targets, top_token) = (integers("targets", &targets)?, integers("top_token", &read.top_token)?);
    let mut buffers = Buffers::new(problem.0, &out)?;
    let problem = Problem::new(problem)?;
    let problem = problem.view(None)?;
    let (entropy, lse) = (row::<f32>("entropy", &read.entropy)?, row::<f32>("lse", &read.lse)?);
    let (by_logprob, by_entropy) = (row("by_logprob", &read.by_logprob)?, row("by_entropy", &read.by_entropy)?);
    let (by_lse, by_list) = (row("by_lse", &read.by_lse)?, row("by_top_logprob", &read.by_top_logprob)?);
    let scored = Scored {
        targets: &targets,
        entropy: slice("entropy", &entropy)?,
        lse: slice("lse", &lse)?,
        top_token: &top_token,
    };
    let upstream = ScoreSlopes {
        logprob: slice("by_logprob", &by_logprob)?,
        entropy: slice("by_entropy", &by_entropy)?,
        lse: slice("by_lse", &by_lse)?,
        top_logprob: slice("by_top_logprob", &by_list)?,
    };
    let out = buffers.out()?;
    detached(py, || loss::score_gradient(&problem, &scored, &upstream, out))
}

/// The divergence from a target, which is a problem as the model is; out are divergence and both parts of both lse.
#[pyfunction]
#[pyo3(signature = (model, target, temperature, out, /))]
pub(crate) fn divergence<'py>(
    py: Python<'py>,
    model: Arguments<'_, 'py>,
    target: Arguments<'_, 'py>,
    temperature: f64,
    out: [Array<'py>; 5],
) -> Outcome {
    let (model, target) = (Problem::new(model)?, Problem::new(target).map_err(|error| error.renamed(target_name))?);
    let (model, target) = (model.view(None)?, target.view(None)?);
    let mut divergence = row_mut("divergence", &out[0])?;
    let (mut max, mut log_sum) = (row_mut("max", &out[1])?, row_mut("log_sum", &out[2])?);
    let (mut target_max, mut target_log_sum) = (row_mut("target_max", &out[3])?, row_mut("target_log_sum", &out[4])?);
    let divergence = slice_mut("divergence", &mut divergence)?;
    let lse = [written(&mut max, &mut log_sum)?, written(&mut target_max, &mut target_log_sum)?];
    let sides = Sides { model: &model, target: &target, temperature: temperature as f32 };
    detached(py, || loss::divergence(&sides, divergence, lse))
}

/// Its gradients by the model; `read` are both parts of both lse and the slopes of a result by the divergence.
#[pyfunction]
#[pyo3(signature = (model, target, temperature, read, out, /))]
pub(crate) fn divergence_gradient<'py>(
    py: Python<'py>,
    model: Arguments<'_, 'py>,
    target: Arguments<'_, 'py>,
    temperature: f64,
    read: [Array<'py>; 5],
    out: Asked<'py>,
) -> Outcome {
    let mut buffers = Buffers::new(model.0, &out)?;
    let (model, target) = (Problem::new(model)?, Problem::new(target).map_err(|error| error.renamed(target_name))?);
    let (model, target) = (model.view(None)?, target.view(None)?);
    let (max, log_sum) = (row("max", &read[0])?, row("log_sum", &read[1])?);
    let (target_max, target_log_sum) = (row("target_max", &read[2])?, row("target_log_sum", &read[3])?);
    let upstream = row::<f32>("by_divergence", &read[4])?;
    let lse = [kept(&max, &log_sum)?, kept(&target_max, &target_log_sum)?];
    let (upstream, out) = (slice("by_divergence", &upstream)?, buffers.out()?);
    let sides = Sides { model: &model, target: &target, temperature: temperature as f32 };
    detached(py, || loss::divergence_gradient(&sides, lse, upstream, out))
}
