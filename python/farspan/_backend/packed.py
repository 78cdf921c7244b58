"""Attention among float32 heads of packed tokens, NumPy arrays `[tokens, heads, dim]`, and its gradients as they lie.

Heads of queries, of keys and of values lie one behind the other in one array; `counts` says how many there are of each.
Sequences have `time` tokens each; None: as the hooks say. `slope` is the gradient of the output.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from farspan import _core
from farspan._backend import results
from farspan._backend.cpu import Array, empty
from farspan._backend.hooks import Above, Gradients, Hooks
from farspan._backend.threads import follow_torch

Counts = tuple[int, int, int]
Parts = tuple[Array, Array, Array]
"""Queries, keys and values."""
SUMMED_AT_ONCE = 256
"""Rows that one sum runs over."""


class Call(NamedTuple):
    """How tokens are attended to."""

    counts: Counts
    time: int | None
    hooks: Hooks


def mix_heads(heads: Array, call: Call) -> tuple[Array, Array]:
    """The output, `[tokens, query heads, dim]`, and the LSE."""
    follow_torch()
    return _mixed(_apart(heads, call.counts), call)


def mix_heads_gradient(heads: Array, call: Call, mixed: Array, lse: Array, slope: Array) -> Array:
    """The gradient of the heads, from what `mix_heads` gave."""
    follow_torch()
    found = np.zeros(heads.shape, np.float32)
    parts = _batches(_apart(heads, call.counts), call.time)
    of_heads, output, above = _as_batch(found, call.time), _as_batch(mixed, call.time), _as_batch(slope, call.time)
    asking = Above(lse, None, "query,key,value")
    _core.attention_backward_of_heads("float32", of_heads, *parts, output, above, asking, call.hooks)
    return found


class Widening(NamedTuple):
    """Dims in front of each query and key, as `farspan.positions.Relative` has them."""

    dtype: str
    """Of the weight, which is given by its bits where that is a half type."""
    weight: Array
    """`[query heads, more dims, dim]`: what a query has there, with the bias"""
    bias: Array
    """`[query heads, more dims]`"""
    content_bias: Array
    """`[query heads, dim]`: added to the query behind"""
    ahead: Array
    """`[more dims]`: what every key has there"""


class Asked(NamedTuple):
    """Whose gradients are wanted."""

    heads: bool
    weight: bool
    bias: bool
    content_bias: bool


class Mixed(NamedTuple):
    """What attention among wide heads gives, and what its gradients are computed from."""

    output: Array
    lse: Array
    query: Array
    key: Array


def mix_wide_heads(heads: Array, widening: Widening, call: Call) -> Mixed:
    """As `mix_heads`, with widened queries and keys."""
    follow_torch()
    query, key, value = _apart(heads, call.counts)
    more, dim = widening.weight.shape[1:]
    wide_query = empty("query", (*query.shape[:2], more + dim), np.float32)
    wide_key = empty("key", (*key.shape[:2], more + dim), np.float32)
    for head, (weight, bias) in enumerate(zip(widening.weight, widening.bias, strict=True)):
        _core.linear("float32", widening.dtype, wide_query[:, head, :more], query[:, head], weight, bias)
    np.add(query, widening.content_bias, out=wide_query[..., more:])
    wide_key[..., :more] = widening.ahead
    wide_key[..., more:] = key
    return Mixed(*_mixed((wide_query, wide_key, value), call), wide_query, wide_key)


def mix_wide_heads_gradient(
    heads: Array, widening: Widening, call: Call, found: Mixed, slope: Array, asked: Asked
) -> tuple[Array | None, ...]:
    """The gradients of `Asked`, None where nobody asks, from what `mix_wide_heads` gave."""
    follow_torch()
    query, key, value = _apart(heads, call.counts)
    of_query = np.zeros(found.query.shape, np.float32)
    gradients = Gradients(query=_as_batch(of_query, call.time))
    if asked.heads:  # of wide keys only what is not the same for all of them
        of_key, of_value = np.zeros(key.shape, np.float32), np.zeros(value.shape, np.float32)
        gradients = gradients._replace(key=_as_batch(of_key, call.time), value=_as_batch(of_value, call.time))
    parts = _batches((found.query, found.key, value), call.time)
    output, above = _as_batch(found.output, call.time), _as_batch(slope, call.time)
    _core.attention_backward("float32", gradients, *parts, output, above, Above(found.lse, None, ""), call.hooks)
    more = widening.weight.shape[1]
    asking, content = of_query[..., :more], of_query[..., more:]
    of_heads = None
    if asked.heads:
        of_heads = np.empty(heads.shape, np.float32)
        own_query, own_key, own_value = _apart(of_heads, call.counts)
        for head, weight in enumerate(widening.weight):
            _core.linear_x_gradient("float32", widening.dtype, own_query[:, head], asking[:, head], weight)
        own_query += content
        own_key[...], own_value[...] = of_key, of_value
    of_weight = None
    if asked.weight:
        of_weight = np.empty(widening.weight.shape, np.float32)
        for head, out in enumerate(of_weight):
            _core.linear_weight_gradient("float32", "float32", out, asking[:, head], query[:, head])
    of_bias = of_content_bias = None
    if asked.bias or asked.content_bias:
        sums = _sum_of_rows(of_query)
        of_bias, of_content_bias = sums[:, :more], sums[:, more:]
    return of_heads, of_weight, of_bias, of_content_bias


def _mixed(parts: Parts, call: Call) -> tuple[Array, Array]:
    """Output and LSE of queries, keys and values."""
    query, _, value = parts
    mixed = empty("query", (*query.shape[:2], value.shape[2]), np.float32)
    batch = _batches(parts, call.time)
    lse = empty("query", results.attention("float32", *batch, call.hooks)["lse"][0], np.float32)
    _core.attention("float32", _as_batch(mixed, call.time), lse, *batch, call.hooks)
    return mixed, lse


def _apart(heads: Array, counts: Counts) -> Parts:
    keys, values = counts[0], counts[0] + counts[1]
    return heads[:, :keys], heads[:, keys:values], heads[:, values:]


def _as_batch(packed: Array, time: int | None) -> Array:
    """`[batch, heads, time, dim]` where all sequences have `time` tokens."""
    return packed if time is None else packed.reshape(-1, time, *packed.shape[1:]).swapaxes(1, 2)


def _batches(parts: Parts, time: int | None) -> Parts:
    query, key, value = parts
    return _as_batch(query, time), _as_batch(key, time), _as_batch(value, time)


def _sum_of_rows(x: Array) -> Array:
    """The sum over the first axis: of sums of so many rows, so that its error grows slowly."""
    starts = range(0, max(len(x), 1), SUMMED_AT_ONCE)
    total: Array = np.stack([x[start : start + SUMMED_AT_ONCE].sum(0) for start in starts]).sum(0)
    return total
