//! `_core.cuda_greedy` and its siblings: the unembedding over memory of a device.

use super::device::{Array, Memory, tensor};
use crate::arrays::named_dtype;
use crate::failure::{Failure, Outcome, guarded};
use crate::settings::{Draws as DrawArrays, GivenArrays, Owned, Rules as GivenRules};
use crate::shard::Holder;
use crate::unembed::{Drawing, SampleArrays, SampleBuffers};
use farspan_core::Result;
use farspan_core::draw::{Plan, Read, Results, RowStatistics, Rows, Shards, decide, plans};
use farspan_core::sampler::Settings;
use farspan_core::unembed::Rules;
use farspan_cpu::threads::for_each;
use farspan_cuda::Workspace;
use farspan_cuda::unembed::{
    self, Changes, Draws, Matrix, Options, PackedChanges, Problem, SampleOut, ScoreOut, StatisticsLayout,
    StatisticsWants, TopOut,
};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;

/// dtype, hidden, weight and the rules.
type Arguments<'a> = (&'a str, Array, Array, GivenRules<Array>);

/// Bytes of every logit of some rows that are copied back at the same time.
const MOST_BYTES: usize = 64 << 20;
/// Rows that a thread decides before it asks for more: some tens of microseconds.
const ROWS_AT_ONCE: usize = 4;

fn problem((dtype, hidden, weight, rules): Arguments<'_>, shard: Option<&Holder>) -> Result<Problem> {
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
        let (memory, problem) = (Memory::new(memory), problem(arguments, None)?);
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

/// Reads rows on the device, for the host to decide.
struct Reader<'a, 'py> {
    memory: &'a Memory<'py>,
    problem: &'a Problem,
    plans: &'a [Plan],
    /// On the device, as the changes.
    draws: Draws,
    changes: Changes,
    samples: usize,
}

impl Reader<'_, '_> {
    /// Has rows with these plans read: all of the call, or those that `whole` names with every logit. What the device
    /// left is copied back.
    fn run(&self, plans: &[Plan], whole: Option<&[usize]>) -> Outcome<(StatisticsLayout, PyBackedBytes)> {
        let place = self.memory.place()?;
        let wants = StatisticsWants::of(plans, self.samples, whole.is_some());
        let layout = StatisticsLayout::new(self.problem, plans.len(), wants)?;
        let bytes = unembed::statistics_workspace(self.problem, plans.len(), wants, &place.device().limits())?;
        let (workspace, out) = (workspace(self.memory, bytes)?, self.memory.allocate(layout.bytes())?);
        let rows = whole.map(|rows| {
            let numbers: Vec<u8> = rows.iter().flat_map(|&row| (row as i32).to_le_bytes()).collect();
            self.memory.upload(&numbers).map(|pointer| farspan_cuda::Tensor::contiguous(pointer, [rows.len()]))
        });
        let rows = rows.transpose()?;
        // SAFETY: Python's arrays have the extents that it said, on this device, and live until the work is done.
        unsafe {
            unembed::statistics(
                place.device(),
                self.problem,
                rows.as_ref(),
                Some(&self.draws),
                &self.changes,
                wants,
                out,
                workspace,
            )?;
        }
        let bytes = self.memory.download(out, layout.bytes())?;
        Ok((layout, bytes))
    }
}

impl Read for Reader<'_, '_> {
    type Failure = Failure;

    fn read(&mut self, whole: Option<&[usize]>) -> Outcome<Vec<RowStatistics>> {
        let plans = match whole {
            Some(rows) => rows.iter().map(|&row| self.plans[row]).collect(),
            None => self.plans.to_vec(),
        };
        let (layout, bytes) = self.run(&plans, whole)?;
        Ok(layout.read(&bytes, &plans)?)
    }

    fn most_bytes(&self) -> usize {
        MOST_BYTES
    }

    fn read_and_decide(&mut self, mut rows: Rows<'_>) -> Outcome {
        let (layout, bytes) = self.run(self.plans, None)?;
        let (plans, bytes) = (self.plans, &*bytes);
        for_each(rows.parts(ROWS_AT_ONCE), |mut part| {
            for row in part.numbers() {
                part.decide(row, &layout.row(bytes, row, &plans[row]));
            }
        })?;
        Ok(())
    }
}

/// Draws that the host decides, of rows with settings and from shards: waits for the device, writes on the host.
/// `drawn` are those of `draws` on the device.
#[pyfunction]
#[pyo3(signature = (memory, arguments, drawn, draws, settings, shard, out, /))]
pub(crate) fn cuda_sample_on_host<'py>(
    memory: &Bound<'py, PyAny>,
    arguments: Arguments<'_>,
    drawn: DrawArrays<Array>,
    draws: DrawArrays<Bound<'py, PyAny>>,
    settings: Option<GivenArrays<'py>>,
    shard: Option<Holder>,
    out: SampleArrays<'py>,
) -> Outcome {
    guarded(|| {
        let (memory, problem) = (Memory::new(memory), problem(arguments, shard.as_ref())?);
        let (drawing, mut buffers) = (Drawing::new(&draws)?, SampleBuffers::new(&out)?);
        let owned = settings.as_ref().map(Owned::new).transpose()?;
        let settings = owned.as_ref().map(Owned::view).transpose()?;
        let (tokens, rows) = (problem.check()?, problem.hidden.tensor.shape[0]);
        let plans = plans(&tokens, rows, Some(&drawing.view()?), settings.as_ref())?;
        let (samples, top) = settings.map_or((1, 0), |settings| (settings.samples, settings.top));
        let mut results = Results::new(buffers.out()?, rows, samples, top)?;
        let mut reader = Reader {
            memory: &memory,
            problem: &problem,
            plans: &plans,
            draws: self::draws(drawn)?,
            changes: upload_changes(&memory, settings.as_ref(), rows)?,
            samples,
        };
        match &shard {
            None => decide(&mut reader, &plans, &mut results, tokens.valid_vocab),
            Some(shard) => {
                let mut gather = |own: Vec<u8>| shard.gather(&own);
                let mut shards = Shards::<_, Failure>::new(reader, &plans, samples, tokens, &mut gather);
                decide(&mut shards, &plans, &mut results, tokens.valid_vocab)
            }
        }
    })
}

/// What these settings, which fit, do to single logits.
fn upload_changes(memory: &Memory, settings: Option<&Settings>, rows: usize) -> Outcome<Changes> {
    let Some(settings) = settings else { return Ok(Changes::default()) };
    let packed = PackedChanges::new(settings, rows);
    Ok(packed.at(memory.upload(packed.bytes())?))
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
        let changes = upload_changes(&memory, settings.as_ref(), rows)?;
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
        let (memory, problem) = (Memory::new(memory), problem(arguments, None)?);
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
        let (memory, problem) = (Memory::new(memory), problem(arguments, None)?);
        let place = memory.place()?;
        let bytes = unembed::top_workspace(&problem, k, &place.device().limits())?;
        let workspace = workspace(&memory, bytes)?;
        let [token, logit, lse] = out;
        // SAFETY: Python's arrays have the extents that it said, on this device, and live until the work is done.
        unsafe { unembed::top(place.device(), &problem, k, &TopOut { token, logit, lse }, workspace)? };
        Ok(())
    })
}
