"""Which tokens of a task stand together for models with coupled positions."""

from __future__ import annotations

import numpy as np
import pytest

from farspan.lab import tasks


def read(name: str, length: int, reading: str) -> list[list[tuple[str, int]]]:
    """Each sequence as symbols with their places."""
    task = tasks.get(name)
    found = getattr(tasks, reading)(task, task.sample(length, 5, 3))
    symbols = [*task.symbols, "_"]
    assert found.positions.shape == found.tokens.shape
    rows = zip(found.tokens, found.positions, strict=True)
    return [[(symbols[token], int(place)) for token, place in zip(*row, strict=True)] for row in rows]


def test_digits_of_one_significance() -> None:
    for row in read("addition", 3, "slots"):
        assert [place for _, place in row] == [3, 2, 1, 0, 3, 2, 1, 0, 1, 2, 3, 4]
        assert [row[3][0], row[7][0]] == ["+", "="]
    for row in read("addition", 3, "causal"):
        assert [place for _, place in row[8:]] == [0, 1, 2, 3], "the mark, and the first three digits of the sum"


def test_bits_of_one_significance() -> None:
    signs = set()
    for row in read("binary_addition", 9, "slots"):
        sign = [symbol for symbol, _ in row].index("+")
        places = [place for _, place in row]
        assert places[:9] == [*range(1, sign + 1), 0, *range(1, 9 - sign)]
        assert places[9:] == list(range(1, len(row) - 8))
        signs.add(sign)
    assert len(signs) > 1, "numbers of several lengths"


@pytest.mark.parametrize("name", ["copy", "reverse_string"])
def test_each_output_stands_with_its_input(name: str) -> None:
    task = tasks.get(name)
    examples = task.sample(6, 4, 1)
    of_inputs, of_outputs = task.coupling(examples.inputs, 6)
    for inputs, outputs, here, there in zip(examples.inputs, examples.outputs, of_inputs, of_outputs, strict=True):
        at = dict(zip(here.tolist(), inputs.tolist(), strict=True))
        assert [at[place] for place in there.tolist()] == outputs.tolist()
    causal = tasks.causal(task, examples)
    np.testing.assert_array_equal(causal.positions[:, 7:], of_outputs[:, :-1])
    assert not causal.positions[:, 6].any()


def test_other_tasks_couple_nothing() -> None:
    task = tasks.get("parity_check")
    assert tasks.slots(task, task.sample(5, 2, 0)).positions is None
