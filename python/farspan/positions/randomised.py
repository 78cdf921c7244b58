"""Positions drawn at random from more of them than there are tokens."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from farspan._errors import ArgumentError, message
from farspan.positions.frequencies import PLAIN, RotaryScheme
from farspan.positions.regions import require_rotation
from farspan.positions.scheme import Hooks, Scheme, Span, require_number


@dataclasses.dataclass(frozen=True)
class RandomPositions(Scheme):
    """Randomised positions (arXiv 2305.16843) under the rotation of `inner`: the n tokens of a sequence stand at n
    different positions below `limit`, in order, drawn from `seed`.

    A model that is trained with another seed for each batch meets all distances below `limit` while its sequences are
    short. The draw depends on how long the sequence is, keys in the cache included, so keys move when it grows: as with
    `DynamicNTK`, hidden states in a cache are those of earlier draws.
    """

    limit: int
    seed: int = 0
    inner: RotaryScheme = PLAIN

    def __post_init__(self) -> None:
        require_number("limit", self.limit, at_least=1, integer=True)
        require_number("seed", self.seed, at_least=0, integer=True)
        require_rotation(self.inner)

    @property
    def rope_base(self) -> float | None:
        return self.inner.rope_base

    @property
    def rotates(self) -> bool:
        return True

    def with_base(self, base: float) -> Scheme:
        return dataclasses.replace(self, inner=self.inner.with_base(base))  # type: ignore[arg-type]

    def switch(self, length: int) -> int:
        return self.inner.switch(length)

    def hooks(self, span: Span) -> Hooks:
        if span.longest > self.limit:
            raise ArgumentError(message("limit", f"at least the {span.longest} tokens of a sequence", self.limit))
        lengths = (span.longest,) if span.uniform else span.lengths
        keys = np.zeros((len(lengths), span.keys), np.int64)  # what lies behind a sequence's end is not seen
        for row, length in zip(keys, lengths, strict=True):
            row[:length] = _drawn(self.limit, self.seed, length)
        queries = np.stack([row[length - span.time : length] for row, length in zip(keys, lengths, strict=True)])
        if span.uniform:
            queries, keys = queries[0], keys[0]
        return self.inner.hooks(span) | {"query_positions": queries, "key_positions": keys}


@functools.lru_cache(maxsize=64)
def _drawn(limit: int, seed: int, length: int) -> np.ndarray:
    generator = np.random.Generator(np.random.PCG64([seed, length]))
    return np.sort(generator.random(limit).argsort(kind="stable")[:length])
