"""Tasks on strings that one stack does not solve."""

from __future__ import annotations

import numpy as np

from farspan.lab.tasks.task import Examples, Task, uniform

GAP = "_"


class DuplicateString(Task):
    """The input twice."""

    name = "duplicate_string"
    letters = answers = ("a", "b")

    def draw(self, generator: np.random.Generator, count: int, length: int) -> Examples:
        inputs = uniform(generator, 2, (count, length))
        return Examples.of(inputs, np.tile(inputs, 2))

    def define(self, symbols: list[str]) -> list[str]:
        return symbols + symbols


class MissingDuplicateString(Task):
    """A word twice, with `_` for one symbol of the second. The answer is that symbol."""

    name = "missing_duplicate_string"
    letters = ("a", "b", GAP)
    answers = ("a", "b")
    lengths = "an even integer of at least 2"

    def nearest(self, length: int) -> int:
        return 0 if length % 2 else length

    def draw(self, generator: np.random.Generator, count: int, length: int) -> Examples:
        half = length // 2
        word = uniform(generator, 2, (count, half))
        gap = uniform(generator, half, (count, 1))
        inputs = np.tile(word, 2)
        np.put_along_axis(inputs, half + gap, self.letters.index(GAP), axis=1)
        return Examples.of(inputs, np.take_along_axis(word, gap, axis=1))

    def define(self, symbols: list[str]) -> list[str]:
        first, second = symbols[: len(symbols) // 2], symbols[len(symbols) // 2 :]
        if len(first) != len(second) or GAP in first or second.count(GAP) != 1:
            self.refuse("two halves, one _ in the second", symbols)
        gap = second.index(GAP)
        if first[:gap] != second[:gap] or first[gap + 1 :] != second[gap + 1 :]:
            self.refuse("a word twice", symbols)
        return [first[gap]]


class OddsFirst(Task):
    """The 1st, 3rd, 5th ... symbol, then the 2nd, 4th, 6th ..."""

    name = "odds_first"
    letters = answers = ("a", "b")

    def draw(self, generator: np.random.Generator, count: int, length: int) -> Examples:
        inputs = uniform(generator, 2, (count, length))
        places = np.arange(length)
        return Examples.of(inputs, inputs[:, np.argsort(places % 2, kind="stable")])

    def define(self, symbols: list[str]) -> list[str]:
        return symbols[::2] + symbols[1::2]
