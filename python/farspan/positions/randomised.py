"""Positions drawn at random from more of them than there are tokens."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from farspan._errors import ArgumentError, message
from farspan.positions.frequencies import PLAIN
from farspan.positions.scheme import Hooks, Refining, Scheme, Span, require_by_positions, require_number


@dataclasses.dataclass(frozen=True)
class RandomPositions(Refining):
    """Randomised positions (arXiv 2305.16843) under `inner`, which goes by positions: a rotation, or a bias over
    distance. The n tokens of a sequence stand at n different positions below `limit`, in order, drawn from `seed`.
    Inside `Coupled` its n places do.

    In training each batch has a draw of its own (from torch's generator, so that a seed decides it): a model meets all
    distances below `limit` while its sequences are short. Otherwise the draw depends on how long the sequence is, keys
    in the cache included, so keys move when it grows: as with `DynamicNTK`, hidden states in a cache are those of
    earlier draws.
    """

    limit: int
    seed: int = 0
    inner: Scheme = PLAIN

    def __post_init__(self) -> None:
        require_number("limit", self.limit, at_least=1, integer=True)
        require_number("seed", self.seed, at_least=0, integer=True)
        require_by_positions("inner", self.inner)

    @property
    def draws(self) -> bool:
        return True

    def redrawn(self, seed: int) -> Scheme:
        return dataclasses.replace(self, seed=seed)

    def switch(self, length: int) -> int:
        return length

    def fixed_hooks(self, span: Span) -> Hooks:
        keys = self._places(span)
        queries = span.of_queries(keys)
        if len(keys) == 1:
            queries, keys = queries[0], keys[0]
        return self.inner.fixed_hooks(self._inside(span)) | {"query_positions": queries, "key_positions": keys}

    def features(self, span: Span) -> dict[str, np.ndarray]:
        return self.inner.features(dataclasses.replace(self._inside(span), positions=self._places(span)))

    def _places(self, span: Span) -> np.ndarray:
        """Where the keys stand: `[batch, keys]`, or `[1, keys]` for sequences of one length whose order says it."""
        if span.positions is None:
            places = [np.arange(length) for length in ((span.longest,) if span.uniform else span.lengths)]
        else:
            places = [row[:length] for row, length in zip(span.positions, span.lengths, strict=True)]
        keys = np.zeros((len(places), span.keys), np.int64)  # what lies behind a sequence's end is not seen
        for row, given in zip(keys, places, strict=True):
            count = int(given.max(initial=-1)) + 1
            if count > self.limit:
                raise ArgumentError(message("limit", f"at least the {count} places of a sequence", self.limit))
            row[: len(given)] = _drawn(self.limit, self.seed, count, span.draw)[given]
        return keys

    def _inside(self, span: Span) -> Span:
        return dataclasses.replace(span, reach=self.limit)


@functools.lru_cache(maxsize=64)
def _drawn(limit: int, seed: int, count: int, draw: int | None) -> np.ndarray:
    generator = np.random.Generator(np.random.PCG64([seed, count] if draw is None else [seed, count, draw]))
    return np.sort(generator.random(limit).argsort(kind="stable")[:count])
