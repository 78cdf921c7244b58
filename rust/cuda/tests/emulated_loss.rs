//! The losses' kernels on the emulator: the suite of every backend, and what only a device can be asked.

#[path = "support/emulated_unembed.rs"]
#[allow(dead_code, reason = "what the other tests use")]
mod emulated_unembed;

use emulated_unembed::{Memory, address, emulator, on_device, problem};
use farspan_core::unembed::Rules;
use farspan_core::{Dtype, Result};
use farspan_cuda::loss::{
    CrossEntropy, DivergenceOut, DivergenceRead, EntropyOut, EntropyRead, Gradients, ScoreRead, Sides, divergence,
    divergence_gradient, divergence_gradient_workspace, divergence_workspace, linear_cross_entropy,
    linear_cross_entropy_gradient, linear_cross_entropy_gradient_workspace, linear_cross_entropy_workspace,
    score_gradient, score_gradient_workspace,
};
use farspan_cuda::unembed::{Problem, ScoreOut, score, score_workspace};
use farspan_cuda::{Device, Tensor};
use farspan_testing::loss::{Backend, Case, Found, Loss};
use farspan_testing::loss_suite;
use farspan_testing::numbers::{Stored, narrow, unit, widen};

loss_suite!(emulated = Some(Emulated));

/// The kernels on the emulator, as a backend of the suite.
struct Emulated;

impl Backend for Emulated {
    fn cases(&self) -> u32 {
        24
    }

    /// Two orders of the threads, then the least workspace.
    fn variations(&self) -> u64 {
        3
    }

    fn run(&self, case: &Case, variation: u64) -> Found {
        run(&emulator().with_seed(variation), case, variation == 2)
    }

    /// Slopes are of the type of what they are multiplied with.
    fn rounding(&self, dtype: Dtype) -> f64 {
        unit(dtype)
    }
}

/// Runs something in the workspace that `asked` says, or in the least that is taken.
fn within(least: bool, asked: usize, mut work: impl FnMut(&Memory) -> Result<()>) {
    // A workspace that is too small is refused with what is needed at least.
    let mut bytes = if least { 0 } else { asked };
    loop {
        let memory = Memory::new(bytes);
        match work(&memory) {
            Ok(()) => return memory.check(),
            Err(refused) if least && bytes == 0 => {
                let text = refused.to_string();
                let needed = text.strip_prefix("workspace: expected at least ").and_then(|x| x.split(' ').next());
                bytes = needed.unwrap_or_else(|| panic!("{text}")).parse().unwrap();
                assert!(bytes <= asked, "{bytes} of {asked}");
            }
            Err(refused) => panic!("{refused}"),
        }
    }
}

fn row<T>(values: &[T]) -> Tensor<1> {
    Tensor::contiguous(address(values), [values.len()])
}

fn out(values: &mut [f32]) -> u64 {
    values.as_mut_ptr() as u64
}

/// The target's side of a divergence.
fn other_side(case: &Case) -> Option<(Problem, f32)> {
    let Loss::Divergence { hidden, weight, bias, temperature } = &case.loss else { return None };
    let mine = problem(&case.unembedding);
    let rules = Rules { bias: bias.as_ref().map(|bias| row(bias)), ..mine.rules };
    Some((Problem { hidden: on_device(hidden), weight: on_device(weight), rules, shard: None }, *temperature))
}

fn run(device: &dyn Device, case: &Case, least: bool) -> Found {
    let (problem, rows) = (problem(&case.unembedding), case.rows());
    let (hidden, weight) = (&case.unembedding.hidden, &case.unembedding.weight);
    let gradient = |x: &Stored| narrow(&vec![7.0; x.rows * x.columns], x.dtype);
    let (of_hidden, of_weight, mut of_bias) = (gradient(hidden), gradient(weight), vec![7.0f32; weight.rows]);
    let place = |x: &farspan_cpu::Typed<Vec<f32>, Vec<u16>>| farspan_cpu::each!(x in x => x.as_ptr() as u64);
    let gradients = Gradients { hidden: place(&of_hidden), weight: place(&of_weight), bias: out(&mut of_bias) };
    let [mut loss, mut max, mut log_sum, mut other_max, mut other_sum] = [(); 5].map(|()| vec![7.0f32; rows]);
    let targets = case.targets();
    match &case.loss {
        Loss::CrossEntropy { .. } => {
            let host = case.settings(&targets);
            let settings = CrossEntropy {
                targets: row(&targets),
                ignore_index: host.ignore_index,
                label_smoothing: host.label_smoothing,
                class_weight: host.class_weight.map(row),
                z_loss: host.z_loss,
                reduction: host.reduction,
            };
            let to = EntropyOut { loss: out(&mut loss), max: out(&mut max), log_sum: out(&mut log_sum) };
            let read = EntropyRead { max: row(&max), log_sum: row(&log_sum), by_loss: row(&case.upstream) };
            within(least, linear_cross_entropy_workspace(&problem, &settings).unwrap(), |memory| {
                // SAFETY: every address is that of a vector of the right length, which outlives the call.
                unsafe { linear_cross_entropy(device, &problem, &settings, &to, memory.workspace()) }
            });
            let bytes = linear_cross_entropy_gradient_workspace(&problem, &settings, &gradients).unwrap();
            within(least, bytes, |memory| {
                let workspace = memory.workspace();
                // SAFETY: as above.
                unsafe { linear_cross_entropy_gradient(device, &problem, &settings, &read, &gradients, workspace) }
            });
        }
        Loss::Score(by) => {
            let mut rank = vec![0i64; rows];
            let to = ScoreOut {
                logprob: out(&mut loss),
                rank: rank.as_mut_ptr() as u64,
                entropy: out(&mut other_max),
                lse: out(&mut max),
                ..ScoreOut::default()
            };
            let memory = Memory::new(score_workspace(&problem, 0, &device.limits()).unwrap());
            // SAFETY: as above.
            unsafe { score(device, &problem, &row(&targets), 0, &to, memory.workspace()).unwrap() };
            let [logprob, entropy, lse] = by.map(|by| case.upstream.iter().map(|x| x * by).collect::<Vec<f32>>());
            let read = ScoreRead {
                targets: row(&targets),
                entropy: row(&other_max),
                lse: row(&max),
                top_token: Tensor::contiguous(0, [rows, 0]),
                by_logprob: row(&logprob),
                by_entropy: row(&entropy),
                by_lse: row(&lse),
                by_top_logprob: Tensor::contiguous(0, [rows, 0]),
            };
            within(least, score_gradient_workspace(&problem, &gradients).unwrap(), |memory| {
                // SAFETY: as above.
                unsafe { score_gradient(device, &problem, &read, &gradients, memory.workspace()) }
            });
            loss.clear();
        }
        Loss::Divergence { .. } => {
            let (target, temperature) = other_side(case).unwrap();
            let sides = Sides { model: &problem, target: &target, temperature };
            let to = DivergenceOut {
                divergence: out(&mut loss),
                max: out(&mut max),
                log_sum: out(&mut log_sum),
                target_max: out(&mut other_max),
                target_log_sum: out(&mut other_sum),
            };
            within(least, divergence_workspace(&sides).unwrap(), |memory| {
                // SAFETY: as above.
                unsafe { divergence(device, &sides, &to, memory.workspace()) }
            });
            let read = DivergenceRead {
                max: row(&max),
                log_sum: row(&log_sum),
                target_max: row(&other_max),
                target_log_sum: row(&other_sum),
                by_divergence: row(&case.upstream),
            };
            within(least, divergence_gradient_workspace(&sides, &gradients).unwrap(), |memory| {
                // SAFETY: as above.
                unsafe { divergence_gradient(device, &sides, &read, &gradients, memory.workspace()) }
            });
        }
    }
    Found { loss, hidden: widen(&of_hidden), weight: widen(&of_weight), bias: of_bias }
}
