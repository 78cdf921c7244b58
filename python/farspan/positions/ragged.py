"""What a scheme says of single sequences, said of all of them in one ragged call of attention."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from farspan.attention import DistanceBias, Rotary
from farspan.positions.scheme import Hooks, Span

OVER_TIME = {"query_positions", "key_positions", "query_scale", "key_bias", "log_seen", "query_places", "key_places"}
"""Hooks and features with an entry for each token, on their last axis."""
PLACES = {"query_positions", "key_positions", "query_places", "key_places"}
"""Those of them that say where tokens stand, `[time]` or `[batch, time]`."""
OVER_DISTANCE = {"bucket", "distance"}
"""Features with an entry for each distance."""


class Different(Exception):
    """The sequences cannot share a call."""


def joined(hooks: Sequence[Hooks], spans: Sequence[Span]) -> Hooks | None:
    """The hooks of sequences that lie one behind the other, each from a span of its own; None: they differ in what a
    call has once for all of its sequences."""
    names = set().union(*hooks)
    try:
        return {name: _join(name, [x.get(name) for x in hooks], [span.time for span in spans]) for name in names}
    except Different:
        return None


def _join(name: str, values: list[Any], times: list[int]) -> Any:
    if name in OVER_TIME:
        return _over_time(values, times, name)
    if name in OVER_DISTANCE:
        return max(values, key=len)
    if all(isinstance(x, Rotary) for x in values):
        return _rotary(values, times)
    if all(isinstance(x, DistanceBias) for x in values):
        return _distance_bias(values)
    return _one(values)


def _rotary(rotations: list[Rotary], times: list[int]) -> Rotary:
    first = rotations[0]
    if first.border is None and all(rotary is first for rotary in rotations):
        return first
    for name in ("magnitude", "interleaved", "border"):
        _one([getattr(rotary, name) for rotary in rotations])
    rows = [rotary.inv_freq for rotary in rotations]
    frequencies = rows[0] if all(row is rows[0] for row in rows) else np.stack(rows)
    if first.border is None:
        return dataclasses.replace(first, inv_freq=frequencies)
    query, key = (
        _over_time([getattr(rotary, f"far_{side}_positions") for rotary in rotations], times)
        for side in ("query", "key")
    )
    return dataclasses.replace(first, inv_freq=frequencies, far_query_positions=query, far_key_positions=key)


def _distance_bias(biases: list[DistanceBias]) -> DistanceBias:
    """The longest table, if it says the same of short distances as the others."""
    longest = max(biases, key=lambda bias: bias.table.shape[1])
    for bias in {id(bias): bias for bias in biases}.values():
        same = bias.minimum == longest.minimum
        if not same or not np.array_equal(bias.table, longest.table[:, : bias.table.shape[1]]):
            raise Different
    return longest


def _over_time(values: list[Any], times: list[int], name: str = "far_positions") -> np.ndarray:
    """`[..., time]` of each sequence -> `[..., total]`; axes of one sequence alone go."""
    if not all(isinstance(x, np.ndarray) for x in values):
        raise Different
    alone = 2 if name in PLACES else 3  # axes where the first one is that of the sequence
    parts = [x[0] if x.ndim == alone else x for x in values]
    return np.concatenate([np.broadcast_to(x, (*x.shape[:-1], time)) for x, time in zip(parts, times, strict=True)], -1)


def _one(values: list[Any]) -> Any:
    """What all sequences have."""
    first = values[0]
    for x in values[1:]:
        if x is not first and not np.array_equal(x, first):
            raise Different
    return first
