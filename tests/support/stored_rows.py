"""Calls of `linear`, `rms_norm` and `activate`, and of the embedded model, whose bits are stored."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import cache, partial
from typing import Any

import numpy as np

import farspan
from farspan._backend import cpu
from support.stored_bits import DTYPES, Case, Numbers

SIZES = [
    (0, 5, 3), (1, 1, 1), (1, 64, 64), (2, 65, 17), (3, 127, 40), (7, 128, 33), (8, 129, 128), (9, 257, 15),
    (33, 300, 100), (70, 513, 64), (130, 40, 300),
]  # fmt: skip
"""Rows, outputs and inputs, at and beyond the blocks of each."""
ACTIVATIONS = ("silu", "gelu_pytorch_tanh", "relu")
PROMPT = b"The sum of 12 and 30 is "


def _linear(make: Numbers, size: tuple[int, int, int], dtype: str, weight_dtype: str, biased: bool) -> Any:
    rows, out, width = size
    x = make.normal("x", rows, width).astype(DTYPES[dtype])
    weight = (make.normal("weight", out, width) / 4).astype(DTYPES[weight_dtype])
    return farspan.linear(x, weight, make.normal("bias", out) if biased else None)


def _rms_norm(make: Numbers, rows: int, width: int, eps: float) -> Any:
    return cpu.rms_norm(make.normal("x", rows, width), make.normal("weight", width), eps)


def _activate(make: Numbers, rows: int, width: int, activation: str, gated: bool) -> Any:
    return cpu.activate(make.normal("x", rows, width * (1 + gated)) * 4, activation, gated)


@cache
def _model(dtype: str) -> Any:
    model, _ = farspan.load_embedded(dtype=dtype)
    return model.requires_grad_(False)


def _states(make: Numbers, dtype: str, batch: int, time: int) -> Any:
    """Hidden states, in one pass and in a second one behind a cache."""
    model, ids = _model(dtype), make.integers("ids", 0, 256, batch, time)
    model_cache = model.new_cache(batch)
    parts = (model(ids), model(ids[:, : time // 2], model_cache), model(ids[:, time // 2 :], model_cache))
    return [x.float().numpy() for x in parts]


def _text(make: Numbers, dtype: str, **settings: Any) -> Any:
    """Tokens and their logprobs behind prompts of different lengths."""
    prompts = [list(PROMPT[: 3 * i + 1]) for i in range(3)] + [make.integers("prompt", 1, 256, 20).tolist()]
    found = _model(dtype).generate(prompts, 6, stop=(), **settings)
    return [(np.array(one.tokens), np.array(one.logprobs)) for one in found]


def cases() -> Iterator[Case]:
    """Every call."""
    for size, dtype, weight_dtype in itertools.product(SIZES, DTYPES, DTYPES):
        name = f"{'x'.join(map(str, size))} {dtype} by {weight_dtype}"
        run = partial(_linear, size=size, dtype=dtype, weight_dtype=weight_dtype, biased=size[0] % 2 == 1)
        yield Case("linear", name, run)
    widths = (1, 15, 16, 17, 31, 64, 100, 128, 255, 1024, 1027)
    for rows, width, eps in itertools.product((1, 3, 40), widths, (1e-5, 1e-6)):
        yield Case("rms_norm", f"{rows}x{width} eps {eps:g}", partial(_rms_norm, rows=rows, width=width, eps=eps))
    for rows, width, name, gated in itertools.product((3, 40), widths, ACTIVATIONS, (False, True)):
        run = partial(_activate, rows=rows, width=width, activation=name, gated=gated)
        yield Case("activate", f"{rows}x{width} {name}{' gated' if gated else ''}", run)
    for dtype in DTYPES:
        for batch, time in ((1, 1), (1, 33), (2, 20))[: 3 if dtype == "float32" else 2]:
            yield Case("model", f"states {batch}x{time} {dtype}", partial(_states, dtype=dtype, batch=batch, time=time))
        yield Case("model", f"sampled {dtype}", partial(_text, dtype=dtype, temperature=1.0, seed=7))
    yield Case("model", "greedy", partial(_text, dtype="float32"))
    settings = {"temperature": 0.8, "seed": 3, "top_p": 0.9, "repetition_penalty": 1.1}
    yield Case("model", "sampled with settings", partial(_text, dtype="float32", **settings))
    drafted = partial(_text, dtype="float32", temperature=0.8, seed=3, draft="prompt-lookup")
    yield Case("model", "sampled with drafts", drafted)
