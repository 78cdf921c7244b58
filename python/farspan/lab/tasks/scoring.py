"""How many predictions are right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from farspan._errors import ArgumentError, DtypeError, message
from farspan.lab.tasks.task import Examples


@dataclass(frozen=True)
class Accuracy:
    """Shares from 0 to 1."""

    symbols: float
    """of all outputs that count, those that are right"""
    exact: float
    """of all examples, those in which every output that counts is right"""


def accuracy(examples: Examples, predicted: Any) -> Accuracy:
    """`predicted`: ids `[count, m]` for the outputs of `examples`, a numpy array or a tensor on the CPU.

    With what a model says when it is shown the right outputs before each one, this is the teacher-forced accuracy; with
    what it says when it reads its own answer so far, the free-running one. `exact` is the same for both if the model
    takes the likeliest symbol each time: its first mistake comes at the same place.
    """
    predicted = np.asarray(predicted)
    if not np.issubdtype(predicted.dtype, np.integer):
        raise DtypeError(message("predicted", "ids, integers [count, m]", predicted.dtype))
    if predicted.shape != examples.outputs.shape:
        expected = f"shape {list(examples.outputs.shape)}, that of the outputs"
        raise ArgumentError(message("predicted", expected, f"shape {list(predicted.shape)}"))
    right = (predicted == examples.outputs) & examples.mask
    per_example = right.sum(axis=1)
    counting = examples.mask.sum(axis=1)
    return Accuracy(float(per_example.sum() / counting.sum()), float((per_example == counting).mean()))
