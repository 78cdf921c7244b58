"""A training with its tests: from a trial to its result."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from farspan.lab import tasks
from farspan.lab.extrapolation.learning import Learner, sequences_of
from farspan.lab.extrapolation.settings import Trial
from farspan.lab.extrapolation.subject import Subject

TOKENS_AT_ONCE = 2**14
FIRST_TEST_SEED = 2**48
"""Tests have inputs of seeds that no training draws from, and all trials have the same tests."""
JUDGED = 8
"""How many trained lengths the loss that learning rates are judged by is a mean over."""

Report = Callable[[int, int, str], object]
"""Is told how far a trial is: steps done, steps in all, and what comes now."""


@torch.inference_mode(False)  # it learns, whatever the caller's mode
def run_trial(trial: Trial, checkpoint: Path | None, report: Report, device: str = "cpu") -> dict[str, Any]:
    """The result of a trial, as JSON types. `checkpoint`: a file to go on from after a kill."""
    subject = Subject(trial, device)
    learner = Learner(trial, subject, checkpoint)
    steps = trial.settings.steps
    learner.finish(lambda step, loss: report(step, steps, f"{trial.scheme}, seed {trial.seed}: loss {loss:.3f}"))
    points = []
    for length in trial.settings.test_lengths:
        report(steps, steps, f"{trial.scheme}, seed {trial.seed}: test at length {length}")
        points.append({"length": length, **_accuracy(trial, subject, length)})
    parameters = sum(weight.numel() for weight in subject.model.parameters())
    return {
        "trial": trial.facts,
        "points": points,
        "held_out_loss": _held_out_loss(trial, subject),
        "losses": learner.losses,
        "parameters": parameters,
        "seconds": learner.seconds,
        "threads": torch.get_num_threads(),
    }


def _accuracy(trial: Trial, subject: Subject, length: int) -> dict[str, float]:
    at_once = max(1, TOKENS_AT_ONCE // trial.tokens(length))
    right, exact, symbols = 0, 0, 0
    for number, count in _parts(trial.settings.examples, at_once):
        examples, sequences = sequences_of(trial, length, count, FIRST_TEST_SEED + number)
        found = tasks.accuracy(examples, subject.answers(sequences, draw=number))
        counted = int(examples.mask.sum())
        symbols += counted
        right += round(found.symbols * counted)
        exact += round(found.exact * count)
    return {"accuracy": right / symbols, "exact": exact / trial.settings.examples}


def _parts(count: int, at_once: int) -> Iterator[tuple[int, int]]:
    for number, start in enumerate(range(0, count, at_once)):
        yield number, min(at_once, count - start)


@torch.no_grad()
def _held_out_loss(trial: Trial, subject: Subject) -> float:
    """Nats per output on new inputs of trained lengths."""
    lengths = trial.settings.train_lengths
    chosen = sorted({lengths[round(i * (len(lengths) - 1) / (JUDGED - 1))] for i in range(JUDGED)})
    losses = [
        subject.loss(sequences_of(trial, length, trial.settings.batch, FIRST_TEST_SEED + length)[1], draw=length).item()
        for length in chosen
    ]
    return math.fsum(losses) / len(losses)
