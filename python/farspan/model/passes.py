"""One forward pass: which tokens are new, where they stand, and what attention has to know about that."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from farspan.model.cache import Cache
from farspan.positions import Span
from farspan.positions.ragged import joined

if TYPE_CHECKING:
    from farspan.model.config import Config

LEAST_BUCKET = 256


@dataclasses.dataclass(frozen=True)
class AttentionCall:
    """Sequences that share one call of attention in each layer."""

    tokens: slice
    rows: slice
    span: Span | None
    """Of neighbours with equally many new tokens, which are a batch; None: a ragged call, whose hooks have offsets."""
    hooks: list[Any]
    """For each layer, keyword arguments of attention; on a GPU all of them, in the order of the operator."""


@dataclasses.dataclass(frozen=True)
class PassPlan:
    """All new tokens of a batch, packed sequence after sequence."""

    calls: list[AttentionCall]
    cache: Cache | None
    slots: Any
    """Where in the cache the new keys and values go."""
    lengths: tuple[int, ...]
    """How many tokens each sequence has afterwards."""

    def commit(self) -> None:
        """The cache, where there is one, holds the new tokens from now on."""
        if self.cache is not None:
            self.cache.advance(self.lengths)


def plan_pass(config: Config, new: Sequence[int], cache: Cache | None, *, buckets: bool = False) -> PassPlan:
    """A pass that appends `new[b]` tokens to sequence b, after the tokens that the cache holds of it.

    Nothing is padded: neighbours with equally many new tokens share a call, and everything but attention runs on the
    packed tokens of all. A sequence without new tokens is in no call.

    With `buckets` attention is given a rounded number of the cache's keys, and the lengths, so that the passes of many
    lengths have the same shapes. That changes no bit of what it gives.
    """
    held = (0,) * len(new) if cache is None else cache.counts
    lengths = tuple(old + more for old, more in zip(held, new, strict=True))
    if cache is not None:
        cache.reserve(lengths)
    calls, row, token = [], 0, 0
    for time, neighbours in itertools.groupby(new):
        batch = len(list(neighbours))
        rows, tokens = slice(row, row + batch), slice(token, token + batch * time)
        row, token = rows.stop, tokens.stop
        if time:
            slots = bucket(max(lengths[rows]), cache.capacity) if buckets and cache is not None else None
            span = Span(time, lengths[rows], config.num_attention_heads, config.dim_per_head, slots)
            calls.append(AttentionCall(tokens, rows, span, layer_hooks(config, span)))
    if cache is None:
        return PassPlan(calls, None, np.empty(0, np.int64), lengths)
    rows_of, positions = np.arange(len(new)), np.array(held, np.int64)
    if any(more != 1 for more in new):
        rows_of = np.repeat(rows_of, new)
        positions = np.concatenate([np.arange(old, end) for old, end in zip(held, lengths, strict=True)])
    return PassPlan(calls, cache, cache.slots(rows_of, positions), lengths)


def plan_documents(config: Config, lengths: Sequence[int]) -> PassPlan:
    """A pass over whole sequences without a cache, packed: one ragged call, unless the position schemes need several.
    Its rows have the bits that they have in a pass of one sequence."""
    offsets = np.cumsum([0, *lengths])
    spans = {time: Span(time, (time,), config.num_attention_heads, config.dim_per_head) for time in set(lengths)}
    common = {"causal": True, "query_offsets": offsets, "key_offsets": offsets}
    kinds = []
    for scheme, window in config.attention_kinds:
        by_length = {time: _narrowed(scheme.hooks(span), window) for time, span in spans.items()}
        hooks = joined([by_length[time] for time in lengths], [spans[time] for time in lengths])
        if hooks is None:
            return plan_pass(config, lengths, None)
        kinds.append(common | hooks)
    hooks_of_layers = [kinds[kind] for kind in config.kind_of_layer]
    call = AttentionCall(slice(0, int(offsets[-1])), slice(0, len(lengths)), None, hooks_of_layers)
    return PassPlan([call], None, np.empty(0, np.int64), tuple(lengths))


def bucket(length: int, capacity: int) -> int:
    """So many keys or up to a quarter more: four sizes from a power of two to the next, none below `LEAST_BUCKET`."""
    step = max(LEAST_BUCKET, 1 << (length - 1).bit_length() >> 3)
    return min(-(-length // step) * step, capacity)


def steady_tokens(config: Config, length: int, most: int) -> int:
    """How many of `most` further tokens of a sequence can be read in one pass and get the bits of single steps: all,
    unless a position scheme turns by other frequencies as the sequence grows."""
    for scheme, _ in config.attention_kinds:
        switch = scheme.switch(length)
        while scheme.switch(length + most) != switch:  # frequencies never change back as a sequence grows
            most -= 1
    return most


def layer_hooks(config: Config, span: Span) -> list[dict[str, Any]]:
    """Keyword arguments of attention for each layer; what layers share is computed once."""
    common: dict[str, Any] = {"causal": True}
    if span.slots is not None or not span.uniform:
        common["key_lengths"] = np.array(span.lengths)
    hooks = [common | _narrowed(scheme.hooks(span), window) for scheme, window in config.attention_kinds]
    return [hooks[kind] for kind in config.kind_of_layer]


def _narrowed(hooks: dict[str, Any], window: int | None) -> dict[str, Any]:
    """The layer's own window on top of the scheme's."""
    if window is None:
        return hooks
    return hooks | {"window": min(window, hooks.get("window", window))}
