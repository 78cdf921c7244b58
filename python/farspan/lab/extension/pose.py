"""PoSE's positions: a short text stands for a long one, part of which was left out."""

from __future__ import annotations

import dataclasses

import numpy as np

from farspan._errors import ArgumentError, message
from farspan.positions.frequencies import PLAIN
from farspan.positions.scheme import Hooks, Refining, Scheme, Span, require_by_positions, require_number


@dataclasses.dataclass(frozen=True)
class SkippedPositions(Refining):
    """Positional skip-wise training (PoSE, arXiv 2309.10400) under a rotation, `inner`: in training the second part of
    a sequence of n tokens, which begins anywhere, stands up to `limit - n` positions further off, another number for
    each batch. Otherwise nothing is skipped."""

    limit: int
    inner: Scheme = PLAIN

    def __post_init__(self) -> None:
        require_number("limit", self.limit, at_least=1, integer=True)
        require_by_positions("inner", self.inner)

    @property
    def draws(self) -> bool:
        return True

    def fixed_hooks(self, span: Span) -> Hooks:
        hooks = self.inner.fixed_hooks(span)
        if span.draw is None:
            return hooks
        if not span.uniform or span.time != span.longest:
            raise ArgumentError(message("positions", "whole sequences in training", f"{span.lengths}"))
        places = skipped(span.longest, self.limit, span.draw)
        return hooks | {"query_positions": places, "key_positions": places}


def skipped(length: int, limit: int, draw: int) -> np.ndarray:
    """Positions of `length` tokens, of which those of a second part are further off."""
    generator = np.random.Generator(np.random.PCG64([length, draw]))
    begins = int(generator.integers(1, length + 1))
    places = np.arange(length)
    places[begins:] += int(generator.integers(0, max(0, limit - length) + 1))
    return places
