"""One forward pass: which tokens are new, where they stand, and what attention has to know about that."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from farspan.model.cache import Cache
from farspan.positions import Span

if TYPE_CHECKING:
    from farspan.model.config import Config
    from farspan.model.transformer import Transformer


@dataclasses.dataclass(frozen=True)
class Part:
    """Sequences with equally many new tokens: one call of attention per layer."""

    tokens: slice
    rows: slice
    span: Span
    hooks: list[dict[str, Any]]
    """For each layer, keyword arguments of attention."""


@dataclasses.dataclass(frozen=True)
class Pass:
    """All new tokens of a batch, packed sequence after sequence."""

    parts: list[Part]
    cache: Cache | None
    slots: np.ndarray
    """Where in the cache the new keys and values go."""


def plan_pass(config: Config, new: Sequence[int], cache: Cache | None) -> Pass:
    """The pass that appends `new[b]` tokens to sequence b, after the tokens that the cache holds of it.

    Nothing is padded: neighbours with equally many new tokens make a part, and everything but attention runs on the
    packed tokens of all. A sequence without new tokens has no part in the pass.
    """
    held = (0,) * len(new) if cache is None else cache.counts
    lengths = tuple(old + more for old, more in zip(held, new, strict=True))
    parts, row, token = [], 0, 0
    for time, neighbours in itertools.groupby(new):
        batch = len(list(neighbours))
        rows, tokens = slice(row, row + batch), slice(token, token + batch * time)
        row, token = rows.stop, tokens.stop
        if time:
            span = Span(time, lengths[rows], config.num_attention_heads, config.dim_per_head)
            parts.append(Part(tokens, rows, span, layer_hooks(config, span)))
    if cache is None:
        return Pass(parts, None, np.empty(0, np.int64))
    cache.reserve(lengths)
    rows_of = np.repeat(np.arange(len(new)), new)
    positions = np.concatenate([np.arange(old, end) for old, end in zip(held, lengths, strict=True)])
    return Pass(parts, cache, cache.slots(rows_of, positions))


def read_texts(model: Transformer, texts: Mapping[int, Sequence[int]], cache: Cache, kernels: Any) -> Any:
    """Hidden states `[texts, dim]` of the last tokens of some sequences, by rising row of the cache, which takes in
    what it lacks of them. Each lacks at least its last token."""
    lacking = {row: text[cache.counts[row] :] for row, text in texts.items()}
    counts = [len(lacking.get(row, ())) for row in range(cache.batch)]
    tokens = np.array([token for row in sorted(lacking) for token in lacking[row]], np.int64)
    last = np.cumsum([count for count in counts if count]) - 1
    return model.run(tokens, plan_pass(model.config, counts, cache), kernels)[last]


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
    if not span.uniform:
        common["key_lengths"] = np.array(span.lengths)
    hooks = [common | _narrowed(scheme.hooks(span), window) for scheme, window in config.attention_kinds]
    return [hooks[kind] for kind in config.kind_of_layer]


def _narrowed(hooks: dict[str, Any], window: int | None) -> dict[str, Any]:
    """The layer's own window on top of the scheme's."""
    if window is None:
        return hooks
    return hooks | {"window": min(window, hooks.get("window", window))}
