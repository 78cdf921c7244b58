"""Attention with a bias that depends on the query's place and not on the distance alone.

A table of attention has a row for each head. So a few queries at a time are given to it as heads of their own, one
query each, and each has its own row: nothing of the size of all pairs is built.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from farspan.attention import DistanceBias
from farspan.model.positions import LayerPositions

AT_ONCE = 64
"""How many queries are heads of one call."""


class Sequences(NamedTuple):
    """Sequences whose queries stand at the same places: `[batch, heads, time, dim]`, and the places of their tokens."""

    query: Any
    key: Any
    value: Any
    query_places: Tensor
    key_places: Tensor
    scale: Any
    """`query_scale`, `[batch or 1, heads, time]`; None: there is none."""


def attention_by_rows(positions: Any, one: Sequences, hooks: Any, sink: Tensor | None, operations: Any) -> Any:
    """What `operations.attention` gives, with the bias of the layer's `FIRE`. `hooks`: those that all rows share."""
    batch, heads, time, _ = one.query.shape
    keys, outputs = one.key.shape[2], []
    for first in range(0, time, AT_ONCE):
        end = min(first + AT_ONCE, time)
        seen = keys - time + end  # those of the last of these queries

        def of_rows(query: Any, key: Any, value: Any, first: int = first, end: int = end, seen: int = seen) -> Any:
            count = end - first
            learned = {"distance_bias": DistanceBias(_table(positions, one, first, end, seen))}
            if one.scale is not None:
                scale = one.scale[:, :, first:end].expand(-1, heads, -1)
                learned["query_scale"] = scale.reshape(len(scale), heads * count, 1)
            rows = query[:, :, first:end].reshape(batch, heads * count, 1, query.shape[3])
            own_sink = sink if sink is None or count == 1 else sink.repeat_interleave(count)
            found = operations.attention(rows, key[:, :, :seen], value[:, :, :seen], hooks, own_sink, learned)
            return found.reshape(batch, heads, count, found.shape[3])

        arrays = (one.query, one.key, one.value)
        if isinstance(one.query, Tensor) and torch.is_grad_enabled() and time > AT_ONCE:
            outputs.append(checkpoint(of_rows, *arrays, use_reentrant=False))  # else all tables were kept
        else:
            outputs.append(of_rows(*arrays))
    return outputs[0] if len(outputs) == 1 else operations.concatenate(outputs, 2)


def _table(positions: LayerPositions, one: Sequences, first: int, end: int, seen: int) -> Tensor:
    """`[heads * queries, keys]`: the bias of each query over the distance from the last of them, -inf for keys that
    stand behind it."""
    bias = positions.row_bias(one.query_places[first:end], one.key_places[:seen])
    order = torch.arange(seen, device=bias.device)
    behind = order > order[seen - (end - first) :, None]
    return bias.masked_fill(behind, -torch.inf).flip(-1).flatten(0, 1)


def apart(
    query: Any, key: Any, value: Any, features: Mapping[str, Any], scale: Any, lengths: tuple[int, ...], ragged: bool
) -> Iterator[Sequences]:
    """The sequences of a call, together where all are alike, else one by one."""
    places = [torch.as_tensor(features[name], device=_device(query)) for name in ("query_places", "key_places")]
    if ragged:
        first = 0
        for length in lengths:
            at = slice(first, first + length)
            first += length
            own = [x[at].swapaxes(0, 1)[None] for x in (query, key, value)]
            own_scale = None if scale is None else scale[None, :, at]
            yield Sequences(own[0], own[1], own[2], places[0][at], places[1][at], own_scale)
        return
    alike = min(lengths) == max(lengths) and places[0].ndim == places[1].ndim == 1
    if alike:
        seen = slice(0, lengths[0])
        yield Sequences(query, key[:, :, seen], value[:, :, seen], places[0], places[1], _batched(scale))
        return
    for row, length in enumerate(lengths):
        of_queries, of_keys = (x if x.ndim == 1 else x[row] for x in places)
        own_scale = _batched(scale)
        if own_scale is not None and len(own_scale) > 1:
            own_scale = own_scale[row : row + 1]
        at = slice(row, row + 1)
        yield Sequences(query[at], key[at, :, :length], value[at, :, :length], of_queries, of_keys, own_scale)


def _device(x: Any) -> Any:
    return x.device if isinstance(x, Tensor) else "cpu"


def _batched(scale: Any) -> Any:
    return scale if scale is None or scale.ndim == 3 else scale[None]


def combined(fixed: Any, learned: Tensor | None, query: Any) -> Tensor | None:
    """The product of two scales of queries, either of which may be None, with an axis for heads, where the queries
    are."""
    found = learned if fixed is None else torch.as_tensor(fixed, device=_device(query))
    if found is not None and fixed is not None and learned is not None:
        found = found.to(learned) * learned
    return found[None] if found is not None and found.ndim == 1 else found
