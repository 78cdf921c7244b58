"""One training from scratch: batches of a task, each a function of seed and step, so that it can stop and go on."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from farspan._errors import Error, message
from farspan._files import require_same
from farspan.lab import tasks
from farspan.lab.extrapolation.settings import Trial
from farspan.lab.extrapolation.subject import Subject
from farspan.lab.tasks.layout import Sequences
from farspan.model.recorded_operations import with_all_cores
from farspan.model.state_file import StateFile
from farspan.training.heap import freed_memory_stays
from farspan.training.optimizer import Optimizer
from farspan.training.recipe import Recipe

SECONDS_BETWEEN_CHECKPOINTS = 20.0
LOGGED = 100
"""How many losses a result has of its training, each a mean over so many steps."""

EachStep = Callable[[int, float], object]
"""Is told of a training after each step: how many are done, and the loss."""


def recipe_of(trial: Trial) -> Recipe:
    """AdamW with a warm-up and a cosine, gradients clipped at 1."""
    settings = trial.settings
    return Recipe(
        steps=settings.steps, batch=settings.batch, learning_rate=trial.learning_rate, weight_decay=0.0, beta2=0.98,
        clip=1.0,
    )  # fmt: skip


def sequences_of(trial: Trial, length: int, count: int, seed: int) -> tuple[tasks.Examples, Sequences]:
    """Examples, and how the model reads them."""
    task = tasks.get(trial.settings.task)
    examples = task.sample(length, count, seed)
    lay_out = tasks.slots if trial.settings.reading == "slots" else tasks.causal
    return examples, lay_out(task, examples)


def batch_of(trial: Trial, step: int) -> Sequences:
    """What a step reads: one length for all of a batch. All schemes and rates see the same."""
    draw = np.random.Generator(np.random.PCG64([trial.seed, step]))
    length = int(draw.choice(trial.settings.train_lengths))
    return sequences_of(trial, length, trial.settings.batch, trial.seed * 2**32 + step)[1]


def _state_file(path: Path) -> StateFile:
    return StateFile(path, "a training that an extrapolation keeps")


def steps_kept(path: Path) -> int:
    """How many steps a training has done that can go on from this file; 0: there is none."""
    found = _state_file(path).read()
    return 0 if found is None else int(found[1]["step"])


class Learner:
    """A subject that learns, and the file it can go on from."""

    def __init__(self, trial: Trial, subject: Subject, path: Path | None) -> None:
        self.trial, self.subject = trial, subject
        self._recipe = recipe_of(trial)
        self._optimizer = Optimizer(subject.model, self._recipe)
        self.step, self.losses, self.seconds = 0, [], 0.0  # type: int, list[list[float]], float
        self._sum, self._counted = 0.0, 0
        self._file = None if path is None else _state_file(path)
        if self._file is not None:
            self._restore(self._file)

    @freed_memory_stays()
    def finish(self, each_step: EachStep) -> None:
        """The steps that are left."""
        steps, every = self._recipe.steps, max(1, self._recipe.steps // LOGGED)
        self._begun = time.monotonic() - self.seconds
        saved = time.monotonic()
        while self.step < steps:
            loss = self._take_step()
            self._sum, self._counted = self._sum + loss, self._counted + 1
            if self.step % every == 0 or self.step == steps:
                self.losses.append([self.step, self._sum / self._counted])
                self._sum, self._counted = 0.0, 0
            each_step(self.step, loss)
            if self._file is not None and self.step < steps and time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS:
                self._save(self._file)
                saved = time.monotonic()
        self.seconds = time.monotonic() - self._begun

    def _take_step(self) -> float:
        return self.take(batch_of(self.trial, self.step + 1))

    def take(self, sequences: Sequences) -> float:
        """One step on these sequences; gives the loss before it."""
        step = self.step + 1
        self._optimizer.forget_gradients()
        with with_all_cores(self.subject.model):
            loss = self.subject.loss(sequences, draw=self.trial.seed * 2**32 + step)
            loss.backward()
        self._optimizer.collect()
        length = self._optimizer.norm()
        found = loss.item()
        for what, number in (("loss", found), ("gradient", length)):
            if not np.isfinite(number):
                expected = f"a finite number in the training of {self.trial.scheme} with seed {self.trial.seed}"
                raise Error(message(what, expected, f"{number} at step {step}"))
        self._optimizer.step(self._recipe.rate(step))
        self.step = step
        return found

    def _save(self, file: StateFile) -> None:
        facts = {
            "trial": self.trial.facts, "step": self.step, "losses": self.losses, "sum": self._sum,
            "counted": self._counted, "seconds": time.monotonic() - self._begun,
        }  # fmt: skip
        file.write(self._optimizer.tensors(), facts)

    def _restore(self, file: StateFile) -> None:
        """Nothing where there is no file."""
        found = file.read()
        if found is None:
            return
        stored, facts = found
        require_same(self.trial.facts, facts["trial"], f"{file.path} was made with")
        self._optimizer.restore({name: tensor.read() for name, tensor in stored.items()}, facts["step"])
        self.step, self.losses, self.seconds = facts["step"], facts["losses"], facts["seconds"]
        self._sum, self._counted = facts["sum"], facts["counted"]
