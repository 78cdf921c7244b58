"""`farspan info --check`: every operation once in each of its shapes, compared with its definition in float64.

On a GPU the cases reach every kernel that it uses: each element type and width, few rows and many, scores with hooks
and without, chunks that blocks share. Without one the same cases check the operations of the CPU.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

import farspan
from farspan import _core, reference
from farspan._backend.arrays import FLOATS, name_of
from farspan._backend.compiler import cuda_status, open_compiler
from farspan.testing import allowed_error

DTYPES = tuple(getattr(torch, name) for name in FLOATS)
WIDTHS = (64, 128, 256)
QUERIES = (1, 37)
"""Decode, whose blocks are one warp, and prefill, whose blocks are four."""
KEYS = 300
"""Five chunks, which several blocks share."""
ROWS = (1, 9, 70)
"""The unembedding has a kernel for each."""
VOCAB, DIM, TEMPERATURE = 1001, 72, 0.8


@dataclass(frozen=True)
class Outcome:
    """One comparison: how far a result is off, and how far it may be."""

    case: str
    error: float
    allowed: float

    @property
    def ok(self) -> bool:
        return self.error <= self.allowed


def check_everything() -> dict[str, Any]:
    """What `check` says of the CPU and of each GPU; "cuda" is why there is none, or None."""
    found: dict[str, Any] = {"cuda": reason(), "devices": {"cpu": summary(check("cpu"))}}
    if found["cuda"] is None:
        open_compiler()
        for device in cuda_status()["devices"]:
            _core.cuda_warm(device["architecture"], os.cpu_count() or 1)  # side by side, not one at each first call
            found["devices"][f"cuda:{device['ordinal']}"] = summary(check(f"cuda:{device['ordinal']}"))
    return found


def reason() -> str | None:
    """Why no GPU is checked."""
    why: str | None = cuda_status()["reason"]
    return why or (None if torch.cuda.is_available() else f"torch {torch.__version__} finds no GPU")


def summary(outcomes: Iterator[Outcome]) -> dict[str, Any]:
    done = list(outcomes)
    return {
        "comparisons": len(done),
        "largest_share_of_allowed": max(outcome.error / outcome.allowed for outcome in done),
        "wrong": [f"{x.case}: off by {x.error:.3g}, allowed {x.allowed:.3g}" for x in done if not x.ok],
    }


def check(device: str) -> Iterator[Outcome]:
    """Every comparison on a device."""
    for dtype in DTYPES:
        for width, queries, hooks in itertools.product(WIDTHS, QUERIES, (False, True)):
            yield from _attention(device, dtype, width, queries, hooks)
        for width, hooks in itertools.product(WIDTHS, (False, True)):
            yield from _attention_gradients(device, dtype, width, hooks)
        for rows in ROWS:
            yield from _unembedding(device, dtype, rows)
            yield from _losses(device, dtype, rows)
        yield from _linear(device, dtype)


def _normal(*shape: int, dtype: torch.dtype, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def _compared(case: str, found: Tensor, truth: Tensor, allowed: float) -> Outcome:
    off = (found.detach().cpu().double() - truth.double()).abs()
    return Outcome(case, float(off.nan_to_num(math.inf).max()), allowed)


def _attention(device: str, dtype: torch.dtype, width: int, queries: int, hooks: bool) -> Iterator[Outcome]:
    query = _normal(1, 4, queries, width, dtype=dtype, seed=1)
    key, value = (_normal(1, 2, KEYS, width, dtype=dtype, seed=seed) for seed in (2, 3))
    given: dict[str, Any] = {"causal": True}
    if hooks:
        turns = torch.logspace(0, -3, width // 4)
        given |= {"softcap": 9.0, "sink": torch.zeros(4), "key_bias": _normal(KEYS, dtype=torch.float32, seed=4)}
    here: dict[str, Any] = {name: x.to(device) if isinstance(x, Tensor) else x for name, x in given.items()}
    if hooks:
        given["rotary"], here["rotary"] = farspan.Rotary(turns), farspan.Rotary(turns.to(device))
    found = farspan.attention(*(x.to(device) for x in (query, key, value)), **here, return_lse=True)
    truth = reference.attention(query.double(), key.double(), value.double(), **given, return_lse=True)
    eager = reference.attention(query, key, value, **given, return_lse=True)
    name = f"attention {name_of(dtype)}, {width} dimensions, {queries} queries{', hooks' if hooks else ''}"
    norms = (x.double().norm(dim=-1).amax().item() for x in (query, key))
    score = math.prod(norms) * width**-0.5 + 8.0
    size = float(value.double().abs().amax())
    allowed = allowed_error(truth[0], eager[0].double(), rounding=name_of(dtype), magnitude=size, largest_score=score)
    yield _compared(f"{name}: output", found[0], truth[0], allowed)
    allowed = allowed_error(truth[1], eager[1].double(), rounding="logit", magnitude=1 + score)
    yield _compared(f"{name}: LSE", found[1], truth[1], allowed)

    seen = farspan.attention_statistics(query.to(device), key.to(device), **here)
    exact = reference.attention_statistics(query.double(), key.double(), **given)
    rounded = reference.attention_statistics(query, key, **given)
    sizes = {"lse": 1 + score, "entropy": 8.0, "distance": float(KEYS)}
    for field, one in seen._asdict().items():
        right, plain = getattr(exact, field), getattr(rounded, field).double()
        size, of_score = sizes.get(field, 1.0), 0.0 if field == "lse" else score
        allowed = allowed_error(right, plain, rounding="logit", magnitude=size, largest_score=of_score)
        yield _compared(f"{name}: statistics, {field}", one, right, allowed)


def _attention_gradients(device: str, dtype: torch.dtype, width: int, hooks: bool) -> Iterator[Outcome]:
    large = [("query", 4, 37), ("key", 2, KEYS), ("value", 2, KEYS)]
    given = {name: _normal(1, *sizes, width, dtype=dtype, seed=i) for i, (name, *sizes) in enumerate(large)}
    if hooks:
        small = {"sink": (4,), "key_bias": (KEYS,), "query_scale": (4, 37), "table": (4, 60)}
        given |= {name: _normal(*sizes, dtype=torch.float32, seed=7) for name, sizes in small.items()}
    above = _normal(1, 4, 37, width, dtype=dtype, seed=8), _normal(1, 4, 37, dtype=torch.float32, seed=9)

    def gradients(function: Any, device: str, kind: torch.dtype | None) -> list[Tensor]:
        leaves = {name: x.to(device, kind or x.dtype).requires_grad_() for name, x in given.items()}
        arguments: dict[str, Any] = {**leaves, "causal": True}
        if hooks:
            arguments["distance_bias"] = farspan.DistanceBias(arguments.pop("table"))
            arguments |= {"softcap": 9.0, "rotary": farspan.Rotary(torch.logspace(0, -3, width // 4).to(device))}
        results = function(**arguments, return_lse=True)
        upstream = [up.to(device, x.dtype) for x, up in zip(results, above, strict=True)]
        return list(torch.autograd.grad(results, list(leaves.values()), upstream))

    found = gradients(farspan.attention, device, None)
    exact = gradients(reference.attention, "cpu", torch.float64)
    eager = gradients(reference.attention, "cpu", None)
    case = f"attention {name_of(dtype)}, {width} dimensions{', hooks' if hooks else ''}"
    for name, one, truth, rounded in zip(given, found, exact, eager, strict=True):
        kind = name_of(dtype) if name in ("query", "key", "value") else "logit"
        size = float(truth.abs().max())
        allowed = allowed_error(truth, rounded.double(), rounding=kind, magnitude=size, largest_score=8.0)
        yield _compared(f"{case}: gradient of {name}", one, truth, allowed)


def _unembedding(device: str, dtype: torch.dtype, rows: int) -> Iterator[Outcome]:
    hidden = _normal(rows, DIM, dtype=dtype, seed=5)
    weight = (3 * DIM**-0.5 * _normal(VOCAB, DIM, dtype=torch.float32, seed=6)).to(dtype)
    logits = reference.logits(hidden.double(), weight.double())
    eager = reference.logits(hidden.float(), weight.float())
    size = 1.0 + float(logits.abs().max())
    logit = allowed_error(logits, eager.double(), rounding="logit", magnitude=size)
    lse = logits.logsumexp(-1)
    name, given = f"{name_of(dtype)}, {rows} rows", (hidden.to(device), weight.to(device))

    def behind_the_best(what: str, scores: Tensor, token: Tensor) -> Outcome:
        """A token counts as right if its score is as near to the best as rounding may take it."""
        off = scores.amax(-1) - scores.gather(-1, token.cpu()[:, None])[:, 0]
        return Outcome(f"{what} {name}: token", float(off.max()), 2 * logit / TEMPERATURE + 4e-6)

    best = farspan.greedy(*given)
    yield behind_the_best("greedy", logits, best.token)
    yield _compared(f"greedy {name}: LSE", best.lse, lse, 3 * logit)

    draws: dict[str, Any] = {"seed": 7, "position": 3, "temperature": TEMPERATURE}
    noise = torch.from_numpy(reference.noise(7, 3, 0, torch.arange(VOCAB).numpy()))
    plain = farspan.sample(*given, **draws)
    yield behind_the_best("sample", logits / TEMPERATURE + noise, plain.token)
    tempered = torch.log_softmax(logits / TEMPERATURE, -1).gather(-1, plain.token.cpu()[:, None])[:, 0]
    yield _compared(f"sample {name}: log-probability", plain.logprob, tempered, 3 * logit / TEMPERATURE)
    own = logits.gather(-1, plain.token.cpu()[:, None])
    yield _compared(f"sample {name}: rank", plain.rank, (logits > own).sum(-1), 0.5)
    cut = farspan.sample(*given, **draws, top_k=40, top_p=0.9, top=3)
    truth = reference.sample(hidden.double(), weight.double(), **draws, top_k=40, top_p=0.9, top=3)
    yield _compared(f"sample with settings {name}: token", cut.token, truth.token, 0.5)
    allowed = 4 * logit / TEMPERATURE
    yield _compared(f"sample with settings {name}: log-probability", cut.logprob, truth.logprob, allowed)

    targets = torch.arange(rows) * 13 % VOCAB
    scored = farspan.score(*given, targets.to(device), top=2)
    own = logits.gather(-1, targets[:, None])[:, 0]
    yield _compared(f"score {name}: log-probability", scored.logprob, own - lse, 4 * logit)
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    yield _compared(f"score {name}: entropy", scored.entropy, entropy, 6 * size * logit)
    listed = farspan.top(*given, 40)
    yield _compared(f"top {name}: logits", listed.logit, logits.topk(40).values, logit)
    yield _compared(f"top {name}: tokens", logits.gather(-1, listed.token.cpu()), logits.topk(40).values, 2 * logit)


def _losses(device: str, dtype: torch.dtype, rows: int) -> Iterator[Outcome]:
    """Values and gradients. What a gradient may be off by is what the eager program of the same dtype is off by."""
    hidden, target_hidden = (_normal(rows, DIM, dtype=dtype, seed=seed) for seed in (10, 11))
    weight = (3 * DIM**-0.5 * _normal(VOCAB, DIM, dtype=torch.float32, seed=12)).to(dtype)
    bias, upstream = (_normal(count, dtype=torch.float32, seed=13) for count in (VOCAB, rows))
    targets = torch.arange(rows) * 13 % VOCAB
    rules: dict[str, Any] = {"softcap": 9.0, "valid_vocab": VOCAB - 3}
    of_entropy = rules | {"label_smoothing": 0.1, "z_loss": 1e-3, "reduction": "none" if rows > 1 else "mean"}

    def entropy(module: Any, h: Tensor, w: Tensor, b: Tensor) -> Tensor:
        found: Tensor = module.linear_cross_entropy(h, w, targets.to(h.device), bias=b, **of_entropy)
        return found

    def scored(module: Any, h: Tensor, w: Tensor, b: Tensor) -> Tensor:
        found = module.score(h, w, targets.to(h.device), bias=b, **rules)
        result: Tensor = found.logprob + 0.3 * found.entropy
        return result

    def divergence(module: Any, h: Tensor, w: Tensor, b: Tensor) -> Tensor:
        found: Tensor = module.divergence(h, w, target_hidden.to(h), bias=b, temperature=2.0, **rules)
        return found

    for name, loss in {"linear_cross_entropy": entropy, "score": scored, "divergence": divergence}.items():
        found, truth, eager = (
            _with_gradients(partial(loss, module), [x.to(**like) for x in (hidden, weight, bias)], upstream)
            for module, like in (
                (farspan, {"device": device}),
                (reference, {"dtype": torch.float64}),
                (reference, {}),
            )
        )
        what = f"{name} {name_of(dtype)}, {rows} rows"
        for of, one, right, plain in zip(("value", "hidden", "weight", "bias"), found, truth, eager, strict=True):
            rounding = "logit" if of in ("value", "bias") else name_of(dtype)
            size = float(right.abs().max()) * (40.0 if rounding == "logit" else 4.0)
            allowed = allowed_error(right, plain.double(), rounding=rounding, magnitude=size)
            yield _compared(f"{what}: {of if of == 'value' else f'gradient of {of}'}", one, right, allowed)


def _with_gradients(loss: Callable[..., Tensor], given: list[Tensor], upstream: Tensor) -> list[Tensor]:
    """What a loss gives, and its gradients."""
    leaves = [x.detach().requires_grad_() for x in given]
    value = loss(*leaves)
    return [value.detach(), *torch.autograd.grad(value, leaves, upstream.to(value).reshape(value.shape))]


def _linear(device: str, dtype: torch.dtype) -> Iterator[Outcome]:
    x, weight = _normal(9, DIM, dtype=dtype, seed=8), _normal(40, DIM, dtype=dtype, seed=9)
    truth, eager = (reference.linear(x.to(kind), weight.to(kind)) for kind in (torch.float64, dtype))
    size = float((x.double().abs() @ weight.double().abs().T).max())
    allowed = allowed_error(truth, eager.double(), rounding=name_of(dtype), magnitude=size)
    yield _compared(f"linear {name_of(dtype)}", farspan.linear(x.to(device), weight.to(device)), truth, allowed)
