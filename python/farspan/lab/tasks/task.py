"""What every task is: symbols, a generator of examples, and the definition of an answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from typing import ClassVar, NoReturn

import numpy as np
from numpy.typing import NDArray

from farspan._errors import ArgumentError, message

Ids = NDArray[np.int64]
SHOWN = 40
"""symbols of a malformed input in an error"""


@dataclass(frozen=True)
class Examples:
    """Inputs and the right outputs, as ids: `task.symbols[id]` is the symbol."""

    inputs: Ids
    """`[count, n]`"""
    outputs: Ids
    """`[count, m]`; what does not count is filled up with one symbol"""
    mask: NDArray[np.bool_]
    """`[count, m]`: which outputs count. They come first in every row."""

    @classmethod
    def of(cls, inputs: Ids, outputs: Ids, counting: Ids | None = None) -> Examples:
        """`counting` `[count]`: how many outputs count in each row. None: all."""
        width = outputs.shape[1]
        counting = np.full(len(outputs), width) if counting is None else counting
        return cls(inputs, outputs, np.arange(width) < counting[:, None])


class Task(ABC):
    """A task has a name, symbols and a chance level; it draws examples, and says what the answer to an input is.

    A task of your own is a subclass with the three class attributes and `draw` and `define`. Both say what the task
    is, in two ways: `draw` fast, for many inputs at once, and `define` in plain Python, for one. Tests compare them.
    """

    name: ClassVar[str]
    letters: ClassVar[tuple[str, ...]]
    """symbols of inputs"""
    answers: ClassVar[tuple[str, ...]]
    """symbols of outputs"""
    lengths: ClassVar[str] = "an integer of at least 1"
    """which lengths there are, in the words of an error"""

    @cached_property
    def symbols(self) -> tuple[str, ...]:
        """What ids stand for: the letters, then the answers that are not letters too."""
        return tuple(dict.fromkeys((*self.letters, *self.answers)))

    @property
    def chance(self) -> float:
        """The accuracy of even guesses among the answer symbols."""
        return 1 / len(self.answers)

    def sample(self, length: int, count: int, seed: int) -> Examples:
        """`count` examples whose inputs have the length `length`, as the task counts it. The same arguments give the
        same examples on every machine.

            tasks.get("parity_check").sample(40, count=128, seed=0)
        """
        found = self.nearest(length) if isinstance(length, Integral) and length > 0 else 0
        if not found:
            raise ArgumentError(message("length", f"{self.lengths} for {self.name}", repr(length)))
        for name, number, least in (("count", count, 1), ("seed", seed, 0)):
            if not isinstance(number, Integral) or number < least:
                raise ArgumentError(message(name, f"an integer of at least {least}", repr(number)))
        generator = np.random.Generator(np.random.PCG64([int(seed), found]))
        return self.draw(generator, int(count), found)

    def answer(self, symbols: Iterable[str]) -> list[str]:
        """The answer to one input, which is what defines the task. ArgumentError: the task has no such input."""
        given = list(symbols)
        strange = next((x for x in given if x not in self.letters), None)
        if strange is not None:
            self.refuse(f"symbols among {_listed(self.letters)}", repr(strange))
        if not given:
            self.refuse("at least one symbol", "none")
        return self.define(given)

    def possible_lengths(self, longest: int) -> list[int]:
        """The lengths up to `longest` whose inputs differ, such as the odd ones for modular arithmetic."""
        return [length for length in range(1, longest + 1) if self.nearest(length) == length]

    def nearest(self, length: int) -> int:
        """The length that examples have when one of `length` >= 1 is asked for: the next one below that the task has.
        0: there is none."""
        return length

    @abstractmethod
    def draw(self, generator: np.random.Generator, count: int, length: int) -> Examples:
        """Examples of a length that `nearest` gave."""

    @abstractmethod
    def define(self, symbols: list[str]) -> list[str]:
        """The answer to at least one symbol, all of them letters."""

    def ids(self, symbols: Iterable[str]) -> Ids:
        """`[number of symbols]`: indexed with numbers it turns them into ids of these symbols."""
        return np.array([self.symbols.index(symbol) for symbol in symbols], np.int64)

    def refuse(self, expected: str, given: list[str] | str) -> NoReturn:
        """Raise the error of an input that the task does not have."""
        if isinstance(given, list):
            given = " ".join(given[:SHOWN]) + (" ..." if len(given) > SHOWN else "")
        raise ArgumentError(message("symbols", f"an input of {self.name}: {expected}", given))


def _listed(symbols: tuple[str, ...]) -> str:
    """A few symbols, or the first and the last of many."""
    return ", ".join(symbols) if len(symbols) <= 16 else f"{symbols[0]}, {symbols[1]}, ..., {symbols[-1]}"


def uniform(generator: np.random.Generator, symbols: int, shape: tuple[int, ...] | int) -> Ids:
    """Numbers from 0 to `symbols - 1`, each as likely as the others."""
    return generator.integers(symbols, size=shape, dtype=np.int64)
