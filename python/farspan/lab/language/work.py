"""The models of an extrapolation on language, trained and measured. What is finished is not repeated."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from farspan._errors import ArgumentError, message
from farspan.lab.language.result import Language, Model
from farspan.lab.language.settings import Settings, tuned_name, zero_shot_name
from farspan.lab.language.training import BYTES, Trainer, file_name
from farspan.lab.machine import processor_name
from farspan.lab.measure import measure
from farspan.lab.progress import Progress
from farspan.lab.retrieval import Retrieval
from farspan.lab.runs import Runs
from farspan.lab.schemes import Reach, make
from farspan.lab.trainings import Tally
from farspan.model import Transformer
from farspan.positions import Scheme
from farspan.positions.frequencies import DEFAULT_BASE
from farspan.tokenizer import ByteTokenizer
from farspan.training.packing import Corpus


def run(
    settings: Settings, train_ids: Any, held_out: Any, out: str | os.PathLike[str], *, resume: bool = False,
    device: str = "cpu", text_name: str = "the text", progress: Progress | None = None,
) -> Language:  # fmt: skip
    """Trains and measures every model of the settings. Each has a file of its own in `out/runs` as soon as it is
    measured, and trainings from scratch have checkpoints, so `resume` goes on where a run was stopped.

    `train_ids`, `held_out`: bytes as ids `[n]`. `progress(done, total, next_step)` hears how many steps of all
    trainings are done.

    Error: `out` holds results and `resume` is not given, or of other settings. ArgumentError: a text that is too short.
    """
    text, measured = torch.as_tensor(train_ids), torch.as_tensor(held_out)
    if len(measured) <= settings.longest:
        expected = f"more than {settings.longest} bytes, the longest length"
        raise ArgumentError(message("held_out", expected, len(measured)))
    work = _Work(settings, text, measured, Runs(out, resume=resume, facts_name="facts"), device, progress)
    found = [model for seed in range(settings.seeds) for model in work.all_of(seed)]
    return Language(settings, processor_name(), text_name, len(text), tuple(found))


class _Work:
    """The models of a run, one after the other."""

    def __init__(
        self, settings: Settings, text: Tensor, measured: Tensor, runs: Runs, device: str, progress: Progress | None
    ) -> None:
        """Error: a result that is there was made with other settings."""
        self._settings, self._measured, self._runs = settings, measured, runs
        self._digest = Corpus([text.numpy(), measured.numpy()], BYTES).digest
        self._reach = Reach(settings.train_length, settings.longest, DEFAULT_BASE)
        self._tally = Tally(settings.trainings, progress)
        self._trainer = Trainer(settings, text, self._reach, runs, device, self._tally)
        self._found: dict[tuple[str, int], Model] = {}
        for name, seed in itertools.product(settings.models, range(settings.seeds)):
            kept = runs.result(file_name(name, seed), self._facts(name, seed))
            if kept is not None:
                self._found[name, seed] = Model.of(name, seed, kept)
                self._tally.count((name, seed), settings.models[name])

    def all_of(self, seed: int) -> list[Model]:
        settings, trainer = self._settings, self._trainer
        for name in self._left(settings.schemes, seed):
            self._read(name, seed, trainer.from_scratch(name, seed))
        if left := self._left(settings.models, seed):
            base = trainer.from_scratch("rope", seed)
            put_on = {zero_shot_name(name): scheme for name, scheme in make(settings.zero_shot, self._reach).items()}
            method_of = {tuned_name(method): method for method in settings.tuned}
            for name in left:
                if name in put_on:
                    self._read(name, seed, base, put_on[name])
                else:
                    self._read(name, seed, trainer.from_model(base, method_of[name], name, seed))
        return [self._found[name, seed] for name in settings.models]

    def _left(self, names: Iterable[str], seed: int) -> list[str]:
        return [name for name in names if (name, seed) not in self._found]

    def _read(self, name: str, seed: int, model: Transformer, scheme: Scheme | None = None) -> None:
        """Finds out how a model reads long texts under a scheme, None being its own, and keeps that."""
        settings, asked = self._settings, {name: scheme}
        found = measure(
            model, self._measured, settings.test_lengths, asked, windows=settings.examples,
            trained_length=settings.train_length, bytes_per_token=1.0, progress=self._measuring,
        )  # fmt: skip
        asking = Retrieval(
            self._measured, settings.test_lengths, settings.train_length, ByteTokenizer(), settings.needles,
            settings.copies,
        )  # fmt: skip
        found = asking.added_to(found, model, asked, self._measuring)
        result = {
            "facts": self._facts(name, seed), "nats": {str(p.length): p.nats_per_token for p in found.points},
            "errors": {str(p.length): p.standard_error for p in found.points},
            "needles": [dataclasses.asdict(needle) for needle in found.needles],
            "copies": [dataclasses.asdict(copied) for copied in found.copies],
        }  # fmt: skip
        self._runs.keep(file_name(name, seed), result)
        self._found[name, seed] = Model.of(name, seed, result)

    def _facts(self, name: str, seed: int) -> Mapping[str, Any]:
        return {**self._settings.facts(name, seed), "texts": self._digest}

    def _measuring(self, done: int, total: int, next_step: str) -> None:
        """What measurements call, which take no steps."""
        del done, total
        self._tally.tell(next_step)
