"""Examples as sequences of tokens, in the two ways in which a transformer reads a task.

`slots`, as the papers with encoders: as many empty slots as there are outputs follow the input. Every token sees every
other, and the prediction at a slot is that slot's output.

`causal`, for decoders: one mark follows the input, then the outputs without the last. Every token sees those before it,
and the prediction at the mark and at each output is the output that comes next.

Both have the same length, predict at the same places, and need one token more than the task has symbols.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from farspan.lab.tasks.task import Examples, Ids, Task


@dataclass(frozen=True)
class Sequences:
    """What a model reads, and what it should say. `[count, n + m]` for inputs `[count, n]` and outputs `[count, m]`."""

    tokens: Ids
    targets: Ids
    """what to predict at each place; -100, which torch's losses ignore, where nothing counts"""
    mask: NDArray[np.bool_]
    """where a prediction counts"""
    prompt: int
    """n: how many tokens the input has. A causal model that runs freely reads this many and the mark, then answers."""
    vocabulary: int
    """how many tokens there are: the task's symbols and the slot or mark, which is the last id"""
    positions: Ids | None
    """where each token stands for a model with coupled positions; None: the task couples nothing. A slot stands where
    its output belongs. In causal order each output stands there, and the mark at 0"""

    def outputs(self, predicted: Any) -> Any:
        """The part of `[count, n + m, ...]` that predicts the outputs, `[count, m, ...]`."""
        return predicted[:, self.prompt :]


IGNORED = -100


def slots(task: Task, examples: Examples) -> Sequences:
    """The input, then an empty slot for every output. For a model without causal order."""
    empty = np.full_like(examples.outputs, len(task.symbols))
    return _sequences(task, examples, empty, slots=True)


def causal(task: Task, examples: Examples) -> Sequences:
    """The input, the mark, and the outputs without the last. For a model with causal order."""
    mark = np.full_like(examples.outputs[:, :1], len(task.symbols))
    return _sequences(task, examples, np.hstack([mark, examples.outputs[:, :-1]]), slots=False)


def _sequences(task: Task, examples: Examples, behind: Ids, *, slots: bool) -> Sequences:
    nowhere = np.zeros_like(examples.inputs, dtype=bool)
    mask = np.hstack([nowhere, examples.mask])
    targets = np.where(mask, np.hstack([examples.inputs, examples.outputs]), IGNORED)
    tokens = np.hstack([examples.inputs, behind])
    prompt = examples.inputs.shape[1]
    return Sequences(tokens, targets, mask, prompt, len(task.symbols) + 1, _positions(task, examples, slots))


def _positions(task: Task, examples: Examples, slots: bool) -> Ids | None:
    found = task.coupling(examples.inputs, examples.outputs.shape[1])
    if found is None:
        return None
    of_inputs, of_outputs = found
    return np.hstack([of_inputs, of_outputs if slots else np.pad(of_outputs[:, :-1], ((0, 0), (1, 0)))])
