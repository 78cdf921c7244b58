"""One forward pass: which tokens are new, where they stand, and what attention has to know about that."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from farspan._errors import ArgumentError, message
from farspan.model.cache import Cache
from farspan.positions import Span
from farspan.positions.ragged import joined

if TYPE_CHECKING:
    from farspan.model.config import AttentionKind, Config

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
    features: list[Any]
    """For each layer, by name, what the parameters of its position scheme are applied to."""


@dataclasses.dataclass(frozen=True)
class PassPlan:
    """All new tokens of a batch, packed sequence after sequence."""

    calls: list[AttentionCall]
    cache: Cache | None
    slots: Any
    """Where in the cache the new keys and values go."""
    places: Any
    """Index of each new token in its sequence, where the model has learned positions; else None."""
    lengths: tuple[int, ...]
    """How many tokens each sequence has afterwards."""

    def commit(self) -> None:
        """The cache, where there is one, holds the new tokens from now on."""
        if self.cache is not None:
            self.cache.advance(self.lengths)


Places = Sequence[np.ndarray] | None
"""Where all tokens of each sequence stand, those in a cache too, if somebody says so."""


def plan_pass(
    config: Config, new: Sequence[int], cache: Cache | None, *, buckets: bool = False, draw: int | None = None,
    positions: Places = None,
) -> PassPlan:  # fmt: skip
    """A pass that appends `new[b]` tokens to sequence b, after the tokens that the cache holds of it.

    Nothing is padded: neighbours with equally many new tokens share a call, and everything but attention runs on the
    packed tokens of all. A sequence without new tokens is in no call.

    With `buckets` attention is given a rounded number of the cache's keys, and the lengths, so that the passes of many
    lengths have the same shapes. That changes no bit of what it gives. `draw`: a number of the batch, in training, from
    which positions are drawn.
    """
    held = (0,) * len(new) if cache is None else cache.counts
    lengths = tuple(old + more for old, more in zip(held, new, strict=True))
    check_length(config, lengths)
    if cache is not None:
        cache.reserve(lengths)
    calls, row, token = [], 0, 0
    for time, neighbours in itertools.groupby(new):
        batch = len(list(neighbours))
        rows, tokens = slice(row, row + batch), slice(token, token + batch * time)
        row, token = rows.stop, tokens.stop
        if time:
            slots = bucket(max(lengths[rows]), cache.capacity) if buckets and cache is not None else None
            keys = max(lengths[rows]) if slots is None else slots
            at = None if positions is None else _padded(positions[rows], keys)
            span = _span(config, time, lengths[rows], slots=slots, draw=draw, positions=at)
            calls.append(AttentionCall(tokens, rows, span, layer_hooks(config, span), layer_features(config, span)))
    places = None
    if config.learned_positions:
        places = np.concatenate([np.arange(old, end) for old, end in zip(held, lengths, strict=True)])
    if cache is None:
        return PassPlan(calls, None, np.empty(0, np.int64), places, lengths)
    rows_of, order = np.arange(len(new)), np.array(held, np.int64)
    if any(more != 1 for more in new):
        rows_of = np.repeat(rows_of, new)
        order = np.concatenate([np.arange(old, end) for old, end in zip(held, lengths, strict=True)])
    return PassPlan(calls, cache, cache.slots(rows_of, order), places, lengths)


def check_length(config: Config, lengths: Sequence[int], name: str = "ids") -> None:
    """ArgumentError where a sequence is longer than the positions that the model has learned."""
    longest = max(lengths, default=0)
    if config.longest is not None and longest > config.longest:
        expected = f"sequences of at most {config.longest} tokens, for which the model has learned positions"
        raise ArgumentError(message(name, expected, f"{longest} tokens"))


def _span(config: Config, time: int, lengths: tuple[int, ...], **more: Any) -> Span:
    return Span(time, lengths, config.num_attention_heads, config.rotary_dim, causal=config.causal, **more)


def _padded(positions: Sequence[np.ndarray], keys: int) -> np.ndarray:
    return np.stack([np.pad(own, (0, keys - len(own))) for own in positions])


def plan_documents(
    config: Config, lengths: Sequence[int], draw: int | None = None, positions: Places = None
) -> PassPlan:
    """A pass over whole sequences without a cache, packed: one ragged call, unless the position schemes need several.
    Its rows have the bits that they have in a pass of one sequence."""
    check_length(config, lengths)
    offsets = np.cumsum([0, *lengths])
    if positions is None:
        alike = {time: _span(config, time, (time,), draw=draw) for time in set(lengths)}
        in_turn = [alike[time] for time in lengths]
    else:
        in_turn = [
            _span(config, time, (time,), draw=draw, positions=own[None])
            for time, own in zip(lengths, positions, strict=True)
        ]
    spans = {id(span): span for span in in_turn}
    common = _of_all_kinds(config) | {"query_offsets": offsets, "key_offsets": offsets}
    kinds, features = [], []
    for kind in config.attention_kinds:
        of_span = {key: _of_kind(kind, span, _query_factors(config, span)) for key, span in spans.items()}
        hooks = joined([of_span[id(span)] for span in in_turn], in_turn)
        if hooks is None:
            return plan_pass(config, lengths, None, draw=draw, positions=positions)
        kinds.append(common | hooks)
        of_span = {key: kind.scheme.features(span) for key, span in spans.items()}
        features.append(joined([of_span[id(span)] for span in in_turn], in_turn))
    of_layers = ([of_kinds[kind] for kind in config.kind_of_layer] for of_kinds in (kinds, features))
    call = AttentionCall(slice(0, int(offsets[-1])), slice(0, len(lengths)), None, *of_layers)
    places = np.concatenate([np.arange(time) for time in lengths]) if config.learned_positions else None
    return PassPlan([call], None, np.empty(0, np.int64), places, tuple(lengths))


def bucket(length: int, capacity: int) -> int:
    """So many keys or up to a quarter more: four sizes from a power of two to the next, none below `LEAST_BUCKET`."""
    step = max(LEAST_BUCKET, 1 << (length - 1).bit_length() >> 3)
    return min(-(-length // step) * step, capacity)


def steady_tokens(config: Config, length: int, most: int) -> int:
    """How many of `most` further tokens of a sequence can be read in one pass and get the bits of single steps: all,
    unless a position scheme turns by other frequencies, or draws other positions, as the sequence grows."""
    for scheme in {kind.scheme for kind in config.attention_kinds}:
        switch = scheme.switch(length)
        while scheme.switch(length + most) != switch:  # no scheme changes back as a sequence grows
            most -= 1
    return most


def layer_hooks(config: Config, span: Span) -> list[dict[str, Any]]:
    """Keyword arguments of attention for each layer; what layers share is computed once."""
    common = _of_all_kinds(config)
    if span.slots is not None or not span.uniform:
        common["key_lengths"] = np.array(span.lengths)
    factors = _query_factors(config, span)
    hooks = [common | _of_kind(kind, span, factors) for kind in config.attention_kinds]
    return [hooks[kind] for kind in config.kind_of_layer]


def layer_features(config: Config, span: Span) -> list[dict[str, Any]]:
    """For each layer what the parameters of its position scheme are applied to."""
    features = [kind.scheme.features(span) for kind in config.attention_kinds]
    return [features[kind] for kind in config.kind_of_layer]


def _of_all_kinds(config: Config) -> dict[str, Any]:
    cap = config.attn_logit_softcapping
    return {"causal": config.causal} if cap is None else {"causal": config.causal, "softcap": cap}


def _of_kind(kind: AttentionKind, span: Span, factors: np.ndarray | None) -> dict[str, Any]:
    hooks = _narrowed(kind.scheme.fixed_hooks(span), kind.window)
    if kind.scale is not None:
        hooks = hooks | {"scale": kind.scale}
    if factors is not None:
        hooks = hooks | {"query_scale": factors * hooks.get("query_scale", np.float32(1))}
    return hooks


def _query_factors(config: Config, span: Span) -> np.ndarray | None:
    """By how much each query is scaled for its place, for `query_scale`."""
    if config.query_scale_beta is None:
        return None
    steps = np.log1p(span.query_order // config.query_scale_length)
    factors = (1 + config.query_scale_beta * steps).astype(np.float32)
    return factors[:, None, :] if factors.ndim == 2 else factors


def _narrowed(hooks: dict[str, Any], window: int | None) -> dict[str, Any]:
    """The layer's own window on top of the scheme's."""
    if window is None:
        return hooks
    return hooks | {"window": min(window, hooks.get("window", window))}
