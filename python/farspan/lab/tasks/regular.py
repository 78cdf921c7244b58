"""Tasks that a finite automaton solves."""

from __future__ import annotations

import numpy as np

from farspan.lab.tasks.task import Examples, Ids, Task, uniform

MODULUS = 5
DIGITS = tuple("01234")
SIGNS = tuple("+-*")


class EvenPairs(Task):
    """Whether the first symbol is the last: then the pairs ab and ba together are even in number."""

    name = "even_pairs"
    letters = ("a", "b")
    answers = ("0", "1")

    def draw(self, generator: np.random.Generator, count: int, length: int) -> Examples:
        inputs = uniform(generator, 2, (count, length))
        equal = (inputs[:, :1] == inputs[:, -1:]).astype(np.int64)
        return Examples.of(inputs, self.ids(self.answers)[equal])

    def define(self, symbols: list[str]) -> list[str]:
        return ["1" if symbols[0] == symbols[-1] else "0"]


class ParityCheck(Task):
    """Whether the number of b is odd."""

    name = "parity_check"
    letters = ("a", "b")
    answers = ("0", "1")

    def draw(self, generator: np.random.Generator, count: int, length: int) -> Examples:
        inputs = uniform(generator, 2, (count, length))
        return Examples.of(inputs, self.ids(self.answers)[inputs.sum(axis=1, keepdims=True) % 2])

    def define(self, symbols: list[str]) -> list[str]:
        return [str(symbols.count("b") % 2)]


class CycleNavigation(Task):
    """Where a walk on a cycle of five places ends: `0` stays, `+` and `-` go to a neighbour."""

    name = "cycle_navigation"
    letters = ("0", "+", "-")
    answers = DIGITS
    steps = (0, 1, -1)

    def draw(self, generator: np.random.Generator, count: int, length: int) -> Examples:
        inputs = uniform(generator, 3, (count, length))
        place = np.array(self.steps)[inputs].sum(axis=1, keepdims=True) % MODULUS
        return Examples.of(inputs, self.ids(self.answers)[place])

    def define(self, symbols: list[str]) -> list[str]:
        place = 0
        for symbol in symbols:
            place = {"0": place, "+": place + 1, "-": place - 1}[symbol] % MODULUS
        return [str(place)]


class ModularArithmetic(Task):
    """The value modulo 5 of digits with signs between them; products come before sums."""

    name = "modular_arithmetic"
    letters = (*DIGITS, *SIGNS)
    answers = DIGITS

    def nearest(self, length: int) -> int:
        return length - 1 + length % 2

    def draw(self, generator: np.random.Generator, count: int, length: int) -> Examples:
        digits = uniform(generator, MODULUS, (count, length // 2 + 1))
        signs = uniform(generator, 3, (count, length // 2))
        inputs = np.empty((count, length), np.int64)
        inputs[:, ::2], inputs[:, 1::2] = digits, self.ids(SIGNS)[signs]
        return Examples.of(inputs, self.ids(DIGITS)[_value(digits, signs)[:, None]])

    def define(self, symbols: list[str]) -> list[str]:
        digits, signs = symbols[::2], symbols[1::2]
        if len(digits) != len(signs) + 1 or not set(digits) <= set(DIGITS) or not set(signs) <= set(SIGNS):
            self.refuse("digits, and one sign between each two", symbols)
        terms = [int(digits[0])]
        for sign, digit in zip(signs, map(int, digits[1:]), strict=True):
            if sign == "*":
                terms[-1] *= digit
            else:
                terms.append(digit if sign == "+" else -digit)
        return [str(sum(terms) % MODULUS)]


def _value(digits: Ids, signs: Ids) -> Ids:
    """`[count]`, from the left: the sum of finished terms, and the term that products still extend."""
    total, term = np.zeros(len(digits), np.int64), digits[:, 0]
    for sign, digit in zip(signs.T, digits.T[1:], strict=True):
        product = sign == SIGNS.index("*")
        total = np.where(product, total, total + term)
        term = np.where(product, term * digit % MODULUS, np.where(sign == SIGNS.index("-"), -digit, digit))
    return (total + term) % MODULUS
