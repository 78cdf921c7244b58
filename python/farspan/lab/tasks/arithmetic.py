"""Arithmetic on written numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from farspan.lab.tasks.context_free import END, OPERATIONS
from farspan.lab.tasks.task import Examples, Ids, Task, uniform

BITS = ("0", "1")


class BinaryOperation(Task):
    """Two numbers, least bit first, with a sign between them. The answer is the result, least bit first, then `$`."""

    sign: ClassVar[str]
    answers = (*BITS, END)
    lengths = "an integer of at least 3"

    def nearest(self, length: int) -> int:
        return length if length > 2 else 0

    def draw(self, generator: np.random.Generator, count: int, length: int) -> Examples:
        inputs = uniform(generator, 2, (count, length))
        place = generator.integers(1, length - 1, size=(count, 1))
        np.put_along_axis(inputs, place, self.letters.index(self.sign), axis=1)
        places = np.arange(length)
        left = _numbers(np.where(places < place, inputs, 0))
        right = _numbers(np.where(places > place, inputs, 0))
        right = [number >> at + 1 for number, at in zip(right, place[:, 0].tolist(), strict=True)]
        results = [OPERATIONS[self.sign](*pair) for pair in zip(left, right, strict=True)]
        # The sum of numbers with n - 1 bits together has at most n - 1 bits, and so has their product.
        return _written(self, inputs, results, length - 1, least_first=True)

    def define(self, symbols: list[str]) -> list[str]:
        left, sign, right = "".join(symbols).partition(self.sign)
        if not left or not right or self.sign in right:
            self.refuse(f"two numbers with one {self.sign} between them", symbols)
        result = OPERATIONS[sign](int(left[::-1], 2), int(right[::-1], 2))
        return [*reversed(f"{result:b}"), END]


class BinaryAddition(BinaryOperation):
    """The sum of two binary numbers."""

    name = "binary_addition"
    sign = "+"
    letters = (*BITS, sign)


class BinaryMultiplication(BinaryOperation):
    """The product of two binary numbers."""

    name = "binary_multiplication"
    sign = "*"
    letters = (*BITS, sign)


class ComputeSqrt(Task):
    """The root of a binary number, greatest bit first, rounded down, then `$`."""

    name = "compute_sqrt"
    letters = BITS
    answers = (*BITS, END)

    def draw(self, generator: np.random.Generator, count: int, length: int) -> Examples:
        inputs = uniform(generator, 2, (count, length))
        roots = [math.isqrt(number) for number in _numbers(inputs[:, ::-1])]
        return _written(self, inputs, roots, (length + 1) // 2, least_first=False)

    def define(self, symbols: list[str]) -> list[str]:
        number = int("".join(symbols), 2)
        root = 0
        for bit in reversed(range((len(symbols) + 1) // 2)):
            if (root | 1 << bit) ** 2 <= number:
                root |= 1 << bit
        return [*f"{root:b}", END]


def _numbers(bits: Ids) -> list[int]:
    """Integers of any size from rows of bits, least bit first."""
    packed = np.packbits(bits.astype(np.uint8), axis=1, bitorder="little")
    return [int.from_bytes(row.tobytes(), "little") for row in packed]


def _written(task: Task, inputs: Ids, numbers: Sequence[int], width: int, *, least_first: bool) -> Examples:
    """Examples whose outputs are numbers of at most `width` bits without leading zeros, then `$`."""
    size = (width + 7) // 8
    packed = np.frombuffer(b"".join(number.to_bytes(size, "little") for number in numbers), np.uint8)
    bits = np.unpackbits(packed.reshape(-1, size), axis=1, bitorder="little")[:, :width].astype(np.int64)
    used = np.array([max(1, number.bit_length()) for number in numbers], np.int64)
    places = np.arange(width + 1)
    at = places if least_first else used[:, None] - 1 - places
    shown = np.take_along_axis(bits, np.broadcast_to(at.clip(0, width - 1), (len(numbers), width + 1)), axis=1)
    outputs = np.where(places < used[:, None], shown, task.symbols.index(END))
    return Examples.of(inputs, outputs, used + 1)


class Addition(Task):
    """Two decimal numbers of equally many digits, `+` between them and `=` behind. The answer is their sum, least digit
    first, with one digit more than each. The length is that of a number."""

    name = "addition"
    letters = (*"0123456789", "+", "=")
    answers = tuple("0123456789")

    def draw(self, generator: np.random.Generator, count: int, length: int) -> Examples:
        numbers = uniform(generator, 10, (count, 2, length))
        inputs = np.empty((count, 2 * length + 2), np.int64)
        inputs[:, :length], inputs[:, length + 1 : -1] = numbers[:, 0], numbers[:, 1]
        inputs[:, length], inputs[:, -1] = self.letters.index("+"), self.letters.index("=")
        sums = np.zeros((count, length + 1), np.int64)
        sums[:, :-1] = numbers.sum(axis=1)[:, ::-1]
        # A place carries if the last place up to it whose digits do not add up to 9 has digits that add up to more.
        places = np.where(sums == 9, 0, np.arange(length + 1))
        decisive = np.take_along_axis(sums, np.maximum.accumulate(places, axis=1), axis=1)
        sums[:, 1:] += decisive[:, :-1] > 9
        return Examples.of(inputs, sums % 10)

    def define(self, symbols: list[str]) -> list[str]:
        left, _, right = "".join(symbols[:-1]).partition("+")
        if symbols[-1] != "=" or not left or len(left) != len(right) or not (left + right).isdigit():
            self.refuse("two numbers of equally many digits, + between them, = behind", symbols)
        result, carry = [], 0
        for a, b in zip(reversed(left), reversed(right), strict=True):
            carry, digit = divmod(int(a) + int(b) + carry, 10)
            result.append(str(digit))
        return [*result, str(carry)]
