"""The trainings of an extrapolation on language: byte models from scratch, and ones that go on from another model."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from farspan.lab.embedded.byte_tokenizer import write_byte_tokenizer
from farspan.lab.extension import Tuning, methods
from farspan.lab.extension.tuning import tuned
from farspan.lab.kept import written
from farspan.lab.language.settings import DROPPED, Settings
from farspan.lab.progress import Progress
from farspan.lab.runs import Runs
from farspan.lab.schemes import Reach, make
from farspan.lab.trainings import Tally
from farspan.model import Config, Transformer
from farspan.positions import Scheme
from farspan.training import Recipe, fit

BYTES = 256


def file_name(name: str, seed: int) -> str:
    """What of a model is kept under."""
    return f"{written(name)}-seed{seed}"


class Trainer:
    """Trains the models of some settings on a text, and tells how far it is."""

    def __init__(self, settings: Settings, text: Tensor, reach: Reach, runs: Runs, device: str, tally: Tally) -> None:
        self._settings, self._text, self._reach = settings, text, reach
        self._runs, self._device, self._tally = runs, device, tally

    def from_scratch(self, name: str, seed: int) -> Transformer:
        """A model under a scheme. Its folder has its weights, or where its training stands."""
        settings = self._settings
        (scheme,) = make(["rope" if name == DROPPED else name], self._reach).values()
        assert scheme is not None
        torch.manual_seed(seed)
        model = Transformer(_config(settings, scheme), dtype="float32").to(self._device)
        folder = self._runs.place(file_name(name, seed))
        if name != DROPPED:
            self._fit(model, folder, settings.steps, seed, "cosine", self._told(name, seed))
            return model
        rotated = settings.steps - settings.dropped_steps
        self._fit(model, folder, rotated, seed, "plateau", self._told(name, seed))
        bare = model.with_positions(methods.trained_by(DROPPED, self._reach).during)
        folder, told = self._runs.place(file_name(f"{name}-without", seed)), self._told(name, seed, rotated)
        self._fit(bare, folder, settings.dropped_steps, seed + 1, "cosine", told)
        return bare

    def from_model(self, base: Transformer, method: str, name: str, seed: int) -> Transformer:
        """A copy of a model that a method has taken to longer texts."""
        settings = self._settings
        by = methods.trained_by(method, self._reach)
        context = settings.longest if by.whole_reach else settings.train_length
        tokens = max(settings.batch * settings.train_length, context)
        tuning = Tuning(settings.tuning_steps, tokens, settings.learning_rate / 10, seed)
        return tuned(base, self._text, by, context, tuning, self._told(name, seed))[0]

    def _fit(self, model: Transformer, folder: Path, steps: int, seed: int, schedule: str, told: Progress) -> None:
        settings = self._settings
        recipe = Recipe(
            steps=steps, batch=settings.batch, context=settings.train_length, learning_rate=settings.learning_rate,
            schedule=schedule, decay=0.0, seed=seed,
        )  # fmt: skip
        fit(model, [self._text.numpy()], recipe, folder, resume=True, progress=told)
        write_byte_tokenizer(folder)
        told(steps, steps, "trained")  # a training that was over says nothing

    def _told(self, name: str, seed: int, before: int = 0) -> Progress:
        """What the training of a model calls, which goes on from so many steps."""

        def tell(done: int, total: int, next_step: str) -> None:
            del total  # of this part
            self._tally.count((name, seed), before + done)
            self._tally.tell(f"{name}, seed {seed}: {next_step}")

        return tell


def _config(settings: Settings, scheme: Scheme) -> Config:
    """A Llama of bytes."""
    return Config(
        vocab_size=BYTES, hidden_size=settings.width, intermediate_size=8 * settings.width // 3,
        num_hidden_layers=settings.layers, num_attention_heads=settings.heads,
        max_position_embeddings=settings.train_length, tie_word_embeddings=True, positions=(scheme,),
    )  # fmt: skip
