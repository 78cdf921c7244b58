"""Every task, at any length and seed: what is drawn is what the definition says, and nothing about it is lopsided."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike

import farspan
from farspan.lab import tasks
from farspan.lab.tasks import Examples, Task

SEEDS = st.integers(0, 2**64)


@pytest.mark.parametrize("name", tasks.NAMES)
@given(length=st.integers(1, 70), seed=SEEDS, count=st.integers(1, 4))
def test_what_is_drawn_is_what_the_definition_says(name: str, length: int, seed: int, count: int) -> None:
    task = tasks.get(name)
    if not task.nearest(length):
        with pytest.raises(
            farspan.ArgumentError, match=re.escape(f"length: expected {task.lengths} for {name}, given")
        ):
            task.sample(length, count, seed)
        return
    examples = task.sample(length, count, seed)
    assert examples.inputs.shape[0] == count
    assert examples.outputs.shape == examples.mask.shape == (count, examples.outputs.shape[1])
    for row in range(count):
        assert task.answer(words(task, examples.inputs[row])) == counted(task, examples, row)


@pytest.mark.parametrize("name", tasks.NAMES)
@given(length=st.integers(200, 700), seed=SEEDS)
def test_long_ones_too(name: str, length: int, seed: int) -> None:
    task = tasks.get(name)
    examples = task.sample(task.nearest(length) or length + 1, 1, seed)
    assert task.answer(words(task, examples.inputs[0])) == counted(task, examples, 0)


@pytest.mark.parametrize("name", tasks.NAMES)
@given(length=st.integers(1, 40))
def test_a_length_is_the_input_s(name: str, length: int) -> None:
    task = tasks.get(name)
    nearest = task.nearest(length)
    assert nearest <= length
    assert nearest in (0, *task.possible_lengths(40))
    if nearest:
        size = task.sample(length, 1, 0).inputs.shape[1]
        assert size == (2 * nearest + 2 if name == "addition" else nearest)


def words(task: Task, ids: np.ndarray) -> list[str]:
    return [task.symbols[i] for i in ids]


def counted(task: Task, examples: Examples, row: int) -> list[str]:
    assert (examples.mask[row] == (np.arange(examples.mask.shape[1]) < examples.mask[row].sum())).all()
    return words(task, examples.outputs[row][examples.mask[row]])


# What follows draws much once and compares shares: chi-square, beyond one in a million.


def assert_even(counts: ArrayLike) -> None:
    """That each count could come from the same share. Wilson and Hilferty's normal approximation of chi-square."""
    counts = np.asarray(counts, float).ravel()
    assert counts.mean() >= 20, "too few draws to tell"
    degrees = len(counts) - 1
    statistic = ((counts - counts.mean()) ** 2 / counts.mean()).sum()
    sigmas = ((statistic / degrees) ** (1 / 3) - (1 - 2 / (9 * degrees))) / np.sqrt(2 / (9 * degrees))
    assert sigmas < 5, f"not even: {counts}"


def drawn(name: str, length: int, count: int = 3000) -> tuple[list[list[str]], list[list[str]]]:
    task = tasks.get(name)
    examples = task.sample(length, count, seed=17)
    rows = range(count)
    return [words(task, examples.inputs[row]) for row in rows], [counted(task, examples, row) for row in rows]


EVERY_PLACE = [
    "even_pairs", "parity_check", "cycle_navigation", "reverse_string", "duplicate_string", "odds_first", "bucket_sort",
    "copy", "sort_integers", "compute_sqrt",
]  # fmt: skip


@pytest.mark.parametrize("name", EVERY_PLACE)
def test_every_letter_is_as_likely_at_every_place(name: str) -> None:
    task = tasks.get(name)
    inputs = task.sample(8, 3000, seed=3).inputs
    for place in range(8):
        assert_even(np.bincount(inputs[:, place], minlength=len(task.letters)))


@pytest.mark.parametrize(
    ("name", "length"),
    [
        ("even_pairs", 9), ("parity_check", 9), ("cycle_navigation", 60), ("missing_duplicate_string", 10),
        ("solve_equation", 5), ("solve_equation", 20), ("max_retrieval", 30), ("fine_max_retrieval", 30),
        ("induction", 30), ("needle", 30), ("flip_flop", 31),
    ],
)  # fmt: skip
def test_every_answer_is_as_likely(name: str, length: int) -> None:
    shares = Counter(answer[0] for answer in drawn(name, length)[1])
    assert_even([shares[symbol] for symbol in tasks.get(name).answers])


@pytest.mark.parametrize("name", ["binary_addition", "binary_multiplication"])
def test_numbers_may_be_zero_and_all_sizes_are_as_likely(name: str) -> None:
    """The published generators draw no zero, so a number of one bit is always 1 there."""
    inputs, _ = drawn(name, 9)
    sign = tasks.get(name).letters[-1]
    assert_even(np.bincount([word.index(sign) - 1 for word in inputs], minlength=7))
    assert_even([sum(word[:2] == [bit, sign] for word in inputs) for bit in "01"])
    assert_even([sum(word[-2:] == [sign, bit] for word in inputs) for bit in "01"])


def test_every_digit_of_a_sum_is_as_likely() -> None:
    inputs = tasks.get("addition").sample(3, 3000, seed=1).inputs
    for place in (0, 1, 2, 4, 5, 6):
        assert_even(np.bincount(inputs[:, place], minlength=10))


def test_stacks_of_every_height_and_every_action() -> None:
    inputs, outputs = drawn("stack_manipulation", 9)
    assert_even(np.bincount([sum(symbol in "ab" for symbol in word) - 1 for word in inputs], minlength=8))
    actions = Counter(symbol for word in inputs for symbol in word if len(symbol) > 1)
    assert_even([actions[action] for action in ("POP", "PUSH_a", "PUSH_b")])
    assert ["$"] in outputs


def test_the_gap_is_anywhere_in_the_second_half() -> None:
    assert_even(np.bincount([word.index("_") - 6 for word in drawn("missing_duplicate_string", 12)[0]], minlength=6))


def test_every_digit_and_sign_of_an_expression_is_as_likely() -> None:
    for name, length in (("modular_arithmetic", 9), ("modular_arithmetic_brackets", 30)):
        shares = Counter(symbol for word in drawn(name, length, 1500)[0] for symbol in word)
        assert_even([shares[digit] for digit in "01234"])
        assert_even([shares[sign] for sign in "+*"])  # - is also the sign of one operand


@pytest.mark.parametrize("length", [14, 21, 30])
def test_every_size_of_a_left_operand_is_as_likely(length: int) -> None:
    operands = {1, 4, 5, *range(7, length)}
    possible = [left for left in sorted(operands) if length - 1 - left in operands]
    inputs, _ = drawn("modular_arithmetic_brackets", length)
    sizes = Counter(first_operand(word) for word in inputs)
    assert sorted(sizes) == possible
    assert_even(list(sizes.values()))


def first_operand(word: list[str]) -> int:
    depth = np.cumsum([{"(": 1, ")": -1}.get(symbol, 0) for symbol in word])
    return int(np.flatnonzero(depth == 0)[0]) + 1


def test_x_is_any_digit_that_matters() -> None:
    """The published generator takes the next digit behind a random place, so a digit behind brackets more often."""
    place_of_x: dict[int, list[int]] = {}
    for word in drawn("solve_equation", 24, 6000)[0]:
        if "*" not in word:  # then every digit matters
            digits = [symbol for symbol in word[:-2] if symbol in "01234x"]
            place_of_x.setdefault(len(digits), []).append(digits.index("x"))
    assert len(place_of_x) > 1
    for digits, places in place_of_x.items():
        if len(places) > 20 * digits:
            assert_even(np.bincount(places, minlength=digits))


@pytest.mark.parametrize(("name", "levels"), [("max_retrieval", 10), ("fine_max_retrieval", 100)])
def test_the_highest_item_is_anywhere_and_of_any_level(name: str, levels: int) -> None:
    items, _ = drawn(name, 12)
    highest = [max(range(12), key=lambda place: word[place][:-1]) for word in items]
    assert_even(np.bincount(highest, minlength=12))
    found = [int(word[at][:-1]) - 1 for word, at in zip(items, highest, strict=True)]
    assert_even(np.bincount(found, minlength=levels - 1))


def test_the_next_level_comes_closer_in_fine_levels_alone() -> None:
    def distance(name: str, length: int) -> float:
        levels = tasks.get(name).sample(length, 2000, seed=4).inputs // 10
        *_, second, first = np.sort(levels, axis=1).T
        return float(np.mean(first - second))

    assert distance("max_retrieval", 16) < 1.2
    assert distance("fine_max_retrieval", 16) > 3
    assert distance("fine_max_retrieval", 500) < 1.2


def test_letters_and_needles_are_anywhere() -> None:
    assert_even(np.bincount([word.index(word[-1]) for word in drawn("induction", 12)[0]], minlength=10))
    for length, needles in ((9, 1), (12, 2), (40, 4)):
        inputs = tasks.get("needle").sample(length, 6000, seed=2).inputs
        depth = tasks.get("needle").depth(inputs)
        assert_even(np.unique(depth, return_counts=True)[1])
        assert np.unique(depth) == pytest.approx(np.linspace(0, 1, length - 2 - needles))
    keys = [word[-1] for word in drawn("needle", 12)[0]]
    assert_even([keys.count(key) for key in "ABCDEFGH"])


def test_the_last_write_is_anywhere() -> None:
    pairs = [word[:-1:2] for word in drawn("flip_flop", 25)[0]]
    assert_even(np.bincount([11 - orders[::-1].index("w") for orders in pairs], minlength=12))
