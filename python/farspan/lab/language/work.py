"""The trainings and measurements of an extrapolation on language. What is finished is not repeated."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from farspan import _strict_json
from farspan._errors import ArgumentError, Error, message
from farspan._files import read_json, replaced
from farspan.lab.embedded.byte_tokenizer import write_byte_tokenizer
from farspan.lab.extension import Tuning, methods
from farspan.lab.extension.tuning import tuned
from farspan.lab.language.result import Language, Model
from farspan.lab.language.settings import DROPPED, Settings
from farspan.lab.machine import processor_name
from farspan.lab.measure import Progress, measure
from farspan.lab.retrieval import Retrieval
from farspan.lab.schemes import Reach, make
from farspan.lab.trainings import all_steps
from farspan.model import Config, Transformer
from farspan.positions import Scheme
from farspan.positions.frequencies import DEFAULT_BASE
from farspan.tokenizer import ByteTokenizer
from farspan.training import Recipe, fit
from farspan.training.packing import Corpus

BYTES = 256
TUNED = ", tuned"
"""ends the names of models that go on from another one"""


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
    runs = Path(out) / "runs"
    if not resume and runs.exists() and any(runs.iterdir()):
        expected = "a folder without an extrapolation, or resume=True (--resume) to go on with the one there"
        raise Error(message("out", expected, out))
    runs.mkdir(parents=True, exist_ok=True)
    work = _Work(settings, text, measured, runs, device, progress)
    found = [model for seed in range(settings.seeds) for model in work.all_of(seed)]
    return Language(settings, processor_name(), text_name, len(text), tuple(found))


class _Work:
    """The models of a run, one after the other."""

    def __init__(
        self, settings: Settings, text: Tensor, measured: Tensor, runs: Path, device: str, progress: Progress | None
    ) -> None:
        self.settings, self.text, self.measured, self.runs = settings, text, measured, runs
        self.device, self.progress = device, progress
        self.digest = Corpus([text.numpy(), measured.numpy()], BYTES).digest
        self.reach = Reach(settings.train_length, settings.longest, DEFAULT_BASE)
        self._steps: dict[tuple[str, int], int] = {}
        """done, by the name and the seed of a model"""

    def all_of(self, seed: int) -> list[Model]:
        found: list[Model] = []
        settings = self.settings
        for name in settings.schemes:
            if (model := self._kept(name, seed)) is None:
                model = self._measured(name, seed, self._trained(name, seed))
            found.append(model)
        made = make(settings.zero_shot, self.reach)
        zero_shot = {f"{name}, zero-shot": scheme for name, scheme in made.items()}
        tuned_names = {f"{method}{TUNED}": method for method in settings.tuned}
        left = [name for name in (*zero_shot, *tuned_names) if self._kept(name, seed) is None]
        if left:
            base = self._trained("rope", seed)
            for name in left:
                method = tuned_names.get(name)
                subject = self._tuned(base, method, seed) if method else base
                self._measured(name, seed, subject, zero_shot.get(name))
        for name in (*zero_shot, *tuned_names):
            kept = self._kept(name, seed)
            assert kept is not None
            found.append(kept)
        return found

    # -------------------------------------------------------------------------------------------------- training

    def _trained(self, name: str, seed: int) -> Transformer:
        """A model from scratch, or what there is of it."""
        settings = self.settings
        (scheme,) = make(["rope" if name == DROPPED else name], self.reach).values()
        assert scheme is not None
        torch.manual_seed(seed)
        model = Transformer(_config(settings, scheme), dtype="float32").to(self.device)
        if name != DROPPED:
            self._fit(model, self._folder(name, seed), settings.steps, seed, "cosine", self._told(name, seed))
            return model
        rotated = settings.steps - settings.dropped_steps
        self._fit(model, self._folder(name, seed), rotated, seed, "plateau", self._told(name, seed))
        bare = model.with_positions(methods.trained_by(DROPPED, self.reach).during)
        folder, told = self._folder(f"{name}-without", seed), self._told(name, seed, rotated)
        self._fit(bare, folder, settings.dropped_steps, seed + 1, "cosine", told)
        return bare

    def _fit(self, model: Transformer, folder: Path, steps: int, seed: int, schedule: str, told: Progress) -> None:
        settings = self.settings
        recipe = Recipe(
            steps=steps, batch=settings.batch, context=settings.train_length, learning_rate=settings.learning_rate,
            schedule=schedule, decay=0.0, seed=seed,
        )  # fmt: skip
        fit(model, [self.text.numpy()], recipe, folder, resume=True, progress=told)
        write_byte_tokenizer(folder)

    def _tuned(self, base: Transformer, method: str, seed: int) -> Transformer:
        settings = self.settings
        by = methods.trained_by(method, self.reach)
        context = settings.longest if by.whole_reach else settings.train_length
        tokens = max(settings.batch * settings.train_length, context)
        tuning = Tuning(settings.tuning_steps, tokens, settings.learning_rate / 10, seed)
        return tuned(base, self.text, by, context, tuning, self._told(f"{method}{TUNED}", seed))[0]

    # ------------------------------------------------------------------------------------------------- measuring

    def _measured(self, name: str, seed: int, model: Transformer, scheme: Scheme | None = None) -> Model:
        settings, asked = self.settings, {name: scheme}
        found = measure(
            model, self.measured, settings.test_lengths, asked, windows=settings.examples,
            trained_length=settings.train_length, bytes_per_token=1.0, progress=self._measuring,
        )  # fmt: skip
        asking = Retrieval(
            self.measured, settings.test_lengths, settings.train_length, ByteTokenizer(), settings.needles,
            settings.copies,
        )  # fmt: skip
        found = asking.added_to(found, model, asked, self._measuring)
        result = {
            "facts": self._facts(name, seed), "nats": {str(p.length): p.nats_per_token for p in found.points},
            "errors": {str(p.length): p.standard_error for p in found.points},
            "needles": [dataclasses.asdict(needle) for needle in found.needles],
            "copies": [dataclasses.asdict(copied) for copied in found.copies],
        }  # fmt: skip
        with replaced(self._file(name, seed)) as beside:
            beside.write_text(_strict_json.dumps(result, indent=1) + "\n", encoding="utf-8")
        kept = self._kept(name, seed)
        assert kept is not None
        return kept

    def _kept(self, name: str, seed: int) -> Model | None:
        """What was found of a model, None where it is not over. Error: it was made with other settings."""
        path = self._file(name, seed)
        if not path.exists():
            return None
        found = read_json(path)
        for key, value in self._facts(name, seed).items():
            if found["facts"].get(key) != value:
                raise Error(message(key, f"{found['facts'].get(key)!r}, as {path} was made with", repr(value)))
        self._steps[name, seed] = self._steps_of(name)
        return Model.of(name, seed, found)

    def _facts(self, name: str, seed: int) -> Mapping[str, Any]:
        return {**self.settings.facts(name, seed), "texts": self.digest}

    def _file(self, name: str, seed: int) -> Path:
        return self.runs / f"{_written(name)}-seed{seed}.json"

    def _folder(self, name: str, seed: int) -> Path:
        return self.runs / f"{_written(name)}-seed{seed}"

    # -------------------------------------------------------------------------------------------------- progress

    def _steps_of(self, name: str) -> int:
        """How many steps a model is trained, beyond those of one that it is made from."""
        settings = self.settings
        if name in settings.schemes:
            return settings.steps
        return settings.tuning_steps if name.endswith(TUNED) else 0

    def _told(self, name: str, seed: int, before: int = 0) -> Progress:
        """What a training calls, which goes on from so many steps."""

        def tell(done: int, total: int, next_step: str) -> None:
            del total  # of this part
            self._steps[name, seed] = before + done
            self._tell(f"{name}, seed {seed}: {next_step}")

        return tell

    def _measuring(self, done: int, total: int, next_step: str) -> None:
        """What measurements call, which take no steps."""
        del done, total
        self._tell(next_step)

    def _tell(self, said: str) -> None:
        """How many steps of all trainings are done, and what comes now."""
        if self.progress is not None:
            self.progress(sum(self._steps.values()), all_steps(self.settings.trainings), said)


def _written(name: str) -> str:
    """For files."""
    return "".join(letter if letter.isalnum() or letter in "-." else "_" for letter in name)


def _config(settings: Settings, scheme: Scheme) -> Config:
    """A Llama of bytes."""
    return Config(
        vocab_size=BYTES, hidden_size=settings.width, intermediate_size=8 * settings.width // 3,
        num_hidden_layers=settings.layers, num_attention_heads=settings.heads,
        max_position_embeddings=settings.train_length, tie_word_embeddings=True, positions=(scheme,),
    )  # fmt: skip
