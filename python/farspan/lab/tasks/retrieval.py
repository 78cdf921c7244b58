"""Tasks that find one thing among many.

In all of them the answer stands in one place of the input, every place is possible at every length, and nothing but
the rule tells the place. Accuracy that falls with length is then attention that does not find it.
"""

from __future__ import annotations

import string

import numpy as np
from numpy.typing import NDArray

from farspan.lab.tasks.task import Examples, Ids, Task, uniform

CLASSES = tuple("abcdefghij")


class MaxRetrieval(Task):
    """Items of a level and a class, such as `7c`. The answer is the class of the only item of the highest level.

    The level of the highest item is drawn first, then the others' below it, so no level means more in long inputs.
    """

    name = "max_retrieval"
    levels = tuple("0123456789")
    letters = tuple(level + class_ for level in levels for class_ in CLASSES)
    answers = CLASSES

    def draw(self, generator: np.random.Generator, count: int, length: int) -> Examples:
        highest = generator.integers(1, len(self.levels), size=(count, 1))
        levels = generator.integers(highest, size=(count, length))
        np.put_along_axis(levels, place := uniform(generator, length, (count, 1)), highest, axis=1)
        classes = uniform(generator, len(CLASSES), (count, length))
        answer = np.take_along_axis(classes, place, axis=1)
        return Examples.of(levels * len(CLASSES) + classes, self.ids(CLASSES)[answer])

    def define(self, symbols: list[str]) -> list[str]:
        highest = max(item[:-1] for item in symbols)
        found = [item[-1] for item in symbols if item[:-1] == highest]
        if len(found) > 1:
            self.refuse("one item of the highest level", symbols)
        return found


class FineMaxRetrieval(MaxRetrieval):
    """The same with a hundred levels, such as `07c`. Among few items the next level is far below the highest, among
    many it is the one right below."""

    name = "fine_max_retrieval"
    levels = tuple(f"{level:02}" for level in range(100))
    letters = tuple(level + class_ for level in levels for class_ in CLASSES)


class Induction(Task):
    """Letters, the last of which stands once before. The answer is the letter that came after it then."""

    name = "induction"
    letters = answers = tuple(string.ascii_lowercase)
    lengths = "an integer of at least 3"

    def nearest(self, length: int) -> int:
        return length if length > 2 else 0

    def draw(self, generator: np.random.Generator, count: int, length: int) -> Examples:
        last = uniform(generator, len(self.letters), (count, 1))
        inputs = uniform(generator, len(self.letters) - 1, (count, length))
        inputs += inputs >= last  # any letter but the last one
        inputs[:, -1:] = last
        before = uniform(generator, length - 2, (count, 1))
        np.put_along_axis(inputs, before, last, axis=1)
        return Examples.of(inputs, np.take_along_axis(inputs, before + 1, axis=1))

    def define(self, symbols: list[str]) -> list[str]:
        *text, last = symbols
        if text.count(last) != 1 or text[-1] == last:
            self.refuse("the last letter once before, and not right before", symbols)
        return [text[text.index(last) + 1]]


KEYS, VALUES, FILLER, QUESTION = tuple("ABCDEFGH"), tuple("0123456789"), tuple(string.ascii_lowercase), "?"


class Needle(Task):
    """Needles in a text of random letters: a key and its value. The text ends with `?` and one of the keys. The answer
    is that key's value.

    There is a needle for every four symbols, at most four, all with different keys. The needle asked for is any of
    them, and every depth is equally likely. `depth` says which it is, for accuracy by depth.
    """

    name = "needle"
    letters = (*FILLER, *KEYS, *VALUES, QUESTION)
    answers = VALUES
    lengths = "an integer of at least 4"

    def nearest(self, length: int) -> int:
        return length if length > 3 else 0

    def draw(self, generator: np.random.Generator, count: int, length: int) -> Examples:
        text = length - 2
        needles = max(1, min(4, text // 4))
        keys = self.ids(KEYS)[_different(generator, count, len(KEYS), needles)]
        values = self.ids(VALUES)[uniform(generator, len(VALUES), (count, needles))]
        # Needles one symbol long have places of their own; the second symbol of each moves those behind it.
        places = np.sort(_different(generator, count, text - needles, needles), axis=1) + np.arange(needles)
        inputs = self.ids(FILLER)[uniform(generator, len(FILLER), (count, length))]
        np.put_along_axis(inputs, places, keys, axis=1)
        np.put_along_axis(inputs, places + 1, values, axis=1)
        asked = uniform(generator, needles, (count, 1))
        inputs[:, -2:-1], inputs[:, -1:] = self.ids(QUESTION), np.take_along_axis(keys, asked, axis=1)
        return Examples.of(inputs, np.take_along_axis(values, asked, axis=1))

    def define(self, symbols: list[str]) -> list[str]:
        *text, question, key = symbols if len(symbols) > 1 else (*symbols, "")
        if question != QUESTION or QUESTION in text or key not in KEYS or text.count(key) != 1:
            self.refuse("a text, then ? and a key that the text has once", symbols)
        value = [*text, ""][text.index(key) + 1]
        if value not in VALUES:
            self.refuse("a value behind the key", symbols)
        return [value]

    def depth(self, inputs: Ids) -> NDArray[np.float64]:
        """`[count]`: how deep the needle asked for stands, from 0, the beginning of the text, to 1, its end. Every
        letter and every needle counts as one."""
        text, asked = inputs[:, :-2], inputs[:, -1:]
        is_key = np.isin(text, self.ids(KEYS))
        place = (text == asked).argmax(axis=1)
        before = (is_key & (np.arange(text.shape[1]) < place[:, None])).sum(axis=1)
        others = text.shape[1] - is_key.sum(axis=1) - 1
        return (place - before) / np.maximum(1, others)


def _different(generator: np.random.Generator, count: int, numbers: int, chosen: int) -> Ids:
    """`[count, chosen]` numbers below `numbers`, no two of a row the same, in any order."""
    return generator.random((count, numbers)).argsort(axis=1, kind="stable")[:, :chosen]


WRITE, IGNORE, READ = "w", "i", "r"


class FlipFlop(Task):
    """Bits, each behind `w` (write) or `i` (ignore), and an `r` (read) at the end. The answer is the last bit written.

    The last write is at any place, so long inputs need a long memory; before it a tenth of the bits is written.
    """

    name = "flip_flop"
    letters = (WRITE, IGNORE, READ, "0", "1")
    answers = ("0", "1")
    lengths = "an integer of at least 3"
    WRITTEN = 0.1

    def nearest(self, length: int) -> int:
        return length - 1 + length % 2 if length > 2 else 0

    def draw(self, generator: np.random.Generator, count: int, length: int) -> Examples:
        pairs = length // 2
        bits = self.ids(self.answers)[uniform(generator, 2, (count, pairs))]
        last = uniform(generator, pairs, (count, 1))
        place = np.arange(pairs)
        written = (place == 0) | (generator.random((count, pairs)) < self.WRITTEN)
        written = np.where(place < last, written, place == last)
        inputs = np.empty((count, length), np.int64)
        inputs[:, :-1:2] = self.ids((IGNORE, WRITE))[written.astype(np.int64)]
        inputs[:, 1::2] = bits
        inputs[:, -1] = self.letters.index(READ)
        return Examples.of(inputs, np.take_along_axis(bits, last, axis=1))

    def define(self, symbols: list[str]) -> list[str]:
        *text, last = symbols
        orders, bits = text[::2], text[1::2]
        if (
            last != READ
            or len(orders) != len(bits)
            or not set(orders) <= {WRITE, IGNORE}
            or not set(bits) <= {"0", "1"}
        ):
            self.refuse("w or i before every bit, then r", symbols)
        if orders[:1] != [WRITE]:
            self.refuse("a bit that is written first", symbols)
        return [bit for order, bit in zip(orders, bits, strict=True) if order == WRITE][-1:]
