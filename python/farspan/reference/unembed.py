"""Logits, and what is made of them: what `farspan.linear`, `greedy`, `sample`, `score` and `top` mean."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from farspan._results import FLAG_EMPTY, FLAG_NAN, Sample, Score, Top
from farspan.reference import sampler
from farspan.reference.noise import noise, unsigned


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The meaning of `farspan.linear`."""
    return torch.nn.functional.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


def logits(
    hidden: Tensor,
    weight: Tensor,
    *,
    scale: float = 1.0,
    softcap: float | None = None,
    bias: Tensor | None = None,
    valid_vocab: int | None = None,
) -> Tensor:
    """The logits l `[..., valid_vocab]` that the unembedding operations speak of, in float32 or wider."""
    wide = torch.promote_types(hidden.dtype, torch.float32)
    l = scale * (hidden.to(wide) @ weight[:valid_vocab].to(wide).T)
    if softcap is not None:
        l = softcap * torch.tanh(l / softcap)
    if bias is None:
        return l
    bias = bias[:valid_vocab].to(wide)
    return (l + bias).masked_fill(bias.isneginf(), -math.inf)  # banned, be the product NaN


def greedy(hidden: Tensor, weight: Tensor, **rules: Any) -> Sample:
    """The meaning of `farspan.greedy`."""
    return sample(hidden, weight, seed=0, position=0, temperature=0.0, **rules)


def sample(
    hidden: Tensor,
    weight: Tensor,
    *,
    seed: Any,
    position: Any,
    stream: Any = 0,
    temperature: Any = 1.0,
    scale: float = 1.0,
    softcap: float | None = None,
    bias: Tensor | None = None,
    valid_vocab: int | None = None,
    top: int = 0,
    samples: int = 1,
    **settings: Any,
) -> Sample:
    """The meaning of `farspan.sample`; `farspan.reference_sampler` says what the settings change and cut."""
    l = logits(hidden, weight, scale=scale, softcap=softcap, bias=bias, valid_vocab=valid_vocab)
    temperature = torch.as_tensor(temperature, device=l.device).to(l.dtype).expand(l.shape[:-1])[..., None]
    l = sampler.changed_rows(l, settings)
    draws = []
    for i in range(samples):
        key = (seed, position, unsigned(stream) + np.uint64(i) & np.uint64(2**32 - 1))
        kept = sampler.kept_rows(l, temperature, key, settings)
        g = torch.from_numpy(noise(*key, np.arange(l.shape[-1]))).to(l).expand_as(l)
        draws.append((*_draw(l, kept, temperature, g), kept))
    token, logprob, kept = (torch.stack(field, -1) for field in zip(*draws, strict=True))
    raw, ids = _log_softmax(l), torch.arange(l.shape[-1], device=l.device)
    chosen, at = l.gather(-1, token)[..., None, :], token[..., None, :]
    rank = ((l[..., None] > chosen) | ((l[..., None] == chosen) & (ids[:, None] < at))).sum(-2)
    share = torch.softmax(_tempered(l, temperature), -1).masked_fill(~kept[..., 0], 0).sum(-1)
    cold = temperature[..., 0] == 0
    flag = torch.where(l.isnan().any(-1), FLAG_NAN, torch.where(l.isneginf().all(-1), FLAG_EMPTY, 0)).int()
    fine = (flag == 0)[..., None]
    order = torch.sort(l, dim=-1, descending=True, stable=True).indices[..., :top]
    cold_and_fine = cold & (flag == 0)
    drawn = {
        "token": token.where(fine, -1),
        "logprob": logprob.where(~cold[..., None] | ~fine, 0).masked_fill((flag == FLAG_NAN)[..., None], math.nan),
        "raw_logprob": raw.gather(-1, token),
        "logit": l.gather(-1, token),
        "rank": rank.where(fine, -1),
    }
    if samples == 1:
        drawn = {name: x[..., 0] for name, x in drawn.items()}
    rank = drawn.pop("rank")
    return Sample(
        **drawn,
        lse=torch.logsumexp(l, -1),
        flag=flag,
        kept=torch.where(flag != 0, 0, torch.where(cold, 1, kept[..., 0].sum(-1))),
        kept_mass=torch.where(cold_and_fine, 1, share),
        entropy=-(raw.exp() * raw.masked_fill(raw.isneginf(), 0)).sum(-1),
        top_token=order if top else None,
        top_logprob=raw.gather(-1, order) if top else None,
        _count_ranks=lambda: rank,
    )


def _draw(l: Tensor, kept: Tensor, temperature: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """The token of the largest perturbed logit among those kept, and its log-probability among them."""
    warm = temperature > 0
    scaled = _tempered(l, temperature).masked_fill(~kept, -math.inf)
    token = torch.where(warm, scaled + g, l).argmax(-1, keepdim=True)  # the first of equals
    return token[..., 0], _log_softmax(scaled).gather(-1, token)[..., 0]


def _tempered(l: Tensor, temperature: Tensor) -> Tensor:
    """`l / temperature` but for a summand that all tokens of a row share: it would leave the noise no room."""
    largest = l.max(-1, keepdim=True).values
    return (l - largest.where(largest.isfinite(), 0)) / temperature.where(temperature > 0, 1)


def score(hidden: Tensor, weight: Tensor, targets: Tensor, top: int = 0, **rules: Any) -> Score:
    """The meaning of `farspan.score`."""
    l = logits(hidden, weight, **rules)
    target = torch.as_tensor(targets, device=l.device).long().expand(l.shape[:-1])[..., None]
    chosen, ids = l.gather(-1, target), torch.arange(l.shape[-1], device=l.device)
    rank = ((l > chosen) | ((l == chosen) & (ids < target))).sum(-1).masked_fill(l.isnan().any(-1), -1)
    logprobs = _log_softmax(l)
    entropy = -(logprobs.exp() * logprobs.masked_fill(logprobs.isneginf(), 0)).sum(-1)
    scored = Score(logprobs.gather(-1, target)[..., 0], rank, entropy, torch.logsumexp(l, -1))
    if not top:
        return scored
    logprob, token = (x[..., :top] for x in torch.sort(logprobs, dim=-1, descending=True, stable=True))
    token = token.masked_fill(l.isnan().any(-1, keepdim=True), -1)
    return scored._replace(top_token=token, top_logprob=logprob)


def top(hidden: Tensor, weight: Tensor, k: int, **rules: Any) -> Top:
    """The meaning of `farspan.top`."""
    l = logits(hidden, weight, **rules)
    logit, token = torch.sort(l, dim=-1, descending=True, stable=True)
    nan = l.isnan().any(-1, keepdim=True)
    return Top(token.masked_fill(nan, -1)[..., :k], logit.masked_fill(nan, math.nan)[..., :k], torch.logsumexp(l, -1))


def _log_softmax(l: Tensor) -> Tensor:
    """-inf where l is -inf, also in a row of nothing else; NaN all over a row with a NaN."""
    hopeless = l.isneginf() & ~l.isnan().any(-1, keepdim=True)
    return torch.log_softmax(l, -1).masked_fill(hopeless, -math.inf)
