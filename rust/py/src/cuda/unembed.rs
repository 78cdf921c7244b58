//! `_core.cuda_greedy` and its siblings: the unembedding over memory of a device.

use super::device::{Array, Memory, PerRow, tensor};
use crate::arrays::named_dtype;
use crate::failure::{Failure, Outcome, guarded};
use crate::settings::{Draws as DrawArrays, GivenArrays, Owned, Rules as GivenRules};
use crate::shard::Holder;
use crate::unembed::{Drawing, SampleArrays, SampleBuffers};
use farspan_core::Result;
use farspan_core::draw::{Gather, Rows};
use farspan_core::unembed::Rules;
use farspan_cpu::threads::for_each;
use farspan_cuda::Memory as _;
use farspan_cuda::unembed::{self, Changes, Draws, Matrix, Options, Place, Problem, SampleOut, ScoreOut, TopOut};
use pyo3::prelude::*;

/// dtype, hidden, weight and the rules.
pub(super) type Arguments<'a> = (&'a str, Array, Array, GivenRules<Array>);

pub(super) fn problem((dtype, hidden, weight, rules): Arguments<'_>, shard: Option<&Holder>) -> Result<Problem> {
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
        shard: shard.map(Holder::shard),
    })
}

fn draws(draws: DrawArrays<PerRow>) -> Result<Draws> {
    Ok(Draws {
        seed: draws.seed.read("seed")?,
        position: draws.position.read("position")?,
        stream: draws.stream.read("stream")?,
        temperature: draws.temperature.read("temperature")?,
    })
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
    drawn: Option<DrawArrays<PerRow>>,
    out: [u64; 12],
) -> Outcome {
    guarded(|| {
        let (memory, problem) = (Memory::new(memory), problem(arguments, None)?);
        let (place, options, out) = (memory.place()?, Options::default(), sample_out(out));
        let bytes = unembed::sample_workspace(&problem, &options, &place.device().limits())?;
        let workspace = memory.workspace(bytes)?;
        match drawn.map(draws).transpose()? {
            // SAFETY: Python's arrays have the extents that it said, on this device, and live until the work is done.
            Some(draws) => unsafe { unembed::sample(place.device(), &problem, &draws, &options, &out, workspace)? },
            // SAFETY: as above.
            None => unsafe { unembed::greedy(place.device(), &problem, &options, &out, workspace)? },
        }
        Ok(())
    })
}

/// The threads of the CPU backend.
fn on_threads<'r>(parts: Vec<Rows<'r>>, work: &(dyn Fn(Rows<'r>) + Sync)) -> Result<()> {
    for_each(parts, work)
}

/// Draws that the host decides, of rows with settings and from shards: waits for the device, writes on the host.
/// `drawn` are those of `draws` on the device.
#[pyfunction]
#[pyo3(signature = (memory, arguments, drawn, draws, settings, shard, out, /))]
pub(crate) fn cuda_sample_on_host<'py>(
    memory: &Bound<'py, PyAny>,
    arguments: Arguments<'_>,
    drawn: DrawArrays<PerRow>,
    draws: DrawArrays<Bound<'py, PyAny>>,
    settings: Option<GivenArrays<'py>>,
    shard: Option<Holder>,
    out: SampleArrays<'py>,
) -> Outcome {
    guarded(|| {
        let (memory, problem) = (Memory::new(memory), problem(arguments, shard.as_ref())?);
        let place = memory.place()?;
        let place = Place { device: place.device(), memory: &memory, threads: on_threads };
        let (drawing, mut buffers) = (Drawing::new(&draws)?, SampleBuffers::new(&out)?);
        let owned = settings.as_ref().map(Owned::new).transpose()?;
        let settings = owned.as_ref().map(Owned::view).transpose()?;
        let draws = (&drawing.view()?, &self::draws(drawn)?);
        let mut send = shard.as_ref().map(|shard| |own: Vec<u8>| shard.gather(&own));
        let gather = send.as_mut().map(|send| send as &mut Gather<'_, Failure>);
        // SAFETY: Python's arrays have the extents that it said, on this device, and live until the work is done.
        unsafe { unembed::sample_on_host(place, &problem, draws, settings.as_ref(), gather, buffers.out()?) }
    })
}

/// Counts the ranks that a draw left open, in the part of the vocabulary alone where one is given; `drawn` are the
/// addresses of token, logit and rank.
#[pyfunction]
#[pyo3(signature = (memory, arguments, settings, shard, drawn, /))]
pub(crate) fn cuda_rank<'py>(
    memory: &Bound<'py, PyAny>,
    arguments: Arguments<'_>,
    settings: Option<GivenArrays<'py>>,
    shard: Option<Holder>,
    drawn: [u64; 3],
) -> Outcome {
    guarded(|| {
        let (memory, problem) = (Memory::new(memory), problem(arguments, shard.as_ref())?);
        let place = memory.place()?;
        let owned = settings.as_ref().map(Owned::new).transpose()?;
        let settings = owned.as_ref().map(Owned::view).transpose()?;
        let (tokens, rows) = (problem.check()?, problem.hidden.tensor.shape[0]);
        if let Some(settings) = &settings {
            settings.check(rows, tokens.vocab, tokens.valid_vocab)?;
        }
        let samples = settings.map_or(1, |settings| settings.samples);
        let changes = Changes::upload(&memory, settings.as_ref(), rows)?;
        let bytes = unembed::rank_workspace(&problem, samples, &place.device().limits())?;
        let workspace = memory.workspace(bytes)?;
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
        let (memory, problem) = (Memory::new(memory), problem(arguments, None)?);
        let place = memory.place()?;
        let bytes = unembed::score_workspace(&problem, top, &place.device().limits())?;
        let workspace = memory.workspace(bytes)?;
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
        let (memory, problem) = (Memory::new(memory), problem(arguments, None)?);
        let place = memory.place()?;
        let bytes = unembed::top_workspace(&problem, k, &place.device().limits())?;
        let workspace = memory.workspace(bytes)?;
        let [token, logit, lse] = out;
        // SAFETY: Python's arrays have the extents that it said, on this device, and live until the work is done.
        unsafe { unembed::top(place.device(), &problem, k, &TopOut { token, logit, lse }, workspace)? };
        Ok(())
    })
}
