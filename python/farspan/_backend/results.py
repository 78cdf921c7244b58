"""What each operation gives: names, shapes and element types, from arrays of any kind, fake ones included.

The functions take what the backends take, in their order.
"""

from __future__ import annotations

from typing import Any

from farspan._backend.arrays import rank
from farspan._backend.hooks import Above, Gradients, Hooks
from farspan._backend.losses import Asked, CrossEntropy, CrossEntropyRead, DivergenceRead, ScoreRead, Target
from farspan._backend.settings import Bias, Drawn, Draws, Listed, Longest, Rules, Settings, Targets
from farspan._results import AttentionStatistics

Results = dict[str, tuple[tuple[int, ...], str]]
"""Shape and element type by name."""

SAMPLE = {
    "token": "int64", "logprob": "float32", "raw_logprob": "float32", "lse": "float32", "flag": "int32",
    "rank": "int64", "logit": "float32", "kept": "int64", "kept_mass": "float32", "entropy": "float32",
    "top_token": "int64", "top_logprob": "float32",
}  # fmt: skip
"""What the backends give for a `farspan.Sample`."""

SCORE = {
    "logprob": "float32", "rank": "int64", "entropy": "float32", "lse": "float32",
    "top_token": "int64", "top_logprob": "float32",
}  # fmt: skip
"""The same for a `farspan.Score`."""

PER_DRAW = ("token", "logprob", "raw_logprob", "rank", "logit")
"""Those of a sample that have one entry for each of several draws."""

LISTS = ("top_token", "top_logprob")
"""Those of a sample and of a score that list the most likely tokens."""


def attention(dtype: str, query: Any, key: Any, value: Any, hooks: Hooks) -> Results:
    ragged = hooks.query_offsets is not None
    if ragged or not query.ndim == key.ndim == value.ndim == 4:
        _check_ranks(query, {"key": key, "value": value}, hooks)
    shape = tuple(query.shape)
    lse = (shape[1], shape[0]) if ragged else shape[:3]
    return {"output": ((*shape[:-1], value.shape[-1]), dtype), "lse": (lse, "float32")}


def attention_statistics(dtype: str, query: Any, key: Any, hooks: Hooks) -> Results:
    _check_ranks(query, {"key": key}, hooks)
    shape = tuple(query.shape)
    rows = (shape[1], shape[0]) if hooks.ragged else shape[:3]
    return dict.fromkeys(AttentionStatistics._fields, (rows, "float32"))


def _check_ranks(query: Any, keys: dict[str, Any], hooks: Hooks) -> None:
    layout = "[total, heads, dim]" if hooks.ragged else "[batch, heads, time, dim]"
    rank("query", query, layout)
    for name, x in keys.items():
        rank(name, x, "[pages, heads, page_size, dim]" if hooks.paged else layout)


def attention_backward(
    dtype: str, query: Any, key: Any, value: Any, output: Any, output_gradient: Any, above: Above, hooks: Hooks
) -> Results:
    arguments: dict[str, Any] = hooks._asdict() | {"query": query, "key": key, "value": value}
    asking = above.asking.split(",")
    shapes = {name: tuple(arguments[name].shape) if name in asking else (0,) for name in Gradients._fields}
    return {name: (shape, dtype if name in ("query", "key", "value") else "float32") for name, shape in shapes.items()}


def linear(dtypes: tuple[str, str], x: Any, weight: Any, bias: Bias) -> Results:
    return {"output": ((*x.shape[:-1], weight.shape[0]), dtypes[0])}


def linear_x_gradient(dtypes: tuple[str, str], gradient: Any, weight: Any) -> Results:
    return {"x_gradient": ((*gradient.shape[:-1], weight.shape[1]), dtypes[0])}


def linear_weight_gradient(dtypes: tuple[str, str], gradient: Any, x: Any) -> Results:
    return {"weight_gradient": ((gradient.shape[-1], x.shape[-1]), dtypes[0])}


def greedy(dtype: str, hidden: Any, weight: Any, rules: Rules) -> Results:
    return of_draws(tuple(hidden.shape[:-1]), 1, 0)


def sample(dtype: str, hidden: Any, weight: Any, draws: Draws, rules: Rules, settings: Settings) -> Results:
    return of_draws(tuple(hidden.shape[:-1]), settings.samples, settings.top)


def of_draws(rows: tuple[int, ...], samples: int, top: int) -> Results:
    """So many draws of each row, and its most likely tokens."""
    shapes = rows, rows if samples == 1 else (*rows, samples), (*rows, top)
    return {name: (shapes[which], kind) for name, kind, which in _SHAPES_OF_SAMPLE}


_SHAPES_OF_SAMPLE = [(name, kind, 1 if name in PER_DRAW else 2 * (name in LISTS)) for name, kind in SAMPLE.items()]
"""Which of the shapes of rows, of draws and of lists each has."""


def ranks(dtype: str, hidden: Any, weight: Any, drawn: Drawn, rules: Rules, settings: Settings) -> Results:
    return {"rank": (tuple(drawn.known.shape), "int64")}


def score(dtype: str, hidden: Any, weight: Any, targets: Targets, rules: Rules, listed: Listed) -> Results:
    rows = tuple(hidden.shape[:-1])
    lists = (*rows, listed.top)
    return {name: (lists if name in LISTS else rows, kind) for name, kind in SCORE.items()}


def top(dtype: str, hidden: Any, weight: Any, longest: Longest, rules: Rules) -> Results:
    rows = tuple(hidden.shape[:-1])
    lists = (*rows, longest.k)
    return {"token": (lists, "int64"), "logit": (lists, "float32"), "lse": (rows, "float32")}


def linear_cross_entropy(dtype: str, hidden: Any, weight: Any, settings: CrossEntropy, rules: Rules) -> Results:
    rows = tuple(hidden.shape[:-1])
    kept = (rows, "float32")
    return {"loss": (rows if settings.reduction == "none" else (), "float32"), "max": kept, "log_sum": kept}


def divergence(
    dtype: str, hidden: Any, weight: Any, target_hidden: Any, target_weight: Any, target: Target, rules: Rules
) -> Results:
    names = ("divergence", "max", "log_sum", "target_max", "target_log_sum")
    return dict.fromkeys(names, (tuple(hidden.shape[:-1]), "float32"))


def linear_cross_entropy_gradient(
    dtype: str,
    hidden: Any,
    weight: Any,
    read: CrossEntropyRead,
    settings: CrossEntropy,
    rules: Rules,
    asked: Asked,
) -> Results:
    return _gradients(dtype, hidden, weight, asked)


def score_gradient(
    dtype: str, hidden: Any, weight: Any, targets: Targets, read: ScoreRead, rules: Rules, asked: Asked
) -> Results:
    return _gradients(dtype, hidden, weight, asked)


def divergence_gradient(
    dtype: str,
    hidden: Any,
    weight: Any,
    target_hidden: Any,
    target_weight: Any,
    read: DivergenceRead,
    target: Target,
    rules: Rules,
    asked: Asked,
) -> Results:
    return _gradients(dtype, hidden, weight, asked)


def _gradients(dtype: str, hidden: Any, weight: Any, asked: Asked) -> Results:
    """Of what is not asked for there is nothing."""
    nothing = (0,)
    return {
        "hidden": (tuple(hidden.shape) if asked.of_hidden else nothing, dtype),
        "weight": (tuple(weight.shape) if asked.of_weight else nothing, dtype),
        "bias": ((weight.shape[0],) if asked.of_bias else nothing, "float32"),
    }
