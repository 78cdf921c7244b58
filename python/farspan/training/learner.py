"""A model that learns, step by step, and where it stands. Files are not its concern."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from farspan._errors import Error, message
from farspan.model import Transformer
from farspan.model.recorded_operations import with_all_cores
from farspan.training.optimizer import Optimizer
from farspan.training.packing import Batch, Batches, Corpus, validation_batches
from farspan.training.recipe import Recipe


class Learner:
    """The steps of a run."""

    def __init__(self, model: Transformer, corpus: Corpus, recipe: Recipe, held_out: Corpus | None) -> None:
        self.model, self.recipe, self.step = model, recipe, 0
        self.optimizer = Optimizer(model, recipe)
        tokens = recipe.batch * recipe.context
        self._batches = Batches(corpus, recipe.context, tokens, recipe.seed)
        self._validation = (
            [] if held_out is None else validation_batches(held_out, recipe.context, tokens, recipe.validation_tokens)
        )

    def take_step(self) -> dict[str, Any]:
        """The next step of the weights, as its line of the log.

        Error: a loss or a gradient that is no number. The weights are those of the step before.
        """
        step, recipe = self.step + 1, self.recipe
        batches = [self._batches.take() for _ in range(recipe.accumulate)]
        tokens = sum(len(batch.ids) for batch in batches)
        self.optimizer.forget_gradients()
        loss = 0.0
        self.model.train()
        with self._noise_of(step), with_all_cores(self.model):
            for batch in batches:
                part = self._summed_loss(batch) / tokens
                part.backward()
                self.optimizer.collect()
                loss += part.item()
        _require_finite("loss", loss, step)
        length = self.optimizer.norm()
        _require_finite("gradient", length, step)
        rate = recipe.rate(step)
        self.optimizer.step(rate)
        self.step = step
        line = {"step": step, "loss": loss, "learning_rate": rate, "gradient_norm": length, "tokens": tokens}
        if self._validation and (step % recipe.validate_every == 0 or step == recipe.steps):
            line["validation_loss"] = self._validation_loss()
            _require_finite("validation_loss", line["validation_loss"], step)
        return line

    @torch.no_grad()
    def _validation_loss(self) -> float:
        self.model.eval()
        tokens = sum(len(batch.ids) for batch in self._validation)
        return sum(self._summed_loss(batch).item() for batch in self._validation) / tokens

    def _summed_loss(self, batch: Batch) -> Tensor:
        ids, targets = (x.to(self.model.device) for x in (batch.ids, batch.targets))
        recompute = self.recipe.recompute and torch.is_grad_enabled()
        return self.model.loss(ids, targets, lengths=batch.lengths, reduction="sum", recompute=recompute)

    @contextmanager
    def _noise_of(self, step: int) -> Iterator[None]:
        """What an adapter's dropout draws is a function of seed and step, so that a resumed run repeats it."""
        device = self.model.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed((self.recipe.seed * 2**32 + step) % 2**63)
            yield

    # ------------------------------------------------------------------------------------------- stopping, going on

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that later steps depend on: tensors, and numbers."""
        batches = self._batches
        return self.optimizer.tensors(), {"step": self.step, "epoch": batches.epoch, "place": batches.place}

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """As if this learner had taken the steps up to that state."""
        self.optimizer.restore(tensors, numbers["step"])
        self._batches.move_to(numbers["epoch"], numbers["place"])
        self.step = numbers["step"]


def _require_finite(what: str, number: float, step: int) -> None:
    if not math.isfinite(number):
        raise Error(message(what, "a finite number", f"{number} at step {step}"))
