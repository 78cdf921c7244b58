"""Expressions in brackets, drawn for all rows at once.

An operand is a digit, `(-operand)` or `(operand sign operand)`. Operands therefore have 1, 4, 5 or at least 7 symbols.
A whole expression is a digit, or `operand sign operand` without brackets around it.

The expressions of all rows grow together, a depth of brackets at a time: an array holds every operand of one depth.
Values then rise from the deepest operands to the whole, and slopes descend from the whole to the digits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from farspan.lab.tasks.regular import DIGITS, MODULUS, SIGNS
from farspan.lab.tasks.task import Ids, uniform

SYMBOLS = (*DIGITS, *SIGNS, "(", ")")
PLUS, MINUS, TIMES, OPEN, CLOSE = (SYMBOLS.index(symbol) for symbol in "+-*()")
NEGATED = 0.25
"""how often an operand is `(-operand)` where it could be `(operand sign operand)` as well"""


def nearest_whole(length: int) -> int:
    """The size of the longest whole expression of at most `length` symbols: all but 2, 4, 5 and 8 have one."""
    return {0: 0, 2: 1, 4: 3, 5: 3, 8: 7}.get(length, length)


@dataclass(frozen=True)
class Operands:
    """All operands of one depth, as arrays `[number]`. Those inside them are the next depth's: first the negated ones'
    only operands, then the left and then the right ones of pairs, each in the order of this depth."""

    row: Ids
    start: Ids
    """where it stands in its row"""
    digit: Ids
    """indices of digits"""
    negated: Ids
    """indices of `(-operand)`"""
    paired: Ids
    """indices of `(operand sign operand)`"""
    sign: Ids
    """`[number of pairs]`, as symbols"""


@dataclass(frozen=True)
class Digits:
    """The digits of expressions, as arrays `[number of digits]`."""

    row: Ids
    place: Ids
    slope: Ids
    """how much the whole grows modulo 5 when the digit grows by one"""


@dataclass(frozen=True)
class Expressions:
    symbols: Ids
    """`[count, size]`, indices into SYMBOLS"""
    value: Ids
    """`[count]`"""
    digits: Digits


def draw(generator: np.random.Generator, count: int, size: int) -> Expressions:
    """Whole expressions of a size that `nearest_whole` gave."""
    if size == 1:
        value = uniform(generator, MODULUS, count)
        row = np.arange(count)
        return Expressions(value[:, None], value, Digits(row, np.zeros_like(row), np.ones_like(row)))
    # A whole is what stands in the outer brackets of a pair.
    symbols = np.empty((count, size + 2), np.int64)
    depths = _grow(generator, symbols)
    values = [np.empty(0, np.int64)]  # inside the deepest operands is nothing
    for depth in reversed(depths):
        values.insert(0, _values(depth, symbols, values[0]))
    slope = np.ones(count, np.int64)
    found = []
    for depth, inside in zip(depths, values[1:], strict=True):
        found.append((depth.row[depth.digit], depth.start[depth.digit] - 1, slope[depth.digit]))
        slope = _slopes_inside(depth, inside, slope)
    row, place, slopes = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return Expressions(symbols[:, 1:-1], values[0], Digits(row, place, slopes))


def _grow(generator: np.random.Generator, symbols: Ids) -> list[Operands]:
    """Write an expression in outer brackets into every row. Gives its operands by depth."""
    count, size = symbols.shape
    row, start, sizes = np.arange(count), np.zeros(count, np.int64), np.full(count, size)
    depths: list[Operands] = []
    while len(row):
        can_negate, must_negate = _is_operand(sizes - 3), _splits(sizes) == 0
        negate = can_negate & (must_negate | (generator.random(len(row)) < NEGATED))
        if not depths:
            negate[:] = False
        digit, negated = np.flatnonzero(sizes == 1), np.flatnonzero(negate)
        paired = np.flatnonzero((sizes > 1) & ~negate)
        left = _split(generator, sizes[paired])
        sign = PLUS + uniform(generator, len(SIGNS), len(paired))
        bracketed = np.flatnonzero(sizes > 1)
        symbols[row[digit], start[digit]] = uniform(generator, MODULUS, len(digit))
        symbols[row[bracketed], start[bracketed]] = OPEN
        symbols[row[bracketed], (start + sizes)[bracketed] - 1] = CLOSE
        symbols[row[negated], start[negated] + 1] = MINUS
        symbols[row[paired], start[paired] + 1 + left] = sign
        depths.append(Operands(row, start, digit, negated, paired, sign))
        row, start, sizes = (
            np.concatenate([row[negated], row[paired], row[paired]]),
            np.concatenate([start[negated] + 2, start[paired] + 1, start[paired] + 2 + left]),
            np.concatenate([sizes[negated] - 3, left, sizes[paired] - 3 - left]),
        )
    return depths


def _is_operand(size: Any) -> Any:
    """For one size or an array of them."""
    return (size == 1) | (size == 4) | (size == 5) | (size >= 7)


SMALL = 16
_POSSIBLE = [
    [left for left in range(1, size - 3) if _is_operand(left) and _is_operand(size - 3 - left)] for size in range(SMALL)
]
SPLITS = np.array([len(lefts) for lefts in _POSSIBLE])
LEFTS = np.array([lefts + [0] * (SMALL - len(lefts)) for lefts in _POSSIBLE])
"""`[size, i]`: the sizes that the left operand of a small pair may have, so that the right one's is possible too"""


def _splits(size: Ids) -> Ids:
    """In how many ways a pair of a size can be split into a left and a right operand."""
    return np.where(size < SMALL, SPLITS[size.clip(max=SMALL - 1)], size - 10)


def _split(generator: np.random.Generator, size: Ids) -> Ids:
    """Sizes of the left operands of pairs, each possible one as likely as the others."""
    splits = _splits(size)
    drawn = (generator.random(len(size)) * splits).astype(np.int64)
    # In a large pair the smaller operand is 1, 4, 5, 7, 8, 9, ... long.
    smaller = np.minimum(drawn, splits - 1 - drawn)
    smaller = np.where(smaller < 3, np.array([1, 4, 5])[smaller.clip(max=2)], smaller + 4)
    large = np.where(2 * drawn < splits, smaller, size - 3 - smaller)
    return np.where(size < SMALL, LEFTS[size.clip(max=SMALL - 1), drawn.clip(max=SMALL - 1)], large)


def _values(depth: Operands, symbols: Ids, inside: Ids) -> Ids:
    """Values of a depth's operands, from those of the operands inside them."""
    operand, left, right = _parts(depth, inside)
    value = np.empty(len(depth.row), np.int64)
    value[depth.digit] = symbols[depth.row[depth.digit], depth.start[depth.digit]]
    value[depth.negated] = -operand
    value[depth.paired] = np.select(
        [depth.sign == PLUS, depth.sign == MINUS], [left + right, left - right], left * right
    )
    return value % MODULUS


def _slopes_inside(depth: Operands, inside: Ids, slope: Ids) -> Ids:
    """The whole's slopes by the operands inside a depth's, from those by the depth's own."""
    _, left, right = _parts(depth, inside)
    outer, times = slope[depth.paired], depth.sign == TIMES
    by_left = np.where(times, outer * right, outer)
    by_right = np.where(times, outer * left, np.where(depth.sign == MINUS, -outer, outer))
    return np.concatenate([-slope[depth.negated], by_left, by_right]) % MODULUS


def _parts(depth: Operands, inside: Ids) -> tuple[Ids, Ids, Ids]:
    first, second = len(depth.negated), len(depth.negated) + len(depth.paired)
    return inside[:first], inside[first:second], inside[second:]
