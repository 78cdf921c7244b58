"""How much there is to train, known before it begins, and how much of it is done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping

from farspan.lab.progress import Progress

Trainings = Counter[int]
"""How many trainings there are of so many steps each."""


def all_steps(trainings: Mapping[int, int]) -> int:
    """The steps of all of them."""
    return sum(steps * count for steps, count in trainings.items())


def in_words(trainings: Mapping[int, int]) -> str:
    """`1 training of 6,000 steps and 3 of 1,000`, the longest first."""
    (steps, count), *others = sorted(trainings.items(), reverse=True)
    first = f"{count:,} training{'s' * (count > 1)} of {steps:,} step{'s' * (steps > 1)}"
    return " and ".join([first, *(f"{count:,} of {steps:,}" for steps, count in others)])


class Tally:
    """How many steps of all trainings are done."""

    def __init__(self, trainings: Trainings, progress: Progress | None) -> None:
        """`progress(done, total, next_step)` hears of it."""
        self._total, self._progress = all_steps(trainings), progress
        self._done: dict[Hashable, int] = {}

    def count(self, training: Hashable, done: int) -> None:
        """So many steps of this training are done."""
        self._done[training] = done

    def tell(self, next_step: str) -> None:
        """What comes now."""
        if self._progress is not None:
            self._progress(sum(self._done.values()), self._total, next_step)
