//! `_core.cuda_linear_cross_entropy` and its siblings: the losses over memory of a device.

use super::device::{Array, Memory, tensor};
use super::unembed::{Arguments, problem};
use crate::failure::{Outcome, guarded};
use crate::loss::{ScoreRead as GivenRead, Settings};
use farspan_core::loss::{Reduction, target_name};
use farspan_core::{Error, Result};
use farspan_cuda::loss::{
    self, CrossEntropy, DivergenceOut, DivergenceRead, EntropyOut, EntropyRead, Gradients, ScoreRead, Sides,
};
use farspan_cuda::unembed::Problem;
use farspan_cuda::{Memory as _, Tensor};
use pyo3::prelude::*;

fn settings(given: Settings<Array>) -> Result<CrossEntropy> {
    Ok(CrossEntropy {
        targets: tensor("targets", given.targets)?,
        ignore_index: given.ignore_index,
        label_smoothing: given.label_smoothing,
        class_weight: given.class_weight.map(|weights| tensor("class_weight", weights)).transpose()?,
        z_loss: given.z_loss,
        reduction: Reduction::from_name(&given.reduction)?,
    })
}

/// Addresses of the gradients of hidden, weight and bias, 0 where one is not asked for.
fn gradients([hidden, weight, bias]: [u64; 3]) -> Gradients {
    Gradients { hidden, weight, bias }
}

fn tensors<const N: usize>(names: [&'static str; N], given: [Array; N]) -> Result<[Tensor<1>; N]> {
    let found: Result<Vec<_>> = names.into_iter().zip(given).map(|(name, array)| tensor(name, array)).collect();
    found?.try_into().map_err(|_| Error::argument("read", format!("{N} arrays"), "others"))
}

/// The cross-entropy of given targets; `out` are the addresses of loss and both parts of the lse.
#[pyfunction]
#[pyo3(signature = (memory, arguments, given, out, /))]
pub(crate) fn cuda_linear_cross_entropy(
    memory: &Bound<'_, PyAny>,
    arguments: Arguments<'_>,
    given: Settings<Array>,
    out: [u64; 3],
) -> Outcome {
    guarded(|| {
        let (memory, problem, settings) = (Memory::new(memory), problem(arguments, None)?, settings(given)?);
        let (place, [loss, max, log_sum]) = (memory.place()?, out);
        let workspace = memory.workspace(loss::linear_cross_entropy_workspace(&problem, &settings)?)?;
        let out = EntropyOut { loss, max, log_sum };
        // SAFETY: Python's arrays have the extents that it said, on this device, and live until the work is done.
        unsafe { loss::linear_cross_entropy(place.device(), &problem, &settings, &out, workspace)? };
        Ok(())
    })
}

/// Its gradients; `read` are both parts of the lse and the slopes of a result by the loss.
#[pyfunction]
#[pyo3(signature = (memory, arguments, given, read, out, /))]
pub(crate) fn cuda_linear_cross_entropy_gradient(
    memory: &Bound<'_, PyAny>,
    arguments: Arguments<'_>,
    given: Settings<Array>,
    read: [Array; 3],
    out: [u64; 3],
) -> Outcome {
    guarded(|| {
        let (memory, problem, settings) = (Memory::new(memory), problem(arguments, None)?, settings(given)?);
        let [max, log_sum, by_loss] = tensors(["max", "log_sum", "by_loss"], read)?;
        let (place, out) = (memory.place()?, gradients(out));
        let workspace = memory.workspace(loss::linear_cross_entropy_gradient_workspace(&problem, &settings, &out)?)?;
        let read = EntropyRead { max, log_sum, by_loss };
        // SAFETY: as above.
        unsafe {
            loss::linear_cross_entropy_gradient(place.device(), &problem, &settings, &read, &out, workspace)?;
        }
        Ok(())
    })
}

/// The gradients of `score`.
#[pyfunction]
#[pyo3(signature = (memory, arguments, targets, read, out, /))]
pub(crate) fn cuda_score_gradient(
    memory: &Bound<'_, PyAny>,
    arguments: Arguments<'_>,
    targets: Array,
    read: GivenRead<Array>,
    out: [u64; 3],
) -> Outcome {
    guarded(|| {
        let (memory, problem, out) = (Memory::new(memory), problem(arguments, None)?, gradients(out));
        let read = ScoreRead {
            targets: tensor("targets", targets)?,
            entropy: tensor("entropy", read.entropy)?,
            lse: tensor("lse", read.lse)?,
            top_token: tensor("top_token", read.top_token)?,
            by_logprob: tensor("by_logprob", read.by_logprob)?,
            by_entropy: tensor("by_entropy", read.by_entropy)?,
            by_lse: tensor("by_lse", read.by_lse)?,
            by_top_logprob: tensor("by_top_logprob", read.by_top_logprob)?,
        };
        let place = memory.place()?;
        let workspace = memory.workspace(loss::score_gradient_workspace(&problem, &out)?)?;
        // SAFETY: as above.
        unsafe { loss::score_gradient(place.device(), &problem, &read, &out, workspace)? };
        Ok(())
    })
}

/// Both sides of a divergence.
fn sides(model: Arguments<'_>, target: Arguments<'_>) -> Result<[Problem; 2]> {
    Ok([problem(model, None)?, problem(target, None).map_err(|error| error.renamed(target_name))?])
}

/// The divergence from a target; `out` are the addresses of the divergence and both parts of both lse.
#[pyfunction]
#[pyo3(signature = (memory, model, target, temperature, out, /))]
pub(crate) fn cuda_divergence(
    memory: &Bound<'_, PyAny>,
    model: Arguments<'_>,
    target: Arguments<'_>,
    temperature: f64,
    out: [u64; 5],
) -> Outcome {
    guarded(|| {
        let (memory, [model, target]) = (Memory::new(memory), sides(model, target)?);
        let sides = Sides { model: &model, target: &target, temperature: temperature as f32 };
        let (place, [divergence, max, log_sum, target_max, target_log_sum]) = (memory.place()?, out);
        let workspace = memory.workspace(loss::divergence_workspace(&sides)?)?;
        let out = DivergenceOut { divergence, max, log_sum, target_max, target_log_sum };
        // SAFETY: as above.
        unsafe { loss::divergence(place.device(), &sides, &out, workspace)? };
        Ok(())
    })
}

/// Its gradients by the model; `read` are both parts of both lse and the slopes of a result by the divergence.
#[pyfunction]
#[pyo3(signature = (memory, model, target, temperature, read, out, /))]
pub(crate) fn cuda_divergence_gradient(
    memory: &Bound<'_, PyAny>,
    model: Arguments<'_>,
    target: Arguments<'_>,
    temperature: f64,
    read: [Array; 5],
    out: [u64; 3],
) -> Outcome {
    guarded(|| {
        let (memory, [model, target], out) = (Memory::new(memory), sides(model, target)?, gradients(out));
        let sides = Sides { model: &model, target: &target, temperature: temperature as f32 };
        let names = ["max", "log_sum", "target_max", "target_log_sum", "by_divergence"];
        let [max, log_sum, target_max, target_log_sum, by_divergence] = tensors(names, read)?;
        let place = memory.place()?;
        let workspace = memory.workspace(loss::divergence_gradient_workspace(&sides, &out)?)?;
        let read = DivergenceRead { max, log_sum, target_max, target_log_sum, by_divergence };
        // SAFETY: as above.
        unsafe { loss::divergence_gradient(place.device(), &sides, &read, &out, workspace)? };
        Ok(())
    })
}
