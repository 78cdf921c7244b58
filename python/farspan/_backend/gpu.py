"""The operations of `_kernels` over memory of a CUDA device: outputs are allocated, `_core.cuda_*` has them filled.

Large inputs are arrays of the device. An address says nothing of who holds the memory: every array that is described
stays in a variable until the call is made. Where nothing but seed, position, stream and temperature is set, nothing
waits for the device; other settings are decided on the host.
"""

from __future__ import annotations

import math
from typing import Any

from farspan import _core
from farspan._backend import cpu
from farspan._backend.arrays import dtype_name
from farspan._backend.hooks import Hooks
from farspan._backend.memory import Memory
from farspan._backend.schema import map_arrays
from farspan._backend.settings import Draws, Rules, Settings, Shard


def attention(memory: Memory, dtype: str, query: Any, key: Any, value: Any, hooks: Hooks) -> tuple[Any, Any]:
    """Output and LSE."""
    shape, lse_shape = cpu.attention_shapes(query, key, value, hooks)
    output, lse = memory.empty(shape, dtype), memory.empty(lse_shape, "float32")
    if hooks.ragged:  # offsets are not read here: a row that no sequence covers sees nothing
        output[...], lse[...] = 0, -math.inf
    at = memory.describe
    described = map_arrays(lambda _, x: (at(x), dtype_name(x)), hooks)
    _core.cuda_attention(memory, dtype, at(output), at(lse), at(query), at(key), at(value), described)
    return output, lse


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
    leading, rows = _rows(hidden)
    kinds = Draws("int64", "int64", "int64", "float32")
    on_device = [_spread(memory.take(x, kind), rows.shape[0]) for x, kind in zip(draws, kinds, strict=True)]
    out = cpu.sample_fields(leading, settings.samples, settings.top)
    _core.cuda_sample_on_host(
        memory,
        _problem(memory, dtype, rows, weight, rules),
        Draws(*(memory.describe(x) for x in on_device)),
        Draws(*(cpu.column(memory.host(x), rows.shape[0]) for x in draws)),
        _on_host(memory, settings),
        shard,
        [x.reshape(-1) for x in out],
    )
    return tuple(memory.take(x, kind) for x, kind in zip(out, cpu.SAMPLE_KINDS.values(), strict=True))


def _on_host(memory: Memory, settings: Settings) -> Settings | None:
    return cpu.given(map_arrays(lambda _, x: memory.host(x), settings))


def _drawn(memory: Memory, dtype: str, hidden: Any, weight: Any, draws: Draws | None, rules: Rules) -> tuple[Any, ...]:
    leading, rows = _rows(hidden)
    shapes = zip(cpu.sample_shapes(leading, 1, 0), cpu.SAMPLE_KINDS.values(), strict=True)
    out = tuple(memory.empty(shape, kind) for shape, kind in shapes)
    spread = None if draws is None else [_spread(x, rows.shape[0]) for x in draws]
    described = None if spread is None else Draws(*(memory.describe(x) for x in spread))
    _core.cuda_sample(memory, _problem(memory, dtype, rows, weight, rules), described, _addresses(memory, out))
    return out


def ranks(
    memory: Memory,
    dtype: str,
    hidden: Any,
    weight: Any,
    drawn: tuple[Any, ...],
    rules: Rules,
    settings: Settings,
    shard: Shard | None = None,
) -> Any:
    """`farspan.Sample.rank`. `drawn`: token, logit and the ranks that `sample` knew."""
    _, rows = _rows(hidden)
    token, logit, known = drawn
    out = memory.empty(tuple(known.shape), "int64")
    out[...] = known
    addresses = _addresses(memory, (token, logit, out))
    _core.cuda_rank(memory, _problem(memory, dtype, rows, weight, rules), _on_host(memory, settings), shard, addresses)
    if shard is None:
        return out
    return memory.take(cpu.summed_ranks(shard, memory.host(known), memory.host(out)), "int64")


def score(
    memory: Memory, dtype: str, hidden: Any, weight: Any, targets: Any, rules: Rules, top: int
) -> tuple[Any, ...]:
    """The fields of `farspan.Score`."""
    leading, rows = _rows(hidden)
    shapes = zip(cpu.score_shapes(leading, top), cpu.SCORE_KINDS.values(), strict=True)
    out = tuple(memory.empty(shape, kind) for shape, kind in shapes)
    spread = _spread(targets, rows.shape[0])
    problem = _problem(memory, dtype, rows, weight, rules)
    _core.cuda_score(memory, problem, memory.describe(spread), top, _addresses(memory, out))
    return out


def top(memory: Memory, dtype: str, hidden: Any, weight: Any, k: int, rules: Rules) -> tuple[Any, ...]:
    """The fields of `farspan.Top`."""
    leading, rows = _rows(hidden)
    token, logit = memory.empty((*leading, k), "int64"), memory.empty((*leading, k), "float32")
    out = (token, logit, memory.empty(leading, "float32"))
    _core.cuda_top(memory, _problem(memory, dtype, rows, weight, rules), k, _addresses(memory, out))
    return out


def _rows(hidden: Any) -> tuple[tuple[int, ...], Any]:
    leading = tuple(hidden.shape[:-1])
    return leading, hidden.reshape(math.prod(leading), hidden.shape[-1])


def _problem(memory: Memory, dtype: str, rows: Any, weight: Any, rules: Rules) -> tuple[Any, ...]:
    described = map_arrays(lambda _, x: memory.describe(x), rules)
    return dtype, memory.describe(rows), memory.describe(weight), described


def _spread(x: Any, rows: int) -> Any:
    """A setting of one entry or one per row as `[rows]`."""
    flat = x.reshape(-1)
    if x.ndim:
        return flat
    return flat[[0] * rows] if not hasattr(flat, "expand") else flat.expand(rows)


def _addresses(memory: Memory, arrays: tuple[Any, ...]) -> list[int]:
    return [memory.describe(x)[0] for x in arrays]
