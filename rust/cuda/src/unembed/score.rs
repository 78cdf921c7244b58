//! `score`, the ranks of drawn tokens, and `top`.

use super::changes::Changes;
use super::launch::{Call, ListAt};
use super::params::{ChangesAt, DrawsAt, MOMENTS, MergeParams, Setting, UnembedParams};
use super::plan::{Plan, Wants};
use super::problem::{Checked, Problem, setting};
use crate::device::{Device, Limits};
use crate::tensor::{Tensor, Workspace};
use farspan_core::sampler::check_top;
use farspan_core::unembed::{check_k, check_rows};
use farspan_core::{Error, Result};

/// Where [`score`] writes: addresses of `[rows]`, or of `[rows, top]`, contiguous.
#[derive(Clone, Copy, Debug, Default)]
pub struct ScoreOut {
    /// float32: the target's log-probability.
    pub logprob: u64,
    /// int64: how many tokens have a larger logit, or an equal one and a lower id; -1 in a row with NaN.
    pub rank: u64,
    /// float32: entropy of `softmax(l)` in nats.
    pub entropy: u64,
    /// float32: `log(sum(exp(l)))`.
    pub lse: u64,
    /// int64: the most likely tokens.
    pub top_token: u64,
    /// float32: their log-probabilities.
    pub top_logprob: u64,
}

fn scoring(problem: &Problem, top: usize) -> Result<(Checked, Wants)> {
    let checked = Checked::new(problem)?;
    check_top(top, checked.tokens.count)?;
    Ok((checked, Wants { list: top, target: true, before: true, ..Wants::default() }))
}

/// Bytes of workspace that [`score`] needs.
pub fn score_workspace(problem: &Problem, top: usize, limits: &Limits) -> Result<usize> {
    let (checked, wants) = scoring(problem, top)?;
    Ok(Plan::new(checked.dtype, checked.rows, &checked.tokens.range(), wants, limits).layout.bytes)
}

/// Log-probability, rank and entropy of given tokens, `targets [rows]` of int64, and the `top` most likely ones. A
/// target that is no token gets NaN and rank -1.
///
/// # Safety
/// Every address is valid on the device, with the extent and strides given, until the launches have run.
pub unsafe fn score(
    device: &dyn Device,
    problem: &Problem,
    targets: &Tensor<1>,
    top: usize,
    out: &ScoreOut,
    workspace: Workspace,
) -> Result<()> {
    let (checked, wants) = scoring(problem, top)?;
    check_rows("targets", checked.rows, targets.shape[0])?;
    let call = Call::new(device, &checked, checked.rows, wants, workspace)?;
    for group in call.groups() {
        let mut params = group.params(DrawsAt::default(), ChangesAt::default());
        params = group.ranking(params, setting(targets), group.target_logit());
        params.flags |= MOMENTS;
        if top > 0 {
            params = group.listing(params);
        }
        group.targets(&params)?;
        group.pass(&params)?;
        group.merge(MergeParams {
            before: group.before(),
            target_logit: group.target_logit(),
            total: group.total(),
            logprob: group.own(out.logprob, 4),
            rank: group.own(out.rank, 8),
            entropy: group.own(out.entropy, 4),
            lse: group.own(out.lse, 4),
            ..MergeParams::default()
        })?;
        let (token, value, total) = (out.top_token, out.top_logprob, group.total());
        let to = ListAt { token, value, total, logprobs: true, entries: 0 };
        group.list(&params, top, &to)?;
    }
    Ok(())
}

const RANKING: Wants = Wants { samples: 0, list: 0, target: false, before: true };

/// Bytes of workspace that [`rank`] needs for `samples` draws of each row.
pub fn rank_workspace(problem: &Problem, samples: usize, limits: &Limits) -> Result<usize> {
    let checked = Checked::new(problem)?;
    Ok(Plan::new(checked.dtype, checked.rows * samples, &checked.tokens.range(), RANKING, limits).layout.bytes)
}

/// Counts the ranks that a draw left [`farspan_core::draw::UNRANKED`]: addresses of `token`, `logit` and `rank`, each
/// `[rows, samples]`, as [`super::sample`] wrote them.
///
/// # Safety
/// As [`score`].
pub unsafe fn rank(
    device: &dyn Device,
    problem: &Problem,
    samples: usize,
    changes: &Changes,
    [token, logit, rank]: [u64; 3],
    workspace: Workspace,
) -> Result<()> {
    let checked = Checked::new(problem)?;
    if samples == 0 {
        return Err(Error::argument("samples", "at least 1", 0));
    }
    let call = Call::new(device, &checked, checked.rows * samples, RANKING, workspace)?;
    for group in call.groups() {
        let logit = group.own(logit, 4);
        let params = group.params(DrawsAt::default(), changes.at);
        let params = group.ranking(params, Setting { first: token, stride: 1 }, logit);
        group.pass(&UnembedParams { repeat: samples as i32, ..params })?;
        group.merge(MergeParams {
            before: group.before(),
            target_logit: logit,
            rank: group.own(rank, 8),
            only_unranked: 1,
            ..MergeParams::default()
        })?;
    }
    Ok(())
}

/// Where [`top`] writes: addresses of `[rows, k]`, contiguous, and of `[rows]`.
#[derive(Clone, Copy, Debug, Default)]
pub struct TopOut {
    /// int64; -1 in a row with NaN.
    pub token: u64,
    /// float32; NaN in a row with NaN.
    pub logit: u64,
    /// float32: `log(sum(exp(l)))`.
    pub lse: u64,
}

fn listing(problem: &Problem, k: usize) -> Result<(Checked, Wants)> {
    let checked = Checked::new(problem)?;
    check_k(k, checked.tokens.count)?;
    Ok((checked, Wants { list: k, ..Wants::default() }))
}

/// Bytes of workspace that [`top`] needs.
pub fn top_workspace(problem: &Problem, k: usize, limits: &Limits) -> Result<usize> {
    let (checked, wants) = listing(problem, k)?;
    Ok(Plan::new(checked.dtype, checked.rows, &checked.tokens.range(), wants, limits).layout.bytes)
}

/// The `k` largest logits in order, ties to the lowest id first, for any `k` up to the number of tokens. One reading of
/// the vocabulary serves 1024 of them, but for tiles that hold more than 16.
///
/// # Safety
/// As [`score`].
pub unsafe fn top(device: &dyn Device, problem: &Problem, k: usize, out: &TopOut, workspace: Workspace) -> Result<()> {
    let (checked, wants) = listing(problem, k)?;
    let call = Call::new(device, &checked, checked.rows, wants, workspace)?;
    for group in call.groups() {
        let mut params = group.params(DrawsAt::default(), ChangesAt::default());
        if k > 0 {
            params = group.listing(params);
        }
        group.pass(&params)?;
        let (total, lse) = (group.total(), group.own(out.lse, 4));
        group.merge(MergeParams { total, lse, ..MergeParams::default() })?;
        group.list(&params, k, &ListAt { token: out.token, value: out.logit, total, ..ListAt::default() })?;
    }
    Ok(())
}
