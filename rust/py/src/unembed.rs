//! `_core.linear`, `greedy`, `sample`, `score` and `top`: matrices of two dimensions, per-row settings of one.

use crate::arrays::{Large, integers, large, large_mut, named_dtype, readonly, readwrite};
use crate::failure::{Outcome, detached};
use crate::settings::{Draws as DrawArrays, GivenArrays, Owned, Rules as GivenRules};
use farspan_core::unembed::{Draws, Rules, Shard};
use farspan_core::{Error, Result};
use farspan_cpu::map;
use farspan_cpu::matrix::Matrix;
use farspan_cpu::unembed::{self, SampleOut, ScoreOut, TopOut};
use numpy::ndarray::{Ix1, Ix2};
use numpy::{PyReadonlyArray1, PyReadwriteArray1};
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

    pub(crate) fn parts(&self) -> Result<(Matrix<'_>, Matrix<'_>, Rules<'_>)> {
        let rules = Rules {
            scale: self.scale as f32,
            softcap: self.softcap.map(|cap| cap as f32),
            bias: self.bias.as_ref().map(|bias| slice("bias", bias)).transpose()?,
            valid_vocab: self.valid_vocab,
        };
        Ok((matrix(&self.hidden), matrix(&self.weight), rules))
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
    let ((hidden, weight, rules), out) = (problem.parts()?, buffers.out()?);
    detached(py, || unembed::greedy(hidden, weight, &rules, out))
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

    pub(crate) fn view(&self) -> Result<Draws<'_>> {
        let temperature = slice("temperature", &self.temperature)?;
        Ok(Draws { seed: &self.seed, position: &self.position, stream: &self.stream, temperature })
    }
}

/// Tokens drawn with noise version 1. `draws` are seed, position, stream (int64) and temperature (float32).
#[pyfunction]
#[pyo3(signature = (problem, draws, settings, out, /))]
pub(crate) fn sample<'py>(
    py: Python<'py>,
    problem: Arguments<'_, 'py>,
    draws: DrawArrays<Bound<'py, PyAny>>,
    settings: Option<GivenArrays<'py>>,
    out: SampleArrays<'py>,
) -> Outcome {
    let drawing = Drawing::new(&draws)?;
    let draws = drawing.view()?;
    let (problem, mut buffers) = (Problem::new(problem)?, SampleBuffers::new(&out)?);
    let ((hidden, weight, rules), out) = (problem.parts()?, buffers.out()?);
    let settings = settings.as_ref().map(Owned::new).transpose()?;
    let settings = settings.as_ref().map(Owned::view).transpose()?;
    detached(py, || unembed::sample(hidden, weight, &draws, settings.as_ref(), &rules, out))
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
    let (hidden, weight, rules) = problem.parts()?;
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
    detached(py, || unembed::score(hidden, weight, &targets, top, &rules, out))
}

/// The k largest logits per row; token and logit are `[rows * k]`.
#[pyfunction]
#[pyo3(signature = (problem, k, out, /))]
pub(crate) fn top<'py>(py: Python<'py>, problem: Arguments<'_, 'py>, k: usize, out: [Bound<'py, PyAny>; 3]) -> Outcome {
    let problem = Problem::new(problem)?;
    let (hidden, weight, rules) = problem.parts()?;
    let [token, logit, lse] = out;
    let (mut token, mut logit) = (readwrite("token", &token)?, readwrite("logit", &logit)?);
    let mut lse = readwrite("lse", &lse)?;
    let out = TopOut {
        token: slice_mut("token", &mut token)?,
        logit: slice_mut("logit", &mut logit)?,
        lse: slice_mut("lse", &mut lse)?,
    };
    detached(py, || unembed::top(hidden, weight, k, &rules, out))
}

fn matrix<'a>(array: &'a Large<'_, Ix2>) -> Matrix<'a> {
    map!(x in array => x.as_array())
}

fn optional_row<'py>(
    argument: &'static str,
    object: Option<&Bound<'py, PyAny>>,
) -> Result<Option<PyReadonlyArray1<'py, f32>>> {
    object.map(|object| readonly(argument, object)).transpose()
}

/// int64 numbers that fit 32 bits.
fn words(argument: &'static str, object: &Bound<'_, PyAny>) -> Result<Vec<u32>> {
    let narrow = |x: i64| u32::try_from(x).map_err(|_| Error::argument(argument, "0 to 2**32 - 1", x));
    integers(argument, object)?.into_iter().map(narrow).collect()
}

fn slice<'a, T: numpy::Element>(argument: &'static str, row: &'a PyReadonlyArray1<'_, T>) -> Result<&'a [T]> {
    row.as_slice().map_err(|_| Error::argument(argument, "contiguous numbers", "a strided array"))
}

fn slice_mut<'a, T: numpy::Element>(
    argument: &'static str,
    row: &'a mut PyReadwriteArray1<'_, T>,
) -> Result<&'a mut [T]> {
    row.as_slice_mut().map_err(|_| Error::argument(argument, "contiguous numbers", "a strided array"))
}

/// Counts the ranks that `sample` left open, in the part `(first, vocab)` of the vocabulary where one is given; `drawn`
/// are token and logit.
#[pyfunction]
#[pyo3(signature = (problem, settings, shard, drawn, rank, /))]
pub(crate) fn rank<'py>(
    py: Python<'py>,
    problem: Arguments<'_, 'py>,
    settings: Option<GivenArrays<'py>>,
    shard: Option<(usize, usize)>,
    drawn: [Bound<'py, PyAny>; 2],
    rank: &Bound<'py, PyAny>,
) -> Outcome {
    let problem = Problem::new(problem)?;
    let (hidden, weight, rules) = problem.parts()?;
    let settings = settings.as_ref().map(Owned::new).transpose()?;
    let settings = settings.as_ref().map(Owned::view).transpose()?;
    let token = integers("token", &drawn[0])?;
    let logit = readonly::<f32, Ix1>("logit", &drawn[1])?;
    let logit = slice("logit", &logit)?;
    let mut rank = readwrite::<i64, Ix1>("rank", rank)?;
    let rank = slice_mut("rank", &mut rank)?;
    let shard = shard.map(|(first, vocab)| Shard { first, vocab });
    detached(py, || unembed::rank(hidden, weight, settings.as_ref(), &rules, shard, &token, logit, rank))
}

/// How many rows this process has read a second time.
#[pyfunction]
pub(crate) fn second_passes() -> u64 {
    unembed::second_passes()
}
