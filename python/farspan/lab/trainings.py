"""How much there is to train, known before it begins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

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
