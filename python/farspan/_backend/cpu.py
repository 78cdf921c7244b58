"""The backend's operations on NumPy arrays: outputs are allocated, `farspan._core` fills them.

bfloat16 and float16 arrive and leave as their bits, in uint16 arrays, with the dtype's name beside them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from farspan import _core
from farspan._backend import results
from farspan._backend.arrays import rank
from farspan._backend.hooks import Above, Gradients, Hooks
from farspan._backend.losses import Asked, CrossEntropy, CrossEntropyRead, DivergenceRead, ScoreRead, Target
from farspan._backend.settings import Bias, Drawn, Draws, Listed, Longest, Rules, Settings, Shard, Targets
from farspan._backend.threads import follow_torch
from farspan._errors import BackendError, message
from farspan._results import AttentionStatistics

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


def allocate(name: str, found: results.Results) -> tuple[Array, ...]:
    """Memory for the results of an operation; `name` is the argument that decides how much."""
    try:
        return tuple([np.empty(shape, _KINDS[kind]) for shape, kind in found.values()])
    except (MemoryError, ValueError):
        largest = max((shape for shape, _ in found.values()), key=math.prod)
        raise BackendError(message(name, "results that fit into memory", f"shape {list(largest)}")) from None


_KINDS = {name: np.dtype(name) for name in ("float32", "int64", "int32")} | {
    name: np.dtype(np.uint16) for name in ("bfloat16", "float16")
}
"""Element types of results; NumPy takes longer to read a name than to allocate."""


def attention(dtype: str, query: Array, key: Array, value: Array, hooks: Hooks) -> tuple[Array, Array]:
    """Output and LSE."""
    follow_torch()
    output, lse = allocate("query", results.attention(dtype, query, key, value, hooks))
    _core.attention(dtype, output, lse, query, key, value, hooks)
    return output, lse


def attention_backward(
    dtype: str,
    query: Array,
    key: Array,
    value: Array,
    output: Array,
    output_gradient: Array,
    above: Above,
    hooks: Hooks,
) -> tuple[Array, ...]:
    """The gradients of `Gradients`, empty where nobody asks."""
    follow_torch()
    found = results.attention_backward(dtype, query, key, value, output, output_gradient, above, hooks)
    out = tuple([np.zeros(shape, _KINDS[kind]) for shape, kind in found.values()])
    asking = above.asking.split(",")
    gradients = Gradients(*[x if name in asking else None for name, x in zip(found, out, strict=True)])
    _core.attention_backward(dtype, gradients, query, key, value, output, output_gradient, above, hooks)
    return out


def attention_statistics(dtype: str, query: Array, key: Array, hooks: Hooks) -> tuple[Array, ...]:
    """The fields of `farspan.AttentionStatistics`."""
    follow_torch()
    out = allocate("query", results.attention_statistics(dtype, query, key, hooks))
    _core.attention_statistics(dtype, AttentionStatistics(*out), query, key, hooks)
    return out


def linear(dtypes: tuple[str, str], x: Array, weight: Array, bias: Bias) -> Array:
    """`x @ weight.T + bias` over the last axis of x."""
    follow_torch()
    rows = rows_of("x", x, "weight", weight)
    (output,) = allocate("x", results.linear(dtypes, x, weight, bias))
    out = output if output.ndim == 2 else output.reshape(rows.shape[0], weight.shape[0])
    _core.linear(*dtypes, out, rows, weight, bias.bias)
    return output


def linear_x_gradient(dtypes: tuple[str, str], gradient: Array, weight: Array) -> Array:
    """`gradient @ weight`."""
    follow_torch()
    rows = rows_of("gradient", gradient, "weight", weight)
    (output,) = allocate("gradient", results.linear_x_gradient(dtypes, gradient, weight))
    _core.linear_x_gradient(*dtypes, output.reshape(rows.shape[0], weight.shape[1]), rows, weight)
    return output


def linear_weight_gradient(dtypes: tuple[str, str], gradient: Array, x: Array) -> Array:
    """`gradient.T @ x`, of all their rows."""
    follow_torch()
    (output,) = allocate("gradient", results.linear_weight_gradient(dtypes, gradient, x))
    rows = [given.reshape(math.prod(given.shape[:-1]), given.shape[-1]) for given in (gradient, x)]
    _core.linear_weight_gradient(*dtypes, output, *rows)
    return output


def linear_rows(x: Array, weight_dtype: str, weight: Array, bias: Array | None) -> Array:
    """`linear` of a float32 x `[rows, in]`, for callers that have followed torch's thread count themselves."""
    output = empty("x", (x.shape[0], weight.shape[0]), np.float32)
    _core.linear("float32", weight_dtype, output, x, weight, bias)
    return output


def greedy(dtype: str, hidden: Array, weight: Array, rules: Rules) -> tuple[Array, ...]:
    """The fields of `farspan.Sample`."""
    follow_torch()
    rows = rows_of("hidden", hidden, "weight", weight)
    out = allocate("hidden", results.greedy(dtype, hidden, weight, rules))
    _core.greedy((dtype, rows, weight, rules), flat(out))
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
    rows = rows_of("hidden", hidden, "weight", weight)
    out = allocate("hidden", results.sample(dtype, hidden, weight, draws, rules, settings))
    columns = Draws(*[column(x, rows.shape[0]) for x in draws])
    _core.sample((dtype, rows, weight, rules), columns, given(settings), shard, flat(out))
    return out


def ranks(
    dtype: str,
    hidden: Array,
    weight: Array,
    drawn: Drawn,
    rules: Rules,
    settings: Settings,
    shard: Shard | None = None,
) -> Array:
    """`farspan.Sample.rank`."""
    follow_torch()
    rows = rows_of("hidden", hidden, "weight", weight)
    token, logit, known = drawn
    out = known.copy()
    _core.rank((dtype, rows, weight, rules), given(settings), shard, flat((token, logit)), out.reshape(-1))
    return out if shard is None else summed_ranks(shard, known, out)


def summed_ranks(shard: Shard, known: Array, counted: Array) -> Array:
    """Ranks of which each holder of a part of the vocabulary has counted its own tokens."""
    out = known.copy()
    _core.sum_ranks(shard, counted.reshape(-1), out.reshape(-1))
    return out


def given(settings: Settings) -> Settings | None:
    """The settings as `_core` takes them: none where nothing is set."""
    return settings if settings.reals is not None else None


def score(
    dtype: str, hidden: Array, weight: Array, targets: Targets, rules: Rules, listed: Listed
) -> tuple[Array, ...]:
    """The fields of `farspan.Score`."""
    follow_torch()
    rows = rows_of("hidden", hidden, "weight", weight)
    out = allocate("hidden", results.score(dtype, hidden, weight, targets, rules, listed))
    per_row = column(targets.targets, rows.shape[0])
    _core.score((dtype, rows, weight, rules), per_row, listed.top, flat(out))
    return out


def top(dtype: str, hidden: Array, weight: Array, longest: Longest, rules: Rules) -> tuple[Array, ...]:
    """The fields of `farspan.Top`."""
    follow_torch()
    rows = rows_of("hidden", hidden, "weight", weight)
    out = allocate("k", results.top(dtype, hidden, weight, longest, rules))
    _core.top((dtype, rows, weight, rules), longest.k, flat(out))
    return out


def linear_cross_entropy(
    dtype: str, hidden: Array, weight: Array, settings: CrossEntropy, rules: Rules
) -> tuple[Array, ...]:
    """The loss, and both parts of the lse, which its gradients are computed from."""
    follow_torch()
    rows = rows_of("hidden", hidden, "weight", weight)
    out = allocate("hidden", results.linear_cross_entropy(dtype, hidden, weight, settings, rules))
    _core.linear_cross_entropy((dtype, rows, weight, rules), _per_row(settings, rows), [x.reshape(-1) for x in out])
    return out


def linear_cross_entropy_gradient(
    dtype: str,
    hidden: Array,
    weight: Array,
    read: CrossEntropyRead,
    settings: CrossEntropy,
    rules: Rules,
    asked: Asked,
) -> tuple[Array, ...]:
    """The gradients of hidden, weight and bias."""
    follow_torch()
    rows = rows_of("hidden", hidden, "weight", weight)
    out = allocate("weight", results.linear_cross_entropy_gradient(dtype, hidden, weight, read, settings, rules, asked))
    per_row = [np.ascontiguousarray(x).reshape(-1) for x in read]
    gradients = _asked(asked, rows, out)
    _core.linear_cross_entropy_gradient((dtype, rows, weight, rules), _per_row(settings, rows), per_row, gradients)
    return out


def score_gradient(
    dtype: str, hidden: Array, weight: Array, targets: Targets, read: ScoreRead, rules: Rules, asked: Asked
) -> tuple[Array, ...]:
    """The gradients of hidden, weight and bias."""
    follow_torch()
    rows = rows_of("hidden", hidden, "weight", weight)
    out = allocate("weight", results.score_gradient(dtype, hidden, weight, targets, read, rules, asked))
    per_row = ScoreRead(*[np.ascontiguousarray(x).reshape(-1) for x in read])
    given_targets = column(targets.targets, rows.shape[0])
    _core.score_gradient((dtype, rows, weight, rules), given_targets, per_row, _asked(asked, rows, out))
    return out


def divergence(
    dtype: str,
    hidden: Array,
    weight: Array,
    target_hidden: Array,
    target_weight: Array,
    target: Target,
    rules: Rules,
) -> tuple[Array, ...]:
    """The divergence, and both parts of both lse, which its gradients are computed from."""
    follow_torch()
    model, other = _sides(dtype, (hidden, weight), (target_hidden, target_weight), target, rules)
    found = results.divergence(dtype, hidden, weight, target_hidden, target_weight, target, rules)
    out = allocate("hidden", found)
    _core.divergence(model, other, target.temperature, [x.reshape(-1) for x in out])
    return out


def divergence_gradient(
    dtype: str,
    hidden: Array,
    weight: Array,
    target_hidden: Array,
    target_weight: Array,
    read: DivergenceRead,
    target: Target,
    rules: Rules,
    asked: Asked,
) -> tuple[Array, ...]:
    """The gradients of hidden, weight and bias."""
    follow_torch()
    sides = (hidden, weight, target_hidden, target_weight)
    model, other = _sides(dtype, (hidden, weight), (target_hidden, target_weight), target, rules)
    out = allocate("weight", results.divergence_gradient(dtype, *sides, read, target, rules, asked))
    per_row = [np.ascontiguousarray(x).reshape(-1) for x in read]
    _core.divergence_gradient(model, other, target.temperature, per_row, _asked(asked, model[1], out))
    return out


def _sides(
    dtype: str, model: tuple[Array, Array], other: tuple[Array, Array], target: Target, rules: Rules
) -> tuple[tuple[str, Array, Array, Rules], tuple[str, Array, Array, Rules]]:
    """Both sides of a divergence as problems."""
    rows = rows_of("hidden", model[0], "weight", model[1])
    other_rows = rows_of("target_hidden", other[0], "target_weight", other[1])
    return (dtype, rows, model[1], rules), (dtype, other_rows, other[1], target.rules(rules))


def _per_row(settings: CrossEntropy, rows: Array) -> CrossEntropy:
    return settings._replace(targets=column(settings.targets, rows.shape[0]))


def _asked(asked: Asked, rows: Array, out: tuple[Array, ...]) -> list[Array | None]:
    """The gradients that `_core` is to write, that of hidden by its rows."""
    hidden, weight, bias = out
    shaped = (hidden.reshape(rows.shape) if asked.of_hidden else None), weight, bias
    return [x if wanted else None for x, wanted in zip(shaped, asked, strict=True)]


def rows_of(name: str, x: Array, weight_name: str, weight: Array) -> Array:
    """x as `[rows, dim]`: a view wherever the strides allow one."""
    if x.ndim == weight.ndim == 2:
        return x  # nearly every call
    if x.ndim == 0:
        rank(name, x, "[..., dim]")
    rank(weight_name, weight, "[outputs, dim]" if name == "x" else "[vocab, dim]")
    try:
        return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    except (MemoryError, ValueError):
        raise BackendError(message(name, "rows that fit into memory", f"shape {list(x.shape)}")) from None


def flat(found: tuple[Array, ...]) -> list[Array]:
    """Results as `_core` fills them, whatever the shape of the rows."""
    return [x if x.ndim == 1 else x.reshape(-1) for x in found]


def column(x: Array, rows: int) -> Array:
    """A per-row setting as `[rows]`."""
    if x.ndim == 0:
        return x.reshape(1) if rows == 1 else np.full(rows, x)
    return np.ascontiguousarray(x).reshape(-1)


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    """`x / sqrt(mean(x ** 2) + eps) * weight` over the last axis of a float32 x."""
    output = np.empty_like(x, order="C")
    if x.ndim == 2:
        _core.rms_norm(output, x, weight, eps)
    else:
        _core.rms_norm(output.reshape(-1, x.shape[-1]), x.reshape(-1, x.shape[-1]), weight, eps)
    return output


def add_rms_norm(x: Array, y: Array, weight: Array, eps: float) -> tuple[Array, Array]:
    """`x + y` of float32 rows, and its norm."""
    total, output = (empty("x", x.shape, np.float32) for _ in range(2))
    _core.add_rms_norm(total, output, x, y, weight, eps)
    return total, output


def rms_norm_gradient(x: Array, weight: Array, eps: float, slope: Array, beside: Array | None) -> tuple[Array, Array]:
    """The slopes of a result by float32 rows and by the weight, from that by their norm. `beside` is the slope by the
    rows themselves, where they are used beside their norm, and is added."""
    of_x, of_weight = empty("x", x.shape, np.float32), np.empty_like(weight)
    _core.rms_norm_gradient(of_x, of_weight, x, weight, eps, slope, beside)
    return of_x, of_weight


def activate_gradient(x: Array, activation: str, gated: bool, slope: Array) -> Array:
    """The slope of a result by what `activate` was given, from that by what it gave."""
    of_x = empty("x", x.shape, np.float32)
    _core.activate_gradient(of_x, x, activation, gated, slope)
    return of_x


def activate(x: Array, activation: str, gated: bool) -> Array:
    """`act(x)` of float32 rows, or `act(gate) * up` where a row holds gate and up one after the other."""
    output = empty("x", (x.shape[0], x.shape[1] // (1 + gated)), np.float32)
    _core.activate(output, x, activation, gated)
    return output
