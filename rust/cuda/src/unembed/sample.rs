//! `greedy` and `sample` where nothing is cut from the distribution: all of it happens on the device.

use super::changes::Changes;
use super::launch::{Call, ListAt};
use super::params::{MOMENTS, MergeParams, UnembedParams};
use super::plan::{Plan, Wants};
use super::problem::{Checked, Draws, Problem, draws_at};
use crate::device::{Device, Limits};
use crate::tensor::Workspace;
use farspan_core::sampler::check_top;
use farspan_core::{Error, Result};

/// Draws of each row, the list of the most likely tokens beside them, and what happens to single logits.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Sample i uses stream + i.
    pub samples: usize,
    /// How many of the most likely tokens are reported.
    pub top: usize,
    /// Biases, penalties, bans and masks.
    pub changes: Changes,
}

impl Default for Options {
    fn default() -> Self {
        Options { samples: 1, top: 0, changes: Changes::default() }
    }
}

/// Where draws are written, the fields of [`farspan_core::draw::SampleOut`] as addresses: contiguous, `[rows]`,
/// `[rows, samples]` or `[rows, top]`.
#[derive(Clone, Copy, Debug, Default)]
#[expect(missing_docs, reason = "documented at `farspan_core::draw::SampleOut`")]
pub struct SampleOut {
    pub token: u64,
    pub logprob: u64,
    pub raw_logprob: u64,
    pub lse: u64,
    pub flag: u64,
    pub rank: u64,
    pub logit: u64,
    pub kept: u64,
    pub kept_mass: u64,
    pub entropy: u64,
    pub top_token: u64,
    pub top_logprob: u64,
}

fn wants(options: &Options) -> Wants {
    Wants { samples: options.samples, list: options.top, ..Wants::default() }
}

fn check(problem: &Problem, draws: Option<&Draws>, options: &Options) -> Result<Checked> {
    let checked = Checked::new(problem)?;
    if let Some(draws) = draws {
        draws.check_rows(checked.rows)?;
    }
    check_top(options.top, checked.tokens.count)?;
    if options.samples == 0 {
        return Err(Error::argument("samples", "at least 1", 0));
    }
    Ok(checked)
}

/// Bytes of workspace that [`sample`] and [`greedy`] need.
pub fn sample_workspace(problem: &Problem, options: &Options, limits: &Limits) -> Result<usize> {
    let checked = check(problem, None, options)?;
    Ok(Plan::new(checked.dtype, checked.rows, &checked.tokens.range(), wants(options), limits).layout.bytes)
}

/// `argmax(l)`, ties to the lowest id.
///
/// # Safety
/// As [`sample`].
pub unsafe fn greedy(
    device: &dyn Device,
    problem: &Problem,
    options: &Options,
    out: &SampleOut,
    workspace: Workspace,
) -> Result<()> {
    choose(device, problem, None, options, out, workspace)
}

/// `argmax(l / temperature + noise)`, noise version 1, ties to the lowest id. Ranks of draws at a temperature above 0
/// are left [`farspan_core::draw::UNRANKED`], for [`super::rank`] to count.
///
/// # Safety
/// Every address is valid on the device, with the extent and strides given, until the launches have run.
pub unsafe fn sample(
    device: &dyn Device,
    problem: &Problem,
    draws: &Draws,
    options: &Options,
    out: &SampleOut,
    workspace: Workspace,
) -> Result<()> {
    choose(device, problem, Some(draws), options, out, workspace)
}

fn choose(
    device: &dyn Device,
    problem: &Problem,
    draws: Option<&Draws>,
    options: &Options,
    out: &SampleOut,
    workspace: Workspace,
) -> Result<()> {
    let checked = check(problem, draws, options)?;
    let call = Call::new(device, &checked, checked.rows, wants(options), workspace)?;
    let draws = draws.map(draws_at).unwrap_or_default();
    for group in call.groups() {
        let mut params = group.params(draws, options.changes.at);
        params = UnembedParams { bests: group.bests(), flags: params.flags | MOMENTS, ..params };
        if options.top > 0 {
            params = group.listing(params);
        }
        group.pass(&params)?;
        let drawn = |result: u64, bytes: usize| group.own(result, options.samples * bytes);
        group.merge(MergeParams {
            bests: group.bests(),
            temperature: draws.temperature,
            total: group.total(),
            token: drawn(out.token, 8),
            logprob: drawn(out.logprob, 4),
            raw_logprob: drawn(out.raw_logprob, 4),
            rank: drawn(out.rank, 8),
            logit: drawn(out.logit, 4),
            lse: group.own(out.lse, 4),
            flag: group.own(out.flag, 4),
            kept: group.own(out.kept, 8),
            kept_mass: group.own(out.kept_mass, 4),
            entropy: group.own(out.entropy, 4),
            samples: options.samples as i32,
            ..MergeParams::default()
        })?;
        let (token, value, total) = (out.top_token, out.top_logprob, group.total());
        let to = ListAt { token, value, total, logprobs: true, entries: 0 };
        group.list(&params, options.top, &to)?;
    }
    Ok(())
}
