"""The backend's operations on NumPy arrays: outputs are allocated, `farspan._core` fills them.

bfloat16 and float16 arrive and leave as their bits, in uint16 arrays, with the dtype's name beside them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from farspan import _core
from farspan._backend.arrays import rank
from farspan._backend.hooks import Hooks
from farspan._backend.settings import Draws, Rules, Settings, Shard
from farspan._backend.threads import follow_torch
from farspan._errors import BackendError, message

Array = np.ndarray


def bits(x: Array) -> Array:
    """A half-precision array by its bits."""
    return x.view(np.uint16) if x.dtype.itemsize == 2 else x


def empty(name: str, shape: tuple[int, ...], dtype: Any) -> Array:
    """`numpy.empty`; an output that no memory can hold is the backend's error."""
    try:
        return np.empty(shape, dtype)
    except (MemoryError, ValueError):
        raise BackendError(message(name, "a result that fits into memory", f"shape {list(shape)}")) from None


def attention_shapes(query: Any, key: Any, value: Any, hooks: Hooks) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of output and LSE, from arrays of either kind."""
    ragged = hooks.ragged
    layout = "[total, heads, dim]" if ragged else "[batch, heads, time, dim]"
    rank("query", query, layout)
    of_keys = "[pages, heads, page_size, dim]" if hooks.paged else layout
    rank("key", key, of_keys)
    rank("value", value, of_keys)
    lse = (query.shape[1], query.shape[0]) if ragged else query.shape[:3]
    return (*query.shape[:-1], value.shape[-1]), tuple(lse)


def attention(dtype: str, query: Array, key: Array, value: Array, hooks: Hooks) -> tuple[Array, Array]:
    """Output and LSE."""
    follow_torch()
    shape, lse_shape = attention_shapes(query, key, value, hooks)
    output, lse = (empty("query", shape, query.dtype), empty("query", lse_shape, np.float32))
    _core.attention(dtype, output, lse, query, key, value, hooks)
    return output, lse


def linear(dtype: str, weight_dtype: str, x: Array, weight: Array, bias: Array | None) -> Array:
    """`x @ weight.T + bias` over the last axis of x."""
    follow_torch()
    leading, rows = rows_of("x", x, "weight", weight)
    output = empty("x", (*leading, weight.shape[0]), x.dtype)
    _core.linear(dtype, weight_dtype, output.reshape(rows.shape[0], weight.shape[0]), rows, weight, bias)
    return output


def linear_rows(x: Array, weight_dtype: str, weight: Array, bias: Array | None) -> Array:
    """`linear` of a float32 x `[rows, in]`, for callers that have followed torch's thread count themselves."""
    output = empty("x", (x.shape[0], weight.shape[0]), np.float32)
    _core.linear("float32", weight_dtype, output, x, weight, bias)
    return output


def greedy(dtype: str, hidden: Array, weight: Array, rules: Rules) -> tuple[Array, ...]:
    """The fields of `farspan.Sample`."""
    follow_torch()
    leading, rows = rows_of("hidden", hidden, "weight", weight)
    out = sample_fields(leading)
    _core.greedy((dtype, rows, weight, rules), [x.reshape(-1) for x in out])
    return out


def sample(
    dtype: str,
    hidden: Array,
    weight: Array,
    draws: Draws,
    rules: Rules,
    settings: Settings,
    shard: Shard | None = None,
) -> tuple[Array, ...]:
    """The fields of `farspan.Sample`."""
    follow_torch()
    leading, rows = rows_of("hidden", hidden, "weight", weight)
    out = sample_fields(leading, settings.samples, settings.top)
    columns = Draws(*[column(x, rows.shape[0]) for x in draws])
    _core.sample((dtype, rows, weight, rules), columns, given(settings), shard, [x.reshape(-1) for x in out])
    return out


def ranks(
    dtype: str,
    hidden: Array,
    weight: Array,
    drawn: tuple[Array, ...],
    rules: Rules,
    settings: Settings,
    shard: Shard | None = None,
) -> Array:
    """`farspan.Sample.rank`. `drawn`: token, logit and the ranks that `sample` knew."""
    follow_torch()
    _, rows = rows_of("hidden", hidden, "weight", weight)
    token, logit, known = drawn
    out = known.copy()
    flat = [token.reshape(-1), logit.reshape(-1)]
    _core.rank((dtype, rows, weight, rules), given(settings), shard, flat, out.reshape(-1))
    return out if shard is None else summed_ranks(shard, known, out)


def summed_ranks(shard: Shard, known: Array, counted: Array) -> Array:
    """Ranks of which each holder of a part of the vocabulary has counted its own tokens."""
    out = known.copy()
    _core.sum_ranks(shard, counted.reshape(-1), out.reshape(-1))
    return out


def given(settings: Settings) -> Settings | None:
    """The settings as `_core` takes them: none where nothing is set."""
    return settings if settings.reals is not None else None


def score(dtype: str, hidden: Array, weight: Array, targets: Array, rules: Rules, top: int) -> tuple[Array, ...]:
    """The fields of `farspan.Score`."""
    follow_torch()
    leading, rows = rows_of("hidden", hidden, "weight", weight)
    shapes = zip(score_shapes(leading, top), SCORE_KINDS.values(), strict=True)
    out = tuple(empty("hidden", shape, kind) for shape, kind in shapes)
    _core.score((dtype, rows, weight, rules), column(targets, rows.shape[0]), top, [x.reshape(-1) for x in out])
    return out


def top(dtype: str, hidden: Array, weight: Array, k: int, rules: Rules) -> tuple[Array, ...]:
    """The fields of `farspan.Top`."""
    follow_torch()
    leading, rows = rows_of("hidden", hidden, "weight", weight)
    out = (*(empty("k", (*leading, k), kind) for kind in (np.int64, np.float32)), empty("hidden", leading, np.float32))
    _core.top((dtype, rows, weight, rules), k, [x.reshape(-1) for x in out])
    return out


def rows_of(name: str, x: Array, weight_name: str, weight: Array) -> tuple[tuple[int, ...], Array]:
    """The leading shape of x, and x as `[rows, dim]`: a view wherever the strides allow one."""
    if x.ndim == 0:
        rank(name, x, "[..., dim]")
    rank(weight_name, weight, "[outputs, dim]" if name == "x" else "[vocab, dim]")
    leading = x.shape[:-1]
    try:
        return leading, x.reshape(math.prod(leading), x.shape[-1])
    except (MemoryError, ValueError):
        raise BackendError(message(name, "rows that fit into memory", f"shape {list(x.shape)}")) from None


def column(x: Array, rows: int) -> Array:
    """A per-row setting as `[rows]`."""
    return np.full(rows, x) if x.ndim == 0 else np.ascontiguousarray(x).reshape(-1)


SAMPLE_KINDS = {
    "token": "int64", "logprob": "float32", "raw_logprob": "float32", "lse": "float32", "flag": "int32",
    "rank": "int64", "logit": "float32", "kept": "int64", "kept_mass": "float32", "entropy": "float32",
    "top_token": "int64", "top_logprob": "float32",
}  # fmt: skip
"""What the backends give for a `farspan.Sample`, with element types."""


SCORE_KINDS = {
    "logprob": "float32", "rank": "int64", "entropy": "float32", "lse": "float32",
    "top_token": "int64", "top_logprob": "float32",
}  # fmt: skip
"""The same for a `farspan.Score`."""


def score_shapes(leading: tuple[int, ...], top: int) -> list[tuple[int, ...]]:
    """The shape of each of them."""
    return [(*leading, top) if name.startswith("top_") else leading for name in SCORE_KINDS]


def sample_shapes(leading: tuple[int, ...], samples: int, top: int) -> list[tuple[int, ...]]:
    """The shape of each of them."""
    drawn = leading if samples == 1 else (*leading, samples)
    shapes = {name: drawn for name in ("token", "logprob", "raw_logprob", "rank", "logit")}
    shapes |= {name: (*leading, top) for name in ("top_token", "top_logprob")}
    return [shapes.get(name, leading) for name in SAMPLE_KINDS]


def sample_fields(leading: tuple[int, ...], samples: int = 1, top: int = 0) -> tuple[Array, ...]:
    """Memory for what the backends give for a `farspan.Sample`."""
    shapes = sample_shapes(leading, samples, top)
    return tuple(empty("hidden", shape, kind) for shape, kind in zip(shapes, SAMPLE_KINDS.values(), strict=True))


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    """`x / sqrt(mean(x ** 2) + eps) * weight` over the last axis of a float32 x."""
    output = np.empty_like(x, order="C")
    if x.ndim == 2:
        _core.rms_norm(output, x, weight, eps)
    else:
        _core.rms_norm(output.reshape(-1, x.shape[-1]), x.reshape(-1, x.shape[-1]), weight, eps)
    return output


def activate(x: Array, activation: str, gated: bool) -> Array:
    """`act(x)` of float32 rows, or `act(gate) * up` where a row holds gate and up one after the other."""
    output = empty("x", (x.shape[0], x.shape[1] // (1 + gated)), np.float32)
    _core.activate(output, x, activation, gated)
    return output
