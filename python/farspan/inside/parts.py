"""A text in parts that are read one after the other, so that what a part needs bounds the memory of a reading."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from farspan.model import Transformer
from farspan.model.cache import Cache
from farspan.model.passes import steady_tokens

HELD_BYTES = 2**23
"""What the states of a part should take, of all layers that are read together."""
LEAST_TOKENS, MOST_TOKENS = 64, 512
"""A shorter part would read all weights of the model for too few tokens. A longer one saves no time, and what is inside
of a layer takes more than its states."""


@dataclass(frozen=True)
class Part:
    """Tokens of some sequences that one pass reads."""

    sequences: slice
    tokens: slice
    cache: Cache | None
    """Of the tokens before; None: the part has whole sequences."""
    held: bool
    """Whether the states of all layers fit in memory together. If not, a second pass has to give them in turn."""


def parts_of(model: Transformer, batch: int, time: int, layers: int) -> Iterator[Part]:
    """Parts of `[batch, time]` tokens, in their order, of which so many layers are read.

    A part ends where its states would not fit: between sequences, else inside of one, whose keys and values a cache
    keeps then. Tokens have the bits that they have in one pass over all. Where parts cannot promise that, there is one.
    """
    token_bytes = max(1, layers) * model.config.hidden_size * model.dtype.itemsize
    room = min(MOST_TOKENS, max(LEAST_TOKENS, HELD_BYTES // token_bytes))
    if batch * time <= room or not _has_the_same_bits_alone(model):
        yield Part(slice(0, batch), slice(0, time), None, batch * time <= room)
    elif time <= room:
        together = room // time
        for start in range(0, batch, together):
            yield Part(slice(start, min(start + together, batch)), slice(0, time), None, True)
    else:
        pieces = -(-time // room)
        ends = [time * piece // pieces for piece in range(pieces + 1)]
        in_pieces = _has_the_same_bits_in_pieces(model, ends[1], time)
        cache = model.new_cache(1, time) if in_pieces else None
        for sequence in range(batch):
            alone = slice(sequence, sequence + 1)
            if cache is None:
                yield Part(alone, slice(0, time), None, False)
                continue
            cache.truncate([0])
            for start, end in itertools.pairwise(ends):
                yield Part(alone, slice(start, end), cache, True)


def _has_the_same_bits_alone(model: Transformer) -> bool:
    """Whether a sequence has the bits that it has in any batch. What users put in may look at the whole batch."""
    return model.backend == "fused" and not model.instrumented


def _has_the_same_bits_in_pieces(model: Transformer, first: int, time: int) -> bool:
    """Whether no token depends on those behind it, be it that frequencies or random positions depend on the length."""
    return model.config.causal and steady_tokens(model.config, first, time - first) == time - first
