"""The operations of `cpu.py` over memory of a CUDA device: outputs are allocated, `_core.cuda_*` has them filled.

Large inputs are arrays of the device. An address says nothing of who holds the memory: every array that is described
stays in a variable until the call is made. Where nothing but seed, position, stream and temperature is set, nothing
waits for the device; other settings are decided on the host.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np

from farspan import _core
from farspan._backend import cpu, results
from farspan._backend.arrays import dtype_name, stays_on_host
from farspan._backend.hooks import Above, Gradients, Hooks
from farspan._backend.losses import Asked, CrossEntropy, CrossEntropyRead, DivergenceRead, ScoreRead, Target
from farspan._backend.memory import Described, Layout, Memory
from farspan._backend.schema import map_arrays
from farspan._backend.settings import Drawn, Draws, Listed, Longest, Rules, Settings, Shard, Targets
from farspan._results import AttentionStatistics

_Arguments = TypeVar("_Arguments", bound=tuple[Any, ...])


def attention(memory: Memory, dtype: str, query: Any, key: Any, value: Any, hooks: Hooks) -> tuple[Any, Any]:
    """Output and LSE."""
    output, lse = [memory.empty(*form) for form in results.attention(dtype, query, key, value, hooks).values()]
    if hooks.ragged:
        _fill({"output": output, "lse": lse})
    at = memory.describe
    _core.cuda_attention(memory, dtype, at(output), at(lse), at(query), at(key), at(value), _typed(memory, hooks))
    return output, lse


def attention_backward(
    memory: Memory,
    dtype: str,
    query: Any,
    key: Any,
    value: Any,
    output: Any,
    output_gradient: Any,
    above: Above,
    hooks: Hooks,
) -> tuple[Any, ...]:
    """The gradients of `Gradients`, empty where nobody asks."""
    found = results.attention_backward(dtype, query, key, value, output, output_gradient, above, hooks)
    out = _gradients(memory, found)
    for x in out:  # what belongs to no key or query that exists is not written
        x[...] = 0
    at, asking = memory.describe, above.asking.split(",")
    gradients = Gradients(*[at(x) if name in asking else None for name, x in zip(found, out, strict=True)])
    inputs, results_of = (at(query), at(key), at(value)), (at(output), at(output_gradient))
    lists = _typed(memory, above), _typed(memory, hooks)
    _core.cuda_attention_backward(memory, dtype, gradients, *inputs, *results_of, *lists)
    return out


def attention_statistics(memory: Memory, dtype: str, query: Any, key: Any, hooks: Hooks) -> tuple[Any, ...]:
    """The fields of `farspan.AttentionStatistics`."""
    out = AttentionStatistics(*_allocate(memory, results.attention_statistics(dtype, query, key, hooks)))
    if hooks.ragged:
        _fill(out._asdict())
    places = AttentionStatistics(*map(memory.describe, out))
    at_query, at_key = memory.describe(query), memory.describe(key)
    _core.cuda_attention_statistics(memory, dtype, places, at_query, at_key, _typed(memory, hooks))
    return tuple(out)


def _fill(found: dict[str, Any]) -> None:
    """With what a row has that sees nothing: offsets are not read here, and a row may be of no sequence."""
    for name, x in found.items():
        x[...] = -math.inf if name == "lse" else 0


def greedy(memory: Memory, dtype: str, hidden: Any, weight: Any, rules: Rules) -> tuple[Any, ...]:
    """The fields of `farspan.Sample`."""
    return _drawn(memory, dtype, hidden, weight, None, rules)


def sample(
    memory: Memory,
    dtype: str,
    hidden: Any,
    weight: Any,
    draws: Draws,
    rules: Rules,
    settings: Settings,
    shard: Shard | None = None,
) -> tuple[Any, ...]:
    """The fields of `farspan.Sample`."""
    if settings.reals is None and shard is None:
        return _drawn(memory, dtype, hidden, weight, draws, rules)
    rows = _rows(hidden)
    kinds = Draws("int64", "int64", "int64", "float32")
    on_host = map(np.asarray, memory.host_all(draws), kinds)
    sent = [i for i, x in enumerate(draws) if not stays_on_host(x)]
    there = memory.take_all([draws[i] for i in sent], [kinds[i] for i in sent])
    arrays = iter(there)
    on_device = Draws(*[x if stays_on_host(x) else next(arrays) for x in draws])
    found = results.sample(dtype, hidden, weight, draws, rules, settings)
    out = cpu.allocate("hidden", found)
    _core.cuda_sample_on_host(
        memory,
        _problem(memory, dtype, rows, weight, rules),
        _described(memory, on_device, rows.shape[0]),
        Draws(*[cpu.column(x, rows.shape[0]) for x in on_host]),
        _on_host(memory, settings),
        shard,
        [x.reshape(-1) for x in out],
    )
    return tuple(memory.take_all(out, [kind for _, kind in found.values()]))


def _on_host(memory: Memory, settings: Settings) -> Settings | None:
    return cpu.given(map_arrays(lambda _, x: memory.host(x), settings))


def _drawn(memory: Memory, dtype: str, hidden: Any, weight: Any, draws: Draws | None, rules: Rules) -> tuple[Any, ...]:
    rows = _rows(hidden)
    out = memory.empty_all(_layout_of_draws(tuple(hidden.shape[:-1])))
    described = None if draws is None else _described(memory, draws, rows.shape[0])
    _core.cuda_sample(memory, _problem(memory, dtype, rows, weight, rules), described, _addresses(memory, out))
    return out


def ranks(
    memory: Memory,
    dtype: str,
    hidden: Any,
    weight: Any,
    drawn: Drawn,
    rules: Rules,
    settings: Settings,
    shard: Shard | None = None,
) -> Any:
    """`farspan.Sample.rank`."""
    rows = _rows(hidden)
    token, logit, known = drawn
    out = memory.empty(tuple(known.shape), "int64")
    out[...] = known
    addresses = _addresses(memory, (token, logit, out))
    _core.cuda_rank(memory, _problem(memory, dtype, rows, weight, rules), _on_host(memory, settings), shard, addresses)
    if shard is None:
        return out
    return memory.take(cpu.summed_ranks(shard, memory.host(known), memory.host(out)), "int64")


def score(
    memory: Memory, dtype: str, hidden: Any, weight: Any, targets: Targets, rules: Rules, listed: Listed
) -> tuple[Any, ...]:
    """The fields of `farspan.Score`."""
    rows = _rows(hidden)
    out = _allocate(memory, results.score(dtype, hidden, weight, targets, rules, listed))
    problem = _problem(memory, dtype, rows, weight, rules)
    given = _per_row(memory, targets.targets, rows.shape[0])
    _core.cuda_score(memory, problem, given, listed.top, _addresses(memory, out))
    return out


def top(memory: Memory, dtype: str, hidden: Any, weight: Any, longest: Longest, rules: Rules) -> tuple[Any, ...]:
    """The fields of `farspan.Top`."""
    out = _allocate(memory, results.top(dtype, hidden, weight, longest, rules))
    problem = _problem(memory, dtype, _rows(hidden), weight, rules)
    _core.cuda_top(memory, problem, longest.k, _addresses(memory, out))
    return out


def linear_cross_entropy(
    memory: Memory, dtype: str, hidden: Any, weight: Any, settings: CrossEntropy, rules: Rules
) -> tuple[Any, ...]:
    """The loss, and both parts of the lse."""
    rows = _rows(hidden)
    out = _allocate(memory, results.linear_cross_entropy(dtype, hidden, weight, settings, rules))
    described = _settings(memory, settings, rows.shape[0])
    problem = _problem(memory, dtype, rows, weight, rules)
    _core.cuda_linear_cross_entropy(memory, problem, described, _addresses(memory, out))
    return out


def linear_cross_entropy_gradient(
    memory: Memory,
    dtype: str,
    hidden: Any,
    weight: Any,
    read: CrossEntropyRead,
    settings: CrossEntropy,
    rules: Rules,
    asked: Asked,
) -> tuple[Any, ...]:
    """The gradients of hidden, weight and bias."""
    rows = _rows(hidden)
    found = results.linear_cross_entropy_gradient(dtype, hidden, weight, read, settings, rules, asked)
    out, lists = _gradients(memory, found), [x.reshape(-1) for x in read]
    described = _settings(memory, settings, rows.shape[0])
    problem = _problem(memory, dtype, rows, weight, rules)
    of_rows = [memory.describe(x) for x in lists]
    _core.cuda_linear_cross_entropy_gradient(memory, problem, described, of_rows, _asked(memory, asked, out))
    return out


def score_gradient(
    memory: Memory,
    dtype: str,
    hidden: Any,
    weight: Any,
    targets: Targets,
    read: ScoreRead,
    rules: Rules,
    asked: Asked,
) -> tuple[Any, ...]:
    """The gradients of hidden, weight and bias."""
    rows = _rows(hidden)
    out = _gradients(memory, results.score_gradient(dtype, hidden, weight, targets, read, rules, asked))
    lists = [_without_gaps(x.reshape(rows.shape[0], x.shape[-1])) for x in (read.top_token, read.by_top_logprob)]
    flat = ScoreRead(*[x.reshape(-1) for x in read])._replace(top_token=lists[0], by_top_logprob=lists[1])
    described = map_arrays(lambda _, x: memory.describe(x), flat)
    problem = _problem(memory, dtype, rows, weight, rules)
    given = _per_row(memory, targets.targets, rows.shape[0])
    _core.cuda_score_gradient(memory, problem, given, described, _asked(memory, asked, out))
    return out


def divergence(
    memory: Memory,
    dtype: str,
    hidden: Any,
    weight: Any,
    target_hidden: Any,
    target_weight: Any,
    target: Target,
    rules: Rules,
) -> tuple[Any, ...]:
    """The divergence, and both parts of both lse."""
    sides = (hidden, weight, target_hidden, target_weight)
    out = _allocate(memory, results.divergence(dtype, *sides, target, rules))
    problems = _problems(memory, dtype, *sides, target, rules)
    _core.cuda_divergence(memory, *problems, target.temperature, _addresses(memory, out))
    return out


def divergence_gradient(
    memory: Memory,
    dtype: str,
    hidden: Any,
    weight: Any,
    target_hidden: Any,
    target_weight: Any,
    read: DivergenceRead,
    target: Target,
    rules: Rules,
    asked: Asked,
) -> tuple[Any, ...]:
    """The gradients of hidden, weight and bias."""
    sides = (hidden, weight, target_hidden, target_weight)
    out = _gradients(memory, results.divergence_gradient(dtype, *sides, read, target, rules, asked))
    problems = _problems(memory, dtype, *sides, target, rules)
    lists = [x.reshape(-1) for x in read]
    of_rows = [memory.describe(x) for x in lists]
    _core.cuda_divergence_gradient(memory, *problems, target.temperature, of_rows, _asked(memory, asked, out))
    return out


def _settings(memory: Memory, settings: CrossEntropy, rows: int) -> CrossEntropy:
    described = map_arrays(lambda _, x: memory.describe(x), settings)
    return described._replace(targets=_per_row(memory, settings.targets, rows))


def _gradients(memory: Memory, found: results.Results) -> tuple[Any, ...]:
    """Each with memory of its own, since they live for different times."""
    return tuple([memory.empty(shape, kind) for shape, kind in found.values()])


def _asked(memory: Memory, asked: Asked, out: tuple[Any, ...]) -> list[int]:
    """The addresses of the gradients that are asked for, 0 of the others."""
    return [memory.address(x) if wanted else 0 for x, wanted in zip(out, asked, strict=True)]


def _without_gaps(x: Any) -> Any:
    return x.contiguous() if hasattr(x, "contiguous") else np.ascontiguousarray(x)


def _typed(memory: Memory, arguments: _Arguments) -> _Arguments:
    """The same arguments with each array as its place and the name of its element type."""
    return map_arrays(lambda _, x: (memory.describe(x), dtype_name(x)), arguments)


def _allocate(memory: Memory, found: results.Results) -> tuple[Any, ...]:
    return memory.empty_all(_layout(tuple(found.values())))


_layout = lru_cache(256)(Layout)


@lru_cache(256)
def _layout_of_draws(rows: tuple[int, ...]) -> Layout:
    """Of one draw for each row: to work out what it gives takes as long as to allocate some of it."""
    return Layout(results.of_draws(rows, 1, 0).values())


def _rows(hidden: Any) -> Any:
    return hidden if hidden.ndim == 2 else hidden.reshape(math.prod(hidden.shape[:-1]), hidden.shape[-1])


def _problem(memory: Memory, dtype: str, rows: Any, weight: Any, rules: Rules) -> tuple[Any, ...]:
    described = map_arrays(lambda _, x: memory.describe(x), rules)
    return dtype, memory.describe(rows), memory.describe(weight), described


def _problems(
    memory: Memory, dtype: str, hidden: Any, weight: Any, target_hidden: Any, target_weight: Any, target: Target,
    rules: Rules,
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:  # fmt: skip
    """Both sides of a divergence."""
    model = _problem(memory, dtype, _rows(hidden), weight, rules)
    return model, _problem(memory, dtype, _rows(target_hidden), target_weight, target.rules(rules))


def _per_row(memory: Memory, x: Any, rows: int) -> Described:
    """A setting of one entry or one per row as `[rows]`."""
    if x.ndim == 0:
        return memory.describe(x)[0], (rows,), (0,)
    return memory.describe(x if x.ndim == 1 else x.reshape(-1))


def _described(memory: Memory, draws: Draws, rows: int) -> Draws:
    """Each as a number and how many rows it is for, or as the array of all rows."""
    return Draws(*[(x, rows) if stays_on_host(x) else _per_row(memory, x, rows) for x in draws])


def _addresses(memory: Memory, arrays: Sequence[Any]) -> list[int]:
    return list(map(memory.address, arrays))
