"""Tasks for measuring how far a model generalises: train it on short inputs, test it on long ones.

    task = tasks.get("reverse_string")
    examples = task.sample(40, count=128, seed=0)
    sequences = tasks.slots(task, examples)  # or tasks.causal
    tasks.accuracy(examples, sequences.outputs(predicted_ids))

`docs/tasks.md` has the table of tasks. None of this needs torch.
"""

from __future__ import annotations

from farspan._errors import ArgumentError, message
from farspan.lab.tasks.arithmetic import Addition, BinaryAddition, BinaryMultiplication, ComputeSqrt
from farspan.lab.tasks.context_free import ModularArithmeticBrackets, ReverseString, SolveEquation, StackManipulation
from farspan.lab.tasks.context_sensitive import DuplicateString, MissingDuplicateString, OddsFirst
from farspan.lab.tasks.layout import Sequences, causal, slots
from farspan.lab.tasks.regular import CycleNavigation, EvenPairs, ModularArithmetic, ParityCheck
from farspan.lab.tasks.retrieval import FineMaxRetrieval, FlipFlop, Induction, MaxRetrieval, Needle
from farspan.lab.tasks.scoring import Accuracy, accuracy
from farspan.lab.tasks.sorting import BucketSort, Copy, SortIntegers
from farspan.lab.tasks.task import Examples, Task

_TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        EvenPairs(), ParityCheck(), CycleNavigation(), ModularArithmetic(),
        ModularArithmeticBrackets(), SolveEquation(), StackManipulation(), ReverseString(),
        DuplicateString(), OddsFirst(), MissingDuplicateString(),
        BinaryAddition(), BinaryMultiplication(), ComputeSqrt(), Addition(),
        BucketSort(), SortIntegers(), Copy(),
        MaxRetrieval(), FineMaxRetrieval(), Induction(), Needle(), FlipFlop(),
    )
}  # fmt: skip

NAMES = tuple(_TASKS)


def get(name: str) -> Task:
    """The task of a name. ArgumentError: there is none, and the message lists them."""
    if name not in _TASKS:
        raise ArgumentError(message("name", f"one of {', '.join(NAMES)}", repr(name)))
    return _TASKS[name]


__all__ = [
    "NAMES", "Accuracy", "Examples", "Sequences", "Task", "accuracy", "causal", "get", "slots",
]  # fmt: skip
