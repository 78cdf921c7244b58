"""The tasks by hand: answers, inputs that are none, seeds, and what the registry says of each."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import farspan
from farspan.lab import tasks
from farspan.lab.tasks import Task, expressions

STORED = Path(__file__).resolve().parents[1] / "data" / "task_digests.json"

BY_HAND = [
    ("even_pairs", "a b b a", "1"),
    ("even_pairs", "a b", "0"),
    ("parity_check", "a b a", "1"),
    ("parity_check", "b b", "0"),
    ("cycle_navigation", "- - + 0 -", "3"),
    ("modular_arithmetic", "0 * 1 + 4 * 3 - 2", "0"),
    ("modular_arithmetic", "2 * 3 - 4 * 4 * 2", "4"),
    ("modular_arithmetic_brackets", "( ( 1 - 3 ) - 4 ) * ( - 2 )", "2"),
    ("modular_arithmetic_brackets", "3", "3"),
    ("solve_equation", "2 - x = 4", "3"),
    ("solve_equation", "( - x ) + ( 1 + 2 ) = 1", "2"),
    ("stack_manipulation", "a b b a PUSH_b POP POP", "b b a $"),
    ("stack_manipulation", "b POP POP POP PUSH_a PUSH_b", "b a $"),
    ("reverse_string", "a a b", "b a a"),
    ("duplicate_string", "a b b", "a b b a b b"),
    ("odds_first", "a a b b a", "a b a a b"),
    ("missing_duplicate_string", "a b b a a _ b a", "b"),
    ("binary_addition", "0 1 0 0 1 + 0 1 1", "0 0 0 1 1 $"),
    ("binary_addition", "0 0 + 0", "0 $"),
    ("binary_multiplication", "1 1 * 1 1", "1 0 0 1 $"),
    ("compute_sqrt", "1 0 0 1 0 1", "1 1 0 $"),
    ("compute_sqrt", "0", "0 $"),
    ("addition", "9 9 9 + 0 0 1 =", "0 0 0 1"),
    ("addition", "1 2 + 3 4 =", "6 4 0"),
    ("bucket_sort", "4 2 5 5 1", "1 2 4 5 5"),
    ("sort_integers", "10 9 2", "2 9 10"),
    ("copy", "f a r", "f a r"),
    ("max_retrieval", "3a 7c 0a", "c"),
    ("max_retrieval", "0j", "j"),
    ("fine_max_retrieval", "09a 10c 08b", "c"),
    ("induction", "q a b q", "a"),
    ("induction", "x x a q y z q", "y"),
    ("needle", "e A 3 f B 9 a ? B", "9"),
    ("needle", "A 0 ? A", "0"),
    ("flip_flop", "w 1 i 0 i 0 r", "1"),
    ("flip_flop", "w 1 i 0 w 0 i 1 r", "0"),
]

NO_INPUT = [
    ("parity_check", "a 0", "symbols among a, b"),
    ("parity_check", "", "at least one symbol"),
    ("modular_arithmetic", "1 +", "digits, and one sign between each two"),
    ("modular_arithmetic", "+ 1 -", "digits, and one sign between each two"),
    ("modular_arithmetic_brackets", "( 1 + 2", "a digit, or operand sign operand"),
    ("modular_arithmetic_brackets", "1 + )", "an opening bracket for every closing one"),
    ("modular_arithmetic_brackets", "( 3 )", "(-operand) or (operand sign operand) in brackets"),
    ("modular_arithmetic_brackets", "1 + 2 + 3", "a digit, or operand sign operand"),
    ("modular_arithmetic_brackets", "- 2", "a digit, or operand sign operand"),
    ("solve_equation", "1 + 2 = 3", "an expression with one x, then = and a digit"),
    ("solve_equation", "x", "an expression with one x, then = and a digit"),
    ("solve_equation", "= x = 2", "an expression with one x, then = and a digit"),
    ("solve_equation", "x * 0 = 1", "an equation that a digit solves"),
    ("stack_manipulation", "a POP b", "a and b, at least one of them, then POP, PUSH_a and PUSH_b"),
    ("stack_manipulation", "POP", "a and b, at least one of them, then POP, PUSH_a and PUSH_b"),
    ("missing_duplicate_string", "a b a b", "two halves, one _ in the second"),
    ("missing_duplicate_string", "_ b a b", "two halves, one _ in the second"),
    ("missing_duplicate_string", "a b _ a", "a word twice"),
    ("binary_addition", "+ 1", "two numbers with one + between them"),
    ("binary_addition", "1 + 1 + 1", "two numbers with one + between them"),
    ("binary_multiplication", "1 *", "two numbers with one * between them"),
    ("addition", "1 2 + 3 =", "two numbers of equally many digits, + between them, = behind"),
    ("addition", "1 + 2", "two numbers of equally many digits, + between them, = behind"),
    ("addition", "1 + = =", "two numbers of equally many digits, + between them, = behind"),
    ("sort_integers", "100", "symbols among 0, 1, ..., 99"),
    ("max_retrieval", "7a 3b 7c", "one item of the highest level"),
    ("fine_max_retrieval", "17a 03b 17c", "one item of the highest level"),
    ("fine_max_retrieval", "7a", "symbols among 00a, 00b, ..., 99j"),
    ("induction", "a b c", "the last letter once before, and not right before"),
    ("induction", "a b a c a", "the last letter once before, and not right before"),
    ("induction", "b a a", "the last letter once before, and not right before"),
    ("induction", "a", "the last letter once before, and not right before"),
    ("needle", "A 3 B 4 ? C", "a text, then ? and a key that the text has once"),
    ("needle", "A 3 A 4 ? A", "a text, then ? and a key that the text has once"),
    ("needle", "A 3 A", "a text, then ? and a key that the text has once"),
    ("needle", "?", "a text, then ? and a key that the text has once"),
    ("needle", "3 A ? A", "a value behind the key"),
    ("flip_flop", "w 1 i r", "w or i before every bit, then r"),
    ("flip_flop", "1 w r", "w or i before every bit, then r"),
    ("flip_flop", "w 1 i 0", "w or i before every bit, then r"),
    ("flip_flop", "i 1 w 0 r", "a bit that is written first"),
    ("flip_flop", "r", "a bit that is written first"),
]


@pytest.mark.parametrize(("name", "given", "answer"), BY_HAND)
def test_answers(name: str, given: str, answer: str) -> None:
    assert tasks.get(name).answer(given.split()) == answer.split()


@pytest.mark.parametrize(("name", "given", "expected"), NO_INPUT)
def test_what_is_no_input(name: str, given: str, expected: str) -> None:
    with pytest.raises(farspan.ArgumentError, match=re.escape(f"symbols: expected an input of {name}: {expected}")):
        tasks.get(name).answer(given.split())


def test_an_error_shows_the_beginning_of_a_long_input() -> None:
    with pytest.raises(farspan.ArgumentError, match=r"given (1 ){40}\.\.\.$"):
        tasks.get("modular_arithmetic").answer(["1"] * 999)


def test_deep_brackets_need_no_deep_python() -> None:
    deep = ["0", "+", *["(", "-"] * 5001, "3", *[")"] * 5001]
    assert tasks.get("modular_arithmetic_brackets").answer(deep) == ["2"]


def test_the_registry() -> None:
    assert len(tasks.NAMES) == 23
    for name in tasks.NAMES:
        task = tasks.get(name)
        assert task.name == name
        assert task.chance == 1 / len(set(task.answers))
        assert set(task.letters) | set(task.answers) == set(task.symbols)
        assert len(set(task.symbols)) == len(task.symbols)
        assert task.__doc__
    assert tasks.get("bucket_sort").chance == 0.2
    with pytest.raises(farspan.ArgumentError, match=r"name: expected one of even_pairs, .*, flip_flop, given 'sort'"):
        tasks.get("sort")


@pytest.mark.parametrize(
    ("name", "length", "expected"),
    [
        ("parity_check", 0, "an integer of at least 1"),
        ("parity_check", 2.5, "an integer of at least 1"),
        ("missing_duplicate_string", 7, "an even integer of at least 2"),
        ("solve_equation", 2, "an integer of at least 3"),
        ("binary_addition", 2, "an integer of at least 3"),
        ("induction", 2, "an integer of at least 3"),
        ("needle", 3, "an integer of at least 4"),
        ("flip_flop", 2, "an integer of at least 3"),
    ],
)
def test_lengths_that_no_input_has(name: str, length: int, expected: str) -> None:
    with pytest.raises(farspan.ArgumentError, match=f"length: expected {expected} for {name}, given {length}"):
        tasks.get(name).sample(length, 1, 0)


def test_counts_and_seeds() -> None:
    task = tasks.get("copy")
    with pytest.raises(farspan.ArgumentError, match="count: expected an integer of at least 1, given 0"):
        task.sample(3, 0, 0)
    with pytest.raises(farspan.ArgumentError, match="seed: expected an integer of at least 0, given -1"):
        task.sample(3, 1, -1)
    first = task.sample(9, 4, 5)
    assert (first.inputs == task.sample(np.int64(9), np.int64(4), np.int64(5)).inputs).all()
    assert (first.inputs != task.sample(9, 4, 6).inputs).any()
    assert (first.inputs[0, :8] != task.sample(8, 4, 5).inputs[0]).any(), "another length is another draw"


def test_possible_lengths() -> None:
    assert tasks.get("modular_arithmetic").possible_lengths(8) == [1, 3, 5, 7]
    assert tasks.get("modular_arithmetic_brackets").possible_lengths(12) == [1, 3, 6, 7, 9, 10, 11, 12]
    assert tasks.get("solve_equation").possible_lengths(12) == [3, 5, 8, 9, 11, 12]
    assert tasks.get("missing_duplicate_string").possible_lengths(7) == [2, 4, 6]
    assert tasks.get("flip_flop").possible_lengths(6) == [3, 5]
    assert tasks.get("addition").possible_lengths(3) == [1, 2, 3]


def test_wholes_of_every_size_that_the_grammar_has() -> None:
    """From the grammar itself: which sizes can be written at all."""
    operands = {1}
    for _ in range(60):
        operands |= {size + 3 for size in operands} | {a + b + 3 for a in operands for b in operands if a + b < 60}
    wholes = {1} | {a + b + 1 for a in operands for b in operands}
    for length in range(1, 60):
        assert expressions.nearest_whole(length) == max(size for size in wholes if size <= length)


def test_examples_are_the_same_on_every_machine() -> None:
    """Stored, so that another numpy or another processor cannot change them unseen."""
    found = {name: digest(tasks.get(name)) for name in tasks.NAMES}
    assert found == json.loads(STORED.read_text())


def digest(task: Task) -> str:
    hashed = hashlib.sha256()
    for length, seed in ((12, 0), (40, 1)):
        examples = task.sample(length, 9, seed)
        for array in (examples.inputs, examples.outputs, examples.mask):
            hashed.update(repr((array.shape, array.astype(int).tolist())).encode())
    return hashed.hexdigest()[:16]


def test_tasks_need_no_torch() -> None:
    program = (
        "import sys; sys.modules['torch'] = None; from farspan.lab import tasks; tasks.get('copy').sample(4, 2, 0)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_task_of_ones_own() -> None:
    class Constant(Task):
        """The first letter."""

        name = "first"
        letters = answers = ("a", "b")

        def draw(self, generator: np.random.Generator, count: int, length: int) -> tasks.Examples:
            inputs = generator.integers(2, size=(count, length))
            return tasks.Examples.of(inputs, inputs[:, :1])

        def define(self, symbols: list[str]) -> list[str]:
            return symbols[:1]

    examples = Constant().sample(5, 3, 0)
    assert Constant().answer(Constant().symbols[i] for i in examples.inputs[0]) == [
        Constant().symbols[examples.outputs[0, 0]]
    ]
