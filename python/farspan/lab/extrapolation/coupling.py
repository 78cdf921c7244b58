"""Coupled positions: where the tokens of a task stand if what belongs together shares a place."""

from __future__ import annotations

import numpy as np

from farspan.lab.tasks.layout import Sequences
from farspan.lab.tasks.task import Ids

COUPLED = ("addition", "copy", "reverse_string")
"""The tasks of which something is said below."""


def coupled_positions(task: str, sequences: Sequences, reading: str) -> Ids:
    """`[count, time]` places from 0 on: of `addition` the significance of each digit, of `copy` and `reverse_string`
    the input that an output repeats.

    As in position coupling (Cho et al. 2024) a decoder's next token always stands one place further in the same
    direction.
    """
    count, time = sequences.tokens.shape
    inputs = sequences.prompt
    outputs = np.arange(time - inputs) - (reading == "causal")  # the mark stands one place before the first output
    if task == "addition":
        digits = (inputs - 2) // 2
        number = np.arange(1, digits + 1)
        given = np.concatenate([number, [digits + 1], number, [digits + 1]])
        answer = digits - outputs
    elif task == "copy":
        given, answer = np.arange(1, inputs + 1), outputs + 1
    else:
        given, answer = np.arange(1, inputs + 1), inputs - outputs
    return np.broadcast_to(np.concatenate([given, answer]), (count, time))
