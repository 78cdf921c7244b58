//! `_core.cuda_greedy` and its siblings: the unembedding over memory of a device.

use super::device::{Array, Memory, tensor};
use crate::arrays::named_dtype;
use crate::failure::{Outcome, guarded};
use crate::settings::{Draws as DrawArrays, GivenArrays, Owned, Rules as GivenRules};
use crate::unembed::{Drawing, SampleArrays, SampleBuffers};
use farspan_core::Result;
use farspan_core::draw::{Plan, Results, plans};
use farspan_core::sampler::Settings;
use farspan_cpu::threads::for_each;
use farspan_cuda::Workspace;
use farspan_cuda::unembed::{
    self, Changes, Draws, FoundLayout, FoundWants, Matrix, Options, PackedChanges, Problem, Rules, SampleOut, ScoreOut,
    TopOut,
};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use std::sync::{Mutex, PoisonError};

/// dtype, hidden, weight and the rules.
type Arguments<'a> = (&'a str, Array, Array, GivenRules<Array>);

/// Bytes of every logit of some rows that are copied back at the same time.
const HELD: usize = 64 << 20;
/// Rows that a thread decides before it asks for more: some tens of microseconds.
const ROWS_AT_ONCE: usize = 4;

fn problem((dtype, hidden, weight, rules): Arguments<'_>) -> Result<Problem> {
    let GivenRules { scale, softcap, bias, valid_vocab } = rules;
    let dtype = named_dtype("hidden", dtype)?;
    Ok(Problem {
        hidden: Matrix { dtype, tensor: tensor("hidden", hidden)? },
        weight: Matrix { dtype, tensor: tensor("weight", weight)? },
        rules: Rules {
            scale: scale as f32,
            softcap: softcap.map(|cap| cap as f32),
            bias: bias.map(|bias| tensor("bias", bias)).transpose()?,
            valid_vocab,
        },
        shard: None,
    })
}

fn draws(draws: DrawArrays<Array>) -> Result<Draws> {
    Ok(Draws {
        seed: tensor("seed", draws.seed)?,
        position: tensor("position", draws.position)?,
        stream: tensor("stream", draws.stream)?,
        temperature: tensor("temperature", draws.temperature)?,
    })
}

fn workspace(memory: &Memory, bytes: usize) -> Outcome<Workspace> {
    Ok(Workspace { pointer: memory.allocate(bytes)?, bytes })
}

/// Addresses of the fields of `farspan.Sample`, in order.
fn sample_out(out: [u64; 12]) -> SampleOut {
    let [token, logprob, raw_logprob, lse, flag, rank, logit, kept, kept_mass, entropy, top_token, top_logprob] = out;
    SampleOut { token, logprob, raw_logprob, lse, flag, rank, logit, kept, kept_mass, entropy, top_token, top_logprob }
}

/// One draw of each row from all of its distribution, or without `drawn` the most likely token. Nothing waits.
#[pyfunction]
#[pyo3(signature = (memory, arguments, drawn, out, /))]
pub(crate) fn cuda_sample(
    memory: &Bound<'_, PyAny>,
    arguments: Arguments<'_>,
    drawn: Option<DrawArrays<Array>>,
    out: [u64; 12],
) -> Outcome {
    guarded(|| {
        let (memory, problem) = (Memory::new(memory), problem(arguments)?);
        let (place, options, out) = (memory.place()?, Options::default(), sample_out(out));
        let bytes = unembed::sample_workspace(&problem, &options, &place.device().limits())?;
        let workspace = workspace(&memory, bytes)?;
        match drawn.map(draws).transpose()? {
            // SAFETY: Python's arrays have the extents that it said, on this device, and live until the work is done.
            Some(draws) => unsafe { unembed::sample(place.device(), &problem, &draws, &options, &out, workspace)? },
            // SAFETY: as above.
            None => unsafe { unembed::greedy(place.device(), &problem, &options, &out, workspace)? },
        }
        Ok(())
    })
}

/// A call with settings: the device reads, the host decides. `drawn` are on the device, `draws` and `out` on the host.
struct Decision<'a, 'py> {
    memory: &'a Memory<'py>,
    problem: &'a Problem,
    drawn: Draws,
    changes: Changes,
    samples: usize,
}

impl Decision<'_, '_> {
    /// What is found of all rows, or of some with every logit, of which `own` are the plans.
    fn read(&self, own: &[Plan], some: Option<&[usize]>) -> Outcome<(FoundLayout, PyBackedBytes)> {
        let place = self.memory.place()?;
        let wants = FoundWants::of(own, self.samples, some.is_some());
        let layout = FoundLayout::new(self.problem, own.len(), wants)?;
        let bytes = unembed::found_workspace(self.problem, own.len(), wants, &place.device().limits())?;
        let (workspace, out) = (workspace(self.memory, bytes)?, self.memory.allocate(layout.bytes())?);
        let rows = some.map(|rows| {
            let numbers: Vec<u8> = rows.iter().flat_map(|&row| (row as i32).to_le_bytes()).collect();
            self.memory.upload(&numbers).map(|pointer| farspan_cuda::Tensor::contiguous(pointer, [rows.len()]))
        });
        let rows = rows.transpose()?;
        // SAFETY: Python's arrays have the extents that it said, on this device, and live until the work is done.
        unsafe {
            unembed::found(
                place.device(),
                self.problem,
                rows.as_ref(),
                Some(&self.drawn),
                &self.changes,
                wants,
                out,
                workspace,
            )?;
        }
        let found = self.memory.download(out, layout.bytes())?;
        Ok((layout, found))
    }
}

/// Draws with settings: waits for the device, decides on the host, writes there. `drawn` are those of `draws` on the
/// device.
#[pyfunction]
#[pyo3(signature = (memory, arguments, drawn, draws, settings, out, /))]
pub(crate) fn cuda_decide<'py>(
    memory: &Bound<'py, PyAny>,
    arguments: Arguments<'_>,
    drawn: DrawArrays<Array>,
    draws: DrawArrays<Bound<'py, PyAny>>,
    settings: GivenArrays<'py>,
    out: SampleArrays<'py>,
) -> Outcome {
    guarded(|| {
        let (memory, problem) = (Memory::new(memory), problem(arguments)?);
        let (drawing, mut buffers) = (Drawing::new(&draws)?, SampleBuffers::new(&out)?);
        let (host, out) = (drawing.view()?, buffers.out()?);
        let owned = Owned::new(&settings)?;
        let settings = owned.view()?;
        let (rows, exist) = (problem.hidden.tensor.shape[0], exist(&problem));
        host.check(rows)?;
        let mut results = Results::new(out, rows, settings.samples, settings.top)?;
        let changes = upload_changes(&memory, &settings, &problem, exist)?;
        let plans = plans(Some(&host), Some(&settings), rows, exist);
        let samples = settings.samples;
        let decision = Decision { memory: &memory, problem: &problem, drawn: self::draws(drawn)?, changes, samples };
        let (layout, found) = decision.read(&plans, None)?;
        let undecided = decide(&mut results, &plans, &layout, &found)?;
        for rows in undecided.chunks((HELD / (8 * exist).max(1)).max(1)) {
            let own: Vec<Plan> = rows.iter().map(|&row| plans[row]).collect();
            let (layout, found) = decision.read(&own, Some(rows))?;
            for (&row, found) in rows.iter().zip(&layout.read(&found, &own)?) {
                results.whole_row(row, &plans[row], found);
            }
        }
        Ok(())
    })
}

/// Decides all rows from what was found of them, some at a time on each thread; gives those that are left undecided.
fn decide(results: &mut Results, plans: &[Plan], layout: &FoundLayout, found: &[u8]) -> Outcome<Vec<usize>> {
    let undecided = Mutex::new(Vec::new());
    for_each(results.parts(ROWS_AT_ONCE), |(first, mut part)| {
        for at in 0..part.rows() {
            let row = first + at;
            if part.row(at, &plans[row], &layout.row(found, row, &plans[row])).is_err() {
                undecided.lock().unwrap_or_else(PoisonError::into_inner).push(row);
            }
        }
    })?;
    let mut undecided = undecided.into_inner().unwrap_or_else(PoisonError::into_inner);
    undecided.sort_unstable();
    Ok(undecided)
}

/// How many tokens exist; a `valid_vocab` that does not fit is refused when the problem is checked.
fn exist(problem: &Problem) -> usize {
    problem.rules.valid_vocab.unwrap_or(problem.weight.tensor.shape[0])
}

fn upload_changes(memory: &Memory, settings: &Settings, problem: &Problem, exist: usize) -> Outcome<Changes> {
    let (rows, vocab) = (problem.hidden.tensor.shape[0], problem.weight.tensor.shape[0]);
    settings.check(rows, vocab, exist)?;
    let packed = PackedChanges::new(settings, rows);
    Ok(packed.at(memory.upload(packed.bytes())?))
}

/// Counts the ranks that a draw left open; `drawn` are the addresses of token, logit and rank.
#[pyfunction]
#[pyo3(signature = (memory, arguments, settings, drawn, /))]
pub(crate) fn cuda_rank<'py>(
    memory: &Bound<'py, PyAny>,
    arguments: Arguments<'_>,
    settings: Option<GivenArrays<'py>>,
    drawn: [u64; 3],
) -> Outcome {
    guarded(|| {
        let (memory, problem) = (Memory::new(memory), problem(arguments)?);
        let place = memory.place()?;
        let owned = settings.as_ref().map(Owned::new).transpose()?;
        let settings = owned.as_ref().map(Owned::view).transpose()?;
        let (samples, changes) = match &settings {
            Some(settings) => (settings.samples, upload_changes(&memory, settings, &problem, exist(&problem))?),
            None => (1, Changes::default()),
        };
        let bytes = unembed::rank_workspace(&problem, samples, &place.device().limits())?;
        let workspace = workspace(&memory, bytes)?;
        // SAFETY: Python's arrays have the extents that it said, on this device, and live until the work is done.
        unsafe { unembed::rank(place.device(), &problem, samples, &changes, drawn, workspace)? };
        Ok(())
    })
}

/// What the model says about one given token per row, and the `top` most likely ones. `out` are addresses.
#[pyfunction]
#[pyo3(signature = (memory, arguments, targets, top, out, /))]
pub(crate) fn cuda_score(
    memory: &Bound<'_, PyAny>,
    arguments: Arguments<'_>,
    targets: Array,
    top: usize,
    out: [u64; 6],
) -> Outcome {
    guarded(|| {
        let (memory, problem) = (Memory::new(memory), problem(arguments)?);
        let place = memory.place()?;
        let bytes = unembed::score_workspace(&problem, top, &place.device().limits())?;
        let workspace = workspace(&memory, bytes)?;
        let [logprob, rank, entropy, lse, top_token, top_logprob] = out;
        let out = ScoreOut { logprob, rank, entropy, lse, top_token, top_logprob };
        // SAFETY: Python's arrays have the extents that it said, on this device, and live until the work is done.
        unsafe { unembed::score(place.device(), &problem, &tensor("targets", targets)?, top, &out, workspace)? };
        Ok(())
    })
}

/// The k largest logits per row; `out` are the addresses of token, logit and LSE.
#[pyfunction]
#[pyo3(signature = (memory, arguments, k, out, /))]
pub(crate) fn cuda_top(memory: &Bound<'_, PyAny>, arguments: Arguments<'_>, k: usize, out: [u64; 3]) -> Outcome {
    guarded(|| {
        let (memory, problem) = (Memory::new(memory), problem(arguments)?);
        let place = memory.place()?;
        let bytes = unembed::top_workspace(&problem, k, &place.device().limits())?;
        let workspace = workspace(&memory, bytes)?;
        let [token, logit, lse] = out;
        // SAFETY: Python's arrays have the extents that it said, on this device, and live until the work is done.
        unsafe { unembed::top(place.device(), &problem, k, &TopOut { token, logit, lse }, workspace)? };
        Ok(())
    })
}
