"""What a model is asked beside its loss, which hardly tells whether it finds what stands far back: needles and copies.

All schemes and models are asked for the same needles and the same pieces of one text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from farspan.lab import copying, needle
from farspan.lab.copying import Copied, find_copies
from farspan.lab.measurement import Measurement
from farspan.lab.needle import find_needles
from farspan.lab.pieces import Piece, found_anew
from farspan.lab.progress import Progress
from farspan.model import Transformer
from farspan.positions import Scheme
from farspan.tokenizer import Tokenizer


@dataclass(frozen=True)
class Retrieval:
    """Which needles and which copies. Lengths without room for them are left out."""

    text: Tensor
    lengths: Sequence[int]
    trained_length: int
    tokenizer: Tokenizer | None
    """None: no needles"""
    needles: int
    """so many at each depth of each length"""
    copies: int
    """so many at each length"""
    first_tokens: Sequence[int] = ()
    """what every text begins with"""

    @property
    def notes(self) -> list[str]:
        """Which lengths are left out."""
        without: dict[str, set[int]] = {}
        if self.needles and self.tokenizer is not None:
            without["a needle and its question"] = {*self.lengths} - {*self._with_needles}
        if self.copies:
            without["a piece that stands twice"] = {*self.lengths} - {*self._with_copies}
        return [f"no room for {what} in {_listed(those)} tokens" for what, those in without.items() if those]

    def added_to(
        self, measurement: Measurement, model: Transformer, schemes: Mapping[str, Scheme | None],
        progress: Progress | None = None, keep: Callable[[Measurement], object] = lambda found: None,
        piece: Piece = found_anew,
    ) -> Measurement:  # fmt: skip
        """The measurement with what the model finds and copies under these schemes. `keep` gets it when the needles are
        there. `piece` as in `farspan.measure`."""
        if self.tokenizer is not None and (roomy := self._with_needles):
            found = find_needles(
                model, self.tokenizer, self.text, roomy, schemes, count=self.needles, first_tokens=self.first_tokens,
                progress=progress, piece=piece,
            )  # fmt: skip
            measurement = dataclasses.replace(measurement, needles=(*measurement.needles, *found))
            keep(measurement)
        if roomy := self._with_copies:
            copied = find_copies(
                model, self.text, roomy, schemes, trained_length=self.trained_length, count=self.copies,
                first_tokens=self.first_tokens, progress=progress, piece=piece,
            )  # fmt: skip
            alike = _with_guesses_of(measurement.copies, copied)
            measurement = dataclasses.replace(measurement, copies=(*measurement.copies, *alike))
        return measurement

    @property
    def _with_needles(self) -> list[int]:
        """The lengths that have room for a needle; none where none is asked for."""
        if self.tokenizer is None or not self.needles:
            return []
        return [n for n in self.lengths if needle.has_room(self.tokenizer, self.text, n, self.first_tokens)]

    @property
    def _with_copies(self) -> list[int]:
        """Those that have room for a piece that stands twice."""
        return [n for n in self.lengths if copying.has_room(n, self.first_tokens)] if self.copies else []


def _listed(lengths: set[int]) -> str:
    return ", ".join(map(str, sorted(lengths)))


def _with_guesses_of(before: Sequence[Copied], copied: Sequence[Copied]) -> list[Copied]:
    """With the guesses of the first model that was asked, which is the one as it is: another one may have learnt."""
    return [dataclasses.replace(one, guessed=(before or copied)[0].guessed) for one in copied]
