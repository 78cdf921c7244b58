//! `_core.greedy`, `sample`, `score` and `top`: matrices of two dimensions, per-row settings of one.

use crate::arrays::{Large, integers, large, matrix, named_dtype, optional_row, readonly, readwrite, slice, slice_mut};
use crate::failure::{Outcome, detached, guarded};
use crate::settings::{Draws as DrawArrays, GivenArrays, Owned, Rules as GivenRules};
use crate::shard::Holder;
use farspan_core::unembed::{Draws, HostDraws, Rules};
use farspan_core::{Error, Result};
use farspan_cpu::unembed::{self, SampleOut, ScoreOut, TopOut};
use numpy::ndarray::{Ix1, Ix2};
use numpy::{PyReadonlyArray1, PyReadwriteArray1};
use pyo3::prelude::*;

/// Arguments that every unembedding operation has.
pub(crate) struct Problem<'py> {
    hidden: Large<'py, Ix2>,
    weight: Large<'py, Ix2>,
    bias: Option<PyReadonlyArray1<'py, f32>>,
    scale: f64,
    softcap: Option<f64>,
    valid_vocab: Option<usize>,
}

/// The Python arguments of a [`Problem`]: dtype, hidden, weight and the rules.
pub(crate) type Arguments<'a, 'py> = (&'a str, Bound<'py, PyAny>, Bound<'py, PyAny>, GivenRules<Bound<'py, PyAny>>);

impl<'py> Problem<'py> {
    pub(crate) fn new((dtype, hidden, weight, rules): Arguments<'_, 'py>) -> Result<Self> {
        let GivenRules { scale, softcap, bias, valid_vocab } = rules;
        let dtype = named_dtype("hidden", dtype)?;
        Ok(Problem {
            hidden: large("hidden", dtype, &hidden)?,
            weight: large("weight", dtype, &weight)?,
            bias: optional_row("bias", bias.as_ref())?,
            scale,
            softcap,
            valid_vocab,
        })
    }

    /// The problem, as the backend takes it; `shard` says that the weight is a part of the vocabulary.
    pub(crate) fn view(&self, shard: Option<&Holder>) -> Result<unembed::Problem<'_>> {
        Ok(unembed::Problem {
            hidden: matrix(&self.hidden),
            weight: matrix(&self.weight),
            rules: Rules {
                scale: self.scale as f32,
                softcap: self.softcap.map(|cap| cap as f32),
                bias: self.bias.as_ref().map(|bias| slice("bias", bias)).transpose()?,
                valid_vocab: self.valid_vocab,
            },
            shard: shard.map(Holder::shard),
        })
    }
}

/// The outputs of [`greedy`] and [`sample`] in the order of `farspan.Sample`.
pub(crate) type SampleArrays<'py> = [Bound<'py, PyAny>; 12];

/// Borrowed for writing.
pub(crate) struct SampleBuffers<'py> {
    token: PyReadwriteArray1<'py, i64>,
    logprob: PyReadwriteArray1<'py, f32>,
    raw_logprob: PyReadwriteArray1<'py, f32>,
    lse: PyReadwriteArray1<'py, f32>,
    flag: PyReadwriteArray1<'py, i32>,
    rank: PyReadwriteArray1<'py, i64>,
    logit: PyReadwriteArray1<'py, f32>,
    kept: PyReadwriteArray1<'py, i64>,
    kept_mass: PyReadwriteArray1<'py, f32>,
    entropy: PyReadwriteArray1<'py, f32>,
    top_token: PyReadwriteArray1<'py, i64>,
    top_logprob: PyReadwriteArray1<'py, f32>,
}

impl<'py> SampleBuffers<'py> {
    pub(crate) fn new(arrays: &SampleArrays<'py>) -> Result<Self> {
        let [token, logprob, raw_logprob, lse, flag, rank, logit, kept, kept_mass, entropy, top_token, top_logprob] =
            arrays;
        Ok(SampleBuffers {
            token: readwrite("token", token)?,
            logprob: readwrite("logprob", logprob)?,
            raw_logprob: readwrite("raw_logprob", raw_logprob)?,
            lse: readwrite("lse", lse)?,
            flag: readwrite("flag", flag)?,
            rank: readwrite("rank", rank)?,
            logit: readwrite("logit", logit)?,
            kept: readwrite("kept", kept)?,
            kept_mass: readwrite("kept_mass", kept_mass)?,
            entropy: readwrite("entropy", entropy)?,
            top_token: readwrite("top_token", top_token)?,
            top_logprob: readwrite("top_logprob", top_logprob)?,
        })
    }

    pub(crate) fn out(&mut self) -> Result<SampleOut<'_>> {
        Ok(SampleOut {
            token: slice_mut("token", &mut self.token)?,
            logprob: slice_mut("logprob", &mut self.logprob)?,
            raw_logprob: slice_mut("raw_logprob", &mut self.raw_logprob)?,
            lse: slice_mut("lse", &mut self.lse)?,
            flag: slice_mut("flag", &mut self.flag)?,
            rank: slice_mut("rank", &mut self.rank)?,
            logit: slice_mut("logit", &mut self.logit)?,
            kept: slice_mut("kept", &mut self.kept)?,
            kept_mass: slice_mut("kept_mass", &mut self.kept_mass)?,
            entropy: slice_mut("entropy", &mut self.entropy)?,
            top_token: slice_mut("top_token", &mut self.top_token)?,
            top_logprob: slice_mut("top_logprob", &mut self.top_logprob)?,
        })
    }
}

/// The token of the largest logit, per row.
#[pyfunction]
#[pyo3(signature = (problem, out, /))]
pub(crate) fn greedy<'py>(py: Python<'py>, problem: Arguments<'_, 'py>, out: SampleArrays<'py>) -> Outcome {
    let (problem, mut buffers) = (Problem::new(problem)?, SampleBuffers::new(&out)?);
    let (problem, out) = (problem.view(None)?, buffers.out()?);
    detached(py, || unembed::greedy(&problem, out))
}

/// Seeds, positions, streams and temperatures, borrowed or widened.
pub(crate) struct Drawing<'py> {
    seed: Vec<u64>,
    position: Vec<u32>,
    stream: Vec<u32>,
    temperature: PyReadonlyArray1<'py, f32>,
}

impl<'py> Drawing<'py> {
    pub(crate) fn new(draws: &DrawArrays<Bound<'py, PyAny>>) -> Result<Self> {
        Ok(Drawing {
            seed: integers("seed", &draws.seed)?.into_iter().map(i64::cast_unsigned).collect(),
            position: words("position", &draws.position)?,
            stream: words("stream", &draws.stream)?,
            temperature: readonly::<f32, Ix1>("temperature", &draws.temperature)?,
        })
    }

    pub(crate) fn view(&self) -> Result<HostDraws<'_>> {
        let temperature = slice("temperature", &self.temperature)?;
        Ok(Draws { seed: &self.seed, position: &self.position, stream: &self.stream, temperature })
    }
}

/// Tokens drawn with noise version 1, the same in every process where each has a `shard` of the vocabulary.
#[pyfunction]
#[pyo3(signature = (problem, draws, settings, shard, out, /))]
pub(crate) fn sample<'py>(
    py: Python<'py>,
    problem: Arguments<'_, 'py>,
    draws: DrawArrays<Bound<'py, PyAny>>,
    settings: Option<GivenArrays<'py>>,
    shard: Option<Holder>,
    out: SampleArrays<'py>,
) -> Outcome {
    let drawing = Drawing::new(&draws)?;
    let draws = drawing.view()?;
    let (problem, mut buffers) = (Problem::new(problem)?, SampleBuffers::new(&out)?);
    let (problem, out) = (problem.view(shard.as_ref())?, buffers.out()?);
    let settings = settings.as_ref().map(Owned::new).transpose()?;
    let settings = settings.as_ref().map(Owned::view).transpose()?;
    guarded(|| {
        py.detach(|| match &shard {
            None => Ok(unembed::sample(&problem, &draws, settings.as_ref(), out)?),
            Some(shard) => {
                unembed::sample_of_shard(&problem, &draws, settings.as_ref(), &mut |own| shard.gather(&own), out)
            }
        })
    })
}

/// What the model says about one given token per row, and the `top` most likely ones.
#[pyfunction]
#[pyo3(signature = (problem, targets, top, out, /))]
pub(crate) fn score<'py>(
    py: Python<'py>,
    problem: Arguments<'_, 'py>,
    targets: Bound<'py, PyAny>,
    top: usize,
    out: [Bound<'py, PyAny>; 6],
) -> Outcome {
    let targets = integers("targets", &targets)?;
    let problem = Problem::new(problem)?;
    let problem = problem.view(None)?;
    let [logprob, rank, entropy, lse, top_token, top_logprob] = out;
    let (mut logprob, mut rank) = (readwrite("logprob", &logprob)?, readwrite("rank", &rank)?);
    let (mut entropy, mut lse) = (readwrite("entropy", &entropy)?, readwrite("lse", &lse)?);
    let mut top_token = readwrite("top_token", &top_token)?;
    let mut top_logprob = readwrite("top_logprob", &top_logprob)?;
    let out = ScoreOut {
        logprob: slice_mut("logprob", &mut logprob)?,
        rank: slice_mut("rank", &mut rank)?,
        entropy: slice_mut("entropy", &mut entropy)?,
        lse: slice_mut("lse", &mut lse)?,
        top_token: slice_mut("top_token", &mut top_token)?,
        top_logprob: slice_mut("top_logprob", &mut top_logprob)?,
    };
    detached(py, || unembed::score(&problem, &targets, top, out))
}

/// The k largest logits per row; token and logit are `[rows * k]`.
#[pyfunction]
#[pyo3(signature = (problem, k, out, /))]
pub(crate) fn top<'py>(py: Python<'py>, problem: Arguments<'_, 'py>, k: usize, out: [Bound<'py, PyAny>; 3]) -> Outcome {
    let problem = Problem::new(problem)?;
    let problem = problem.view(None)?;
    let [token, logit, lse] = out;
    let (mut token, mut logit) = (readwrite("token", &token)?, readwrite("logit", &logit)?);
    let mut lse = readwrite("lse", &lse)?;
    let out = TopOut {
        token: slice_mut("token", &mut token)?,
        logit: slice_mut("logit", &mut logit)?,
        lse: slice_mut("lse", &mut lse)?,
    };
    detached(py, || unembed::top(&problem, k, out))
}

/// int64 numbers that fit 32 bits.
fn words(argument: &'static str, object: &Bound<'_, PyAny>) -> Result<Vec<u32>> {
    let narrow = |x: i64| u32::try_from(x).map_err(|_| Error::argument(argument, "0 to 2**32 - 1", x));
    integers(argument, object)?.into_iter().map(narrow).collect()
}

/// Counts the ranks that `sample` left open, in the part of the vocabulary alone where one is given; `drawn` are token
/// and logit.
#[pyfunction]
#[pyo3(signature = (problem, settings, shard, drawn, rank, /))]
pub(crate) fn rank<'py>(
    py: Python<'py>,
    problem: Arguments<'_, 'py>,
    settings: Option<GivenArrays<'py>>,
    shard: Option<Holder>,
    drawn: [Bound<'py, PyAny>; 2],
    rank: &Bound<'py, PyAny>,
) -> Outcome {
    let problem = Problem::new(problem)?;
    let problem = problem.view(shard.as_ref())?;
    let settings = settings.as_ref().map(Owned::new).transpose()?;
    let settings = settings.as_ref().map(Owned::view).transpose()?;
    let token = integers("token", &drawn[0])?;
    let logit = readonly::<f32, Ix1>("logit", &drawn[1])?;
    let logit = slice("logit", &logit)?;
    let mut rank = readwrite::<i64, Ix1>("rank", rank)?;
    let rank = slice_mut("rank", &mut rank)?;
    detached(py, || unembed::rank(&problem, settings.as_ref(), &token, logit, rank))
}

/// How many rows this process has read a second time.
#[pyfunction]
pub(crate) fn second_passes() -> u64 {
    unembed::second_passes()
}
