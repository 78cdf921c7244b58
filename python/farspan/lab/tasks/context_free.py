"""Tasks that an automaton with one stack solves."""

from __future__ import annotations

import operator
from itertools import takewhile

import numpy as np

from farspan.lab.tasks import expressions
from farspan.lab.tasks.expressions import Expressions
from farspan.lab.tasks.regular import DIGITS, MODULUS, SIGNS
from farspan.lab.tasks.task import Examples, Ids, Task, uniform

END = "$"
OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul}


class StackManipulation(Task):
    """A stack, bottom first, then what is done to it. The answer is what remains, top first, then `$`."""

    name = "stack_manipulation"
    letters = ("a", "b", "POP", "PUSH_a", "PUSH_b")
    answers = ("a", "b", END)

    def draw(self, generator: np.random.Generator, count: int, length: int) -> Examples:
        held = generator.integers(1, max(2, length), size=(count, 1))
        is_held = np.arange(length) < held
        inputs = np.where(is_held, uniform(generator, 2, (count, length)), 2 + uniform(generator, 3, (count, length)))
        pops = inputs == self.letters.index("POP")
        height = _heights(np.where(pops, -1, 1))
        # What was put at a height stays if no later height is less.
        least_later = np.minimum.accumulate(height[:, ::-1], axis=1)[:, ::-1]
        stays = ~pops & (least_later == height)
        pushed = np.where(is_held, inputs, inputs - self.letters.index("PUSH_a"))
        outputs = np.full((count, length + 1), self.symbols.index(END))
        row, place = np.nonzero(stays)
        outputs[row, height[row, -1] - height[row, place]] = pushed[row, place]
        return Examples.of(inputs, outputs, height[:, -1] + 1)

    def define(self, symbols: list[str]) -> list[str]:
        stack = list(takewhile(lambda symbol: symbol in self.answers, symbols))
        actions = symbols[len(stack) :]
        if not stack or not {"POP", "PUSH_a", "PUSH_b"}.issuperset(actions):
            self.refuse("a and b, at least one of them, then POP, PUSH_a and PUSH_b", symbols)
        for action in actions:
            if action != "POP":
                stack.append(action.removeprefix("PUSH_"))
            elif stack:
                stack.pop()
        return [*reversed(stack), END]


def _heights(steps: Ids) -> Ids:
    """A walk from 0 by steps of 1 and -1 that stays where it is instead of going below 0."""
    walk = steps.cumsum(axis=1)
    return walk - np.minimum(0, np.minimum.accumulate(walk, axis=1))


class ReverseString(Task):
    """The input from its end."""

    name = "reverse_string"
    letters = answers = ("a", "b")

    def draw(self, generator: np.random.Generator, count: int, length: int) -> Examples:
        inputs = uniform(generator, 2, (count, length))
        return Examples.of(inputs, inputs[:, ::-1].copy())

    def define(self, symbols: list[str]) -> list[str]:
        return symbols[::-1]


class Bracketed(Task):
    """What expressions in brackets share."""

    answers = DIGITS

    def evaluate(self, symbols: list[str]) -> int:
        """The value of a whole expression. A stack holds what is open: brackets, signs, and values."""
        stack: list[str | int] = []
        for symbol in symbols:
            if symbol != ")":
                stack.append(int(symbol) if symbol in DIGITS else symbol)
                continue
            if "(" not in stack:
                self.refuse("an opening bracket for every closing one", symbols)
            inside: list[str | int] = []
            while (last := stack.pop()) != "(":
                inside.insert(0, last)
            match inside:
                case ["-", int(value)]:
                    stack.append(-value % MODULUS)
                case [int(left), str(sign), int(right)]:
                    stack.append(OPERATIONS[sign](left, right) % MODULUS)
                case _:
                    self.refuse("(-operand) or (operand sign operand) in brackets", symbols)
        match stack:
            case [int(value)]:
                return value
            case [int(left), str(sign), int(right)] if sign in SIGNS:
                return int(OPERATIONS[sign](left, right) % MODULUS)
        self.refuse("a digit, or operand sign operand", symbols)


class ModularArithmeticBrackets(Bracketed):
    """The value modulo 5 of an expression in which every operation but the whole stands in brackets."""

    name = "modular_arithmetic_brackets"
    letters = expressions.SYMBOLS

    def nearest(self, length: int) -> int:
        return expressions.nearest_whole(length)

    def draw(self, generator: np.random.Generator, count: int, length: int) -> Examples:
        drawn = expressions.draw(generator, count, length)
        return Examples.of(drawn.symbols, drawn.value[:, None])  # digits and the other symbols are their own ids

    def define(self, symbols: list[str]) -> list[str]:
        return [str(self.evaluate(symbols))]


class SolveEquation(Bracketed):
    """The digit that x is, if an expression with x in place of one digit is to have the value behind `=`."""

    name = "solve_equation"
    letters = (*expressions.SYMBOLS, "x", "=")
    lengths = "an integer of at least 3"

    def nearest(self, length: int) -> int:
        return expressions.nearest_whole(length - 2) + 2 if length > 2 else 0

    def draw(self, generator: np.random.Generator, count: int, length: int) -> Examples:
        inputs = np.empty((count, length), np.int64)
        inputs[:, -2] = self.letters.index("=")
        solution = uniform(generator, MODULUS, count)
        rows = np.arange(count)
        while len(rows):
            # One expression in twenty has no digit that matters, because of products with 0: a few more are drawn.
            drawn = expressions.draw(generator, len(rows) + len(rows) // 8 + 4, length - 2)
            found, place, slope = (part[: len(rows)] for part in _digit_that_matters(generator, drawn))
            at, rows = rows[: len(found)], rows[len(found) :]
            # The solution is drawn anew: zeros are more than a fifth of the digits that matter, because they make
            # others not matter.
            before = drawn.symbols[found, place]
            inputs[at, :-2] = drawn.symbols[found]
            inputs[at, place] = self.letters.index("x")
            inputs[at, -1] = (drawn.value[found] + slope * (solution[at] - before)) % MODULUS
        return Examples.of(inputs, solution[:, None])

    def define(self, symbols: list[str]) -> list[str]:
        *expression, equal, value = symbols if len(symbols) > 2 else (*symbols, "", "")
        if equal != "=" or value not in DIGITS or expression.count("x") != 1 or "=" in expression:
            self.refuse("an expression with one x, then = and a digit", symbols)
        place = expression.index("x")
        for digit in DIGITS:
            if self.evaluate([*expression[:place], digit, *expression[place + 1 :]]) == int(value):
                return [digit]
        self.refuse("an equation that a digit solves", symbols)


def _digit_that_matters(generator: np.random.Generator, drawn: Expressions) -> tuple[Ids, Ids, Ids]:
    """For each row that has digits with a slope: the row, and place and slope of one of them, all equally likely."""
    digits = drawn.digits
    matters = np.flatnonzero(digits.slope)
    order = matters[np.lexsort((generator.random(len(matters)), digits.row[matters]))]
    row, first = np.unique(digits.row[order], return_index=True)
    return row, digits.place[order[first]], digits.slope[order[first]]
