"""Examples as token sequences, and how predictions for them are counted."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import farspan
from farspan.lab import tasks
from farspan.lab.tasks import Examples

IGNORED = -100


def stack() -> Examples:
    """Two stacks by hand: `a b POP` leaves a, `b POP POP` leaves nothing."""
    a, b, pop, end = (tasks.get("stack_manipulation").symbols.index(symbol) for symbol in ("a", "b", "POP", "$"))
    inputs = np.array([[a, b, pop], [b, pop, pop]])
    outputs = np.array([[a, end, end, end], [end, end, end, end]])
    return Examples.of(inputs, outputs, np.array([2, 1]))


def test_slots() -> None:
    task, examples = tasks.get("stack_manipulation"), stack()
    sequences = tasks.slots(task, examples)
    assert sequences.vocabulary == len(task.symbols) + 1
    assert sequences.prompt == 3
    slot = sequences.vocabulary - 1
    assert (sequences.tokens[:, :3] == examples.inputs).all()
    assert (sequences.tokens[:, 3:] == slot).all()
    a, end = task.symbols.index("a"), task.symbols.index("$")
    assert sequences.targets.tolist() == [
        [IGNORED] * 3 + [a, end, IGNORED, IGNORED],
        [IGNORED] * 3 + [end, IGNORED, IGNORED, IGNORED],
    ]
    assert (sequences.mask == (sequences.targets != IGNORED)).all()


def test_causal() -> None:
    task, examples = tasks.get("stack_manipulation"), stack()
    sequences, encoder = tasks.causal(task, examples), tasks.slots(task, examples)
    mark = sequences.vocabulary - 1
    assert (sequences.tokens[:, :3] == examples.inputs).all()
    assert (sequences.tokens[:, 3] == mark).all()
    assert (sequences.tokens[:, 4:] == examples.outputs[:, :-1]).all()
    assert (sequences.targets == encoder.targets).all()
    assert (sequences.mask == encoder.mask).all()
    assert sequences.prompt == 3


@pytest.mark.parametrize("name", tasks.NAMES)
@pytest.mark.parametrize("layout", [tasks.slots, tasks.causal])
def test_every_task_in_both_ways(name: str, layout: Callable[[tasks.Task, Examples], tasks.Sequences]) -> None:
    task = tasks.get(name)
    examples = task.sample(12, 5, 0)
    sequences = layout(task, examples)
    assert sequences.tokens.max() == sequences.vocabulary - 1
    assert sequences.tokens.shape == sequences.targets.shape == sequences.mask.shape
    assert (sequences.outputs(sequences.targets)[examples.mask] == examples.outputs[examples.mask]).all()
    assert sequences.mask.sum() == examples.mask.sum()


def test_a_causal_place_sees_no_output_that_it_predicts() -> None:
    """The token at a place and all before it are the same whatever is to be predicted there or later."""
    task = tasks.get("copy")
    examples = task.sample(6, 1, 0)
    for changed in range(6):
        outputs = examples.outputs.copy()
        outputs[:, changed:] = (outputs[:, changed:] + 1) % 26
        other = tasks.causal(task, Examples.of(examples.inputs, outputs))
        seen = 6 + changed + 1
        assert (other.tokens[:, :seen] == tasks.causal(task, examples).tokens[:, :seen]).all()


def test_accuracy_counts_what_counts() -> None:
    examples = stack()
    perfect = tasks.accuracy(examples, np.where(examples.mask, examples.outputs, 0))
    assert (perfect.symbols, perfect.exact) == (1.0, 1.0)
    predicted = examples.outputs.copy()
    predicted[0, 1] = 0
    found = tasks.accuracy(examples, predicted)
    assert found.symbols == pytest.approx(2 / 3)  # of the three outputs that count in both examples together
    assert found.exact == 0.5


def test_accuracy_of_guesses_is_chance() -> None:
    task = tasks.get("bucket_sort")
    examples = task.sample(50, 400, 0)
    guesses = np.random.default_rng(0).integers(5, size=examples.outputs.shape)
    assert tasks.accuracy(examples, guesses).symbols == pytest.approx(task.chance, abs=0.02)


def test_accuracy_takes_tensors() -> None:
    torch = pytest.importorskip("torch")
    examples = stack()
    assert tasks.accuracy(examples, torch.from_numpy(examples.outputs)).exact == 1.0


def test_accuracy_refuses_other_things() -> None:
    examples = stack()
    with pytest.raises(farspan.DtypeError, match=r"predicted: expected ids, integers \[count, m\], given float64"):
        tasks.accuracy(examples, np.zeros((2, 4)))
    with pytest.raises(farspan.ArgumentError, match=r"expected shape \[2, 4\], that of the outputs, given shape \[4\]"):
        tasks.accuracy(examples, np.zeros(4, int))
