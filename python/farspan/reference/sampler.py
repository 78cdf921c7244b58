"""The definition of the sampler settings of `farspan.sample`: one row at a time, by sorting, in torch.

`changed` gives the logits after bias, penalties and bans; `kept` says which tokens the cuts leave.

Sources: the logits processors of Hugging Face transformers, vLLM's V1 sampler, SGLang's torch sampler and llama.cpp's
sampler chain; for the methods themselves top-k (Fan et al. 2018), top-p (Holtzman et al. 2019), typical (Meister et al.
2022), epsilon and eta (Hewitt et al. 2022), min-p (Nguyen et al. 2024), top-n-sigma (Tang et al. 2024), top-h (Baghaei
Potraghloo et al. 2025); XTC and DRY were published as code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from farspan.reference.noise import philox, unsigned


@dataclass(frozen=True)
class RowSettings:
    """The settings of one row; names and defaults of `farspan.sample`, lists already cut out for the row."""

    order: str = "hf"
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical: float = 1.0
    epsilon: float = 0.0
    eta: float = 0.0
    top_h: float = 1.0
    top_n_sigma: float = 0.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    min_keep: int = 1
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    no_repeat_ngram: int = 0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    history: Sequence[int] = ()
    prompt_length: int = 0
    logit_bias: Sequence[tuple[int, float]] = ()
    banned: Sequence[int] = ()
    allowed: Sequence[int] = ()
    mask: Sequence[int] | None = None


def _row_settings(settings: dict[str, Any], rows: int) -> list[RowSettings]:
    """The settings of a call, cut into rows."""
    out: list[dict[str, Any]] = [{} for _ in range(rows)]
    for name, value in settings.items():
        if value is None or name == "order":
            parts = [value] * rows
        elif name in ("history", "banned", "allowed", "logit_bias"):
            *columns, offsets = (torch.as_tensor(part).tolist() for part in value)
            lists = columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))
            parts = [lists[a:b] for a, b in pairwise(offsets)]
        elif name == "mask":
            parts = torch.as_tensor(value).tolist()
        else:
            parts = torch.as_tensor(value).reshape(-1).expand(rows).tolist()
        for row, part in zip(out, parts, strict=True):
            if part is not None:
                row["prompt_length" if name == "prompt_lengths" else name] = part
    return [RowSettings(**row) for row in out]


def changed_rows(l: Tensor, settings: dict[str, Any]) -> Tensor:
    """`changed` over logits `[..., vocab]`; settings as `farspan.sample` takes them."""
    if not settings:
        return l
    flat = l.reshape(-1, l.shape[-1])
    rows = [changed(row, s) for row, s in zip(flat, _row_settings(settings, len(flat)), strict=True)]
    return torch.stack(rows).reshape(l.shape) if rows else l


def kept_rows(l: Tensor, temperature: Tensor, key: tuple[Any, ...], settings: dict[str, Any]) -> Tensor:
    """`kept` over changed logits `[..., vocab]`; key is (seed, position, stream)."""
    if not settings:
        return l > -math.inf
    flat = l.reshape(-1, l.shape[-1])
    keys = (np.broadcast_to(np.ravel(unsigned(x)), (len(flat),)).tolist() for x in key)
    columns = (temperature.reshape(-1).expand(len(flat)).tolist(), *keys)
    rows = []
    for row, s, warm, seed, position, stream in zip(flat, _row_settings(settings, len(flat)), *columns, strict=True):
        cold = warm == 0 or bool(row.isnan().any())
        s = replace(s, temperature=warm)
        rows.append(row > -math.inf if cold else kept(row, s, seed=seed, position=position, stream=stream))
    return torch.stack(rows).reshape(l.shape) if rows else l > -math.inf


# ------------------------------------------------------------------------------------------- what changes single logits


def changed(l: Tensor, s: RowSettings) -> Tensor:
    """Logits `[vocab]` after logit_bias, repetition, frequency and presence, DRY, then everything that bans."""
    finite, l = l.isfinite(), l.clone()

    def change(token: int, changed: Tensor) -> None:  # what is beyond float32 is as large as it can be, and no ban
        l[token] = changed.clamp(-_LARGEST, _LARGEST) if finite[token] else changed

    for token, value in s.logit_bias:
        change(token, l[token] + value)
    for token in set(s.history):
        change(token, l[token] * s.repetition_penalty if l[token] < 0 else l[token] / s.repetition_penalty)
    drawn = list(s.history[s.prompt_length :])
    for token in set(drawn):
        change(token, l[token] - (drawn.count(token) * s.frequency_penalty + s.presence_penalty))
    if s.dry_multiplier:
        base = torch.tensor(s.dry_base, dtype=torch.float64)
        for token, length in _longest_matches(s.history).items():
            if length >= s.dry_allowed_length:
                change(token, l[token] - s.dry_multiplier * base ** (length - s.dry_allowed_length))
    l[_banned(len(l), s)] = -math.inf
    return l


_LARGEST = torch.finfo(torch.float32).max


def _banned(vocab: int, s: RowSettings) -> Tensor:
    gone = torch.zeros(vocab, dtype=torch.bool)
    gone[[*s.banned, *_ngram_completions(s.history, s.no_repeat_ngram)]] = True
    gone[[token for token, value in s.logit_bias if value == -math.inf]] = True
    if len(s.allowed):
        alone = torch.ones(vocab, dtype=torch.bool)
        alone[list(s.allowed)] = False
        gone |= alone
    if s.mask is not None:
        bits = [(int(word) >> bit) & 1 for word in s.mask for bit in range(32)]
        gone |= ~torch.tensor((bits + [0] * vocab)[:vocab], dtype=torch.bool)
    return gone


def _longest_matches(history: Sequence[int]) -> dict[int, int]:
    """Token -> the longest ending of the history that stands earlier in it, followed by the token."""
    longest: dict[int, int] = {}
    for place in range(1, len(history)):
        length = 0
        while length < place and history[place - 1 - length] == history[len(history) - 1 - length]:
            length += 1
        if length:
            longest[history[place]] = max(length, longest.get(history[place], 0))
    return longest


def _ngram_completions(history: Sequence[int], n: int) -> set[int]:
    """Tokens that would make the last n - 1 ones an n-gram that the history holds already."""
    if n == 0 or len(history) < n - 1:
        return set()
    start = list(history[len(history) - n + 1 :])
    return {history[i + n - 1] for i in range(len(history) - n + 1) if list(history[i : i + n - 1]) == start}


# ------------------------------------------------------------------------------------------------------------- the cuts
# Each takes the row x with -inf where a token is gone, and gives the row with more of it gone.

Cut = Callable[[Tensor], Tensor]


def _only(x: Tensor, ids: Tensor) -> Tensor:
    return torch.full_like(x, -math.inf).index_copy(0, ids, x[ids])


def _descending(x: Tensor) -> Tensor:
    """Ids of the tokens still there, the largest first, equal ones by id."""
    return torch.sort(x, descending=True, stable=True).indices[: int(x.isfinite().sum())]


def top_k(k: int, min_keep: int, ties: bool) -> Cut:
    """The k largest; with `ties` whatever equals the k-th, too."""

    def cut(x: Tensor) -> Tensor:
        ids = _descending(x)
        wanted = max(k, min_keep)
        if k == 0 or wanted >= len(ids):
            return x
        return x.masked_fill(x < x[ids[wanted - 1]], -math.inf) if ties else _only(x, ids[:wanted])

    return cut


def top_p(p: float, min_keep: int, border_stays: bool) -> Cut:
    """The largest while the mass before a token is below p (or equal to it, where the border stays)."""

    def cut(x: Tensor) -> Tensor:
        if p >= 1:
            return x
        ids = _descending(x)
        power = _powers(x)[ids]
        total = torch.cumsum(power, 0)
        before, limit = total.roll(1), p * total[-1]
        before[0] = 0
        inside = before <= limit if border_stays else before < limit
        return _only(x, ids[: max(int(inside.sum()), min_keep)])

    return cut


def min_p(ratio: float, min_keep: int) -> Cut:
    """What has at least `ratio` of the largest probability."""

    def cut(x: Tensor) -> Tensor:
        ids = _descending(x)
        inside = (x[ids] == x[ids[0]]) | ((x[ids] - x[ids[0]]).exp() >= ratio)
        return _only(x, ids[: max(int(inside.sum()), min_keep)])

    return cut


def typical(mass: float, min_keep: int, passed: bool) -> Cut:
    """The tokens whose surprise is nearest the entropy. `passed`: stop once the mass is passed, ties cut (llama.cpp);
    otherwise once it is reached, with whatever is as near as the last one (Hugging Face)."""

    def cut(x: Tensor) -> Tensor:
        if mass >= 1:
            return x
        log_p = torch.log_softmax(x, 0)
        away = (-log_p - _entropy(log_p)).abs()
        ids = torch.sort(away, stable=True).indices[: int(x.isfinite().sum())]
        total = torch.cumsum(_powers(x)[ids], 0)
        limit = mass * total[-1]
        if passed:
            enough = (total > limit) & (torch.arange(len(ids)) + 1 >= min_keep)
            return _only(x, ids[: int(enough.nonzero()[0]) + 1] if enough.any() else ids)
        last = away[ids[min(int((total < limit).sum()), len(ids) - 1)]]
        return _only(x, ids[: max(int((away[ids] <= last).sum()), min_keep)])

    return cut


def epsilon(limit: float, min_keep: int) -> Cut:
    """Probabilities from `limit` on."""
    return lambda x: x if limit <= 0 else _floor(x, limit, min_keep)


def eta(limit: float, min_keep: int) -> Cut:
    """Probabilities from `min(eta, sqrt(eta) exp(-entropy))` on."""

    def cut(x: Tensor) -> Tensor:
        if limit <= 0:
            return x
        spread = math.sqrt(limit) * math.exp(-float(_entropy(torch.log_softmax(x, 0))))
        return _floor(x, min(limit, spread), min_keep)

    return cut


def _floor(x: Tensor, limit: float, min_keep: int) -> Tensor:
    ids = _descending(x)
    least = x[ids[min(min_keep, len(ids)) - 1]]
    power = _powers(x)
    return x.masked_fill((power < limit * power.sum()) & (x < least), -math.inf)


def top_h(share: float) -> Cut:
    """The largest while their part of the entropy of the hundred largest is at most `share` of it; at least one."""

    def cut(x: Tensor) -> Tensor:
        if share >= 1:
            return x
        ids = _descending(x)[:100]
        log_p = torch.log_softmax(x[ids], 0)
        part = torch.cumsum(-log_p.exp() * log_p, 0)
        return _only(x, ids[: max(int((part <= share * _entropy(log_p)).sum()), 1)])

    return cut


def top_n_sigma(n: float) -> Cut:
    """Logits within n population standard deviations of the largest."""

    def cut(x: Tensor) -> Tensor:
        there = x[x.isfinite()]
        if n <= 0 or len(there) < 2:
            return x
        return x.masked_fill(x < there.max() - n * there.std(correction=0), -math.inf)

    return cut


def xtc(applies: bool, threshold: float, min_keep: int) -> Cut:
    """Drops all but the least of the tokens of at least `threshold`."""

    def cut(x: Tensor) -> Tensor:
        ids = _descending(x)
        power = _powers(x)
        above = int((power[ids] >= threshold * power.sum()).sum())
        if not applies or threshold > 0.5 or above < 2 or len(ids) - (above - 1) < min_keep:
            return x
        return _only(x, ids[above - 1 :])

    return cut


def _powers(x: Tensor) -> Tensor:
    """The probabilities before they are divided by their sum: those of equal logits add up exactly."""
    return (x - x.max()).exp()


def _entropy(log_p: Tensor) -> Tensor:
    return -(log_p.exp() * log_p.masked_fill(log_p.isneginf(), 0)).sum()


def kept(l: Tensor, s: RowSettings, *, seed: int = 0, position: int = 0, stream: int = 0) -> Tensor:
    """Which tokens of the changed logits `[vocab]` the cuts leave, in the order of the system that `s.order` names."""
    if not l.isfinite().any():
        return l.isfinite()
    keep = s.min_keep if s.order in ("hf", "llamacpp") else 1
    ties = s.order in ("hf", "vllm")
    cuts: dict[str, Cut] = {
        "top_h": top_h(s.top_h),
        "top_k": top_k(s.top_k, keep, ties),
        "top_p": top_p(s.top_p, keep, s.order == "sglang"),
        "min_p": min_p(s.min_p, keep),
        "typical": typical(s.typical, keep, s.order == "llamacpp"),
        "epsilon": epsilon(s.epsilon, keep),
        "eta": eta(s.eta, keep),
        "top_n_sigma": top_n_sigma(s.top_n_sigma),
        "xtc": xtc(xtc_applies(s.xtc_probability, seed, position, stream), s.xtc_threshold, keep),
    }
    chains = {
        "hf": ["top_h", "top_k", "top_p", "min_p", "typical", "epsilon", "eta"],
        "vllm": ["min_p", "top_k", "top_p"],
        "sglang": ["top_k", "top_p", "min_p"],
        "llamacpp": ["top_n_sigma", "top_k", "typical", "top_p", "min_p", "xtc"],
    }
    chain = chains[s.order]
    x = l.double() if s.order == "llamacpp" else l.double() / s.temperature  # llama.cpp's temperature comes last
    if s.order == "sglang":  # judged on one distribution
        alone = torch.stack([cuts[name](x).isfinite() for name in chain])
        x = x.masked_fill(~alone.all(0), -math.inf)
    else:
        for name in chain:
            x = cuts[name](x)
    for name in ("top_h", "typical", "epsilon", "eta", "top_n_sigma", "xtc"):  # foreign to the system: behind its chain
        if name not in chain:
            x = cuts[name](x)
    return x.isfinite()


def xtc_applies(probability: float, seed: int, position: int, stream: int) -> bool:
    """The coin of XTC: the first word of Philox in domain 1."""
    word = philox((0, position, stream, 1), (seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF))[0]
    return (int(word) + 0.5) / 2**32 < probability
