"""Positions that a task gives: tokens that belong together stand at one place."""

from __future__ import annotations

import dataclasses

import numpy as np

from farspan.positions.frequencies import PLAIN
from farspan.positions.scheme import Hooks, Refining, Scheme, Span, require_by_positions


@dataclasses.dataclass(frozen=True)
class Coupled(Refining):
    """Position coupling (arXiv 2405.20671) under `inner`, which goes by positions: those that a caller gives with the
    ids, such as the significance of each digit. Without any, tokens stand at their order.

    A key may stand at a later place than a query behind it, so distances have a sign in decoders too: a bias counts
    them in either direction, as it does in models that see both, without positions as well. `FIRE` alone takes such a
    key as one at distance 0.

    With `RandomPositions` inside, the places are drawn: tokens of one place stay together, and training meets all
    distances between places.

    (The authors add learned vectors for positions, and begin at random places in training. With a rotation or a bias
    over distance it makes no difference where positions begin.)
    """

    inner: Scheme = PLAIN

    def __post_init__(self) -> None:
        require_by_positions("inner", self.inner, may_draw=True)

    @property
    def takes_positions(self) -> bool:
        return True

    def fixed_hooks(self, span: Span) -> Hooks:
        hooks = self.inner.fixed_hooks(self._inside(span))
        if span.positions is None:
            return hooks
        return {"query_positions": span.of_queries(span.positions), "key_positions": span.positions} | hooks

    def features(self, span: Span) -> dict[str, np.ndarray]:
        return self.inner.features(self._inside(span))

    def _inside(self, span: Span) -> Span:
        if span.positions is None:
            return dataclasses.replace(span, signed=True)
        reach = int(span.positions.max()) + 1
        return dataclasses.replace(span, signed=True, reach=max(span.reach or 0, reach, 1))
