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

    def outputs(self, predicted: Any) -> Any:
        """The part of `[count, n + m, ...]` that predicts the outputs, `[count, m, ...]`."""
        return predicted[:, self.prompt :]


IGNORED = -100


def slots(task: Task, examples: Examples) -> Sequences:
    """The input, then an empty slot for every output. For a model without causal order."""
    empty = np.full_like(examples.outputs, len(task.symbols))
    return _sequences(task, examples, empty)


def causal(task: Task, examples: Examples) -> Sequences:
    """The input, the mark, and the outputs without the last. For a model with causal order."""
    mark = np.full_like(examples.outputs[:, :1], len(task.symbols))
    return _sequences(task, examples, np.hstack([mark, examples.outputs[:, :-1]]))


def _sequences(task: Task, examples: Examples, behind: Ids) -> Sequences:
    nowhere = np.zeros_like(examples.inputs, dtype=bool)
    mask = np.hstack([nowhere, examples.mask])
    targets = np.where(mask, np.hstack([examples.inputs, examples.outputs]), IGNORED)
    tokens = np.hstack([examples.inputs, behind])
    return Sequences(tokens, targets, mask, examples.inputs.shape[1], len(task.symbols) + 1)
