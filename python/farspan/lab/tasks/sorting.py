"""Tasks that put symbols in order, or keep the order they have."""

from __future__ import annotations

import string

import numpy as np

from farspan.lab.tasks.task import Examples, Task, uniform


class BucketSort(Task):
    """Digits from 1 to 5 in order."""

    name = "bucket_sort"
    letters = answers = tuple("12345")

    def draw(self, generator: np.random.Generator, count: int, length: int) -> Examples:
        inputs = uniform(generator, len(self.letters), (count, length))
        return Examples.of(inputs, np.sort(inputs, axis=1))

    def define(self, symbols: list[str]) -> list[str]:
        return [letter for letter in self.letters for symbol in symbols if symbol == letter]


class SortIntegers(BucketSort):
    """Integers below 100, each one symbol, in order."""

    name = "sort_integers"
    letters = answers = tuple(map(str, range(100)))


class Copy(Task):
    """The input."""

    name = "copy"
    letters = answers = tuple(string.ascii_lowercase)

    def draw(self, generator: np.random.Generator, count: int, length: int) -> Examples:
        inputs = uniform(generator, len(self.letters), (count, length))
        return Examples.of(inputs, inputs.copy())

    def define(self, symbols: list[str]) -> list[str]:
        return symbols
