"""`farspan.train_lens`: translators that bring each layer's distribution close to the final one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from farspan._errors import ArgumentError, DtypeError, message
from farspan.inside.reading import require_model
from farspan.inside.translators import Translators, translated
from farspan.inside.unfinished import Unfinished
from farspan.loss import divergence
from farspan.model import Transformer
from farspan.model.arguments import check_ids, count, integer
from farspan.model.decoder import as_ids
from farspan.model.digests import digest, digest_of_model

LEARNING_RATE = 3e-3
KEPT_EVERY = 20
"""Steps between two versions of a checkpoint."""

Progress = Callable[[int, int, str], object]
"""What is told of a training after each step: the steps done, the steps in all, and the loss in words."""


@torch.inference_mode(False)  # it learns, whatever the caller's mode
def train_lens(
    model: Transformer,
    tokens: Any,
    *,
    steps: int,
    context: int,
    batch: int,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Translators:
    """The tuned lens: a translator for each layer but the last, trained by Adam to minimise

        divergence(model.final_norm(h + A @ h + b), unembedding, model(ids))

    It begins with A = 0 and b = 0, the logit lens. Each step reads `batch` random windows of the tokens. No logits are
    built, and the model stays as it is.

    Args:
        model: a `farspan.Transformer`.
        tokens: `[n]` ids of a text, at least `context` of them.
        steps: how many updates. The learning rate falls to 0 over them.
        context: tokens in a window.
        batch: windows in a step.
        seed: of the choice of windows.
        checkpoint: a file that keeps the training, written as a whole every 20 steps and at the end. Where it
            is there, the training goes on from it, and ends with the bits of one that nobody stopped.
        progress: is told `(steps done, steps in all, the mean divergence in words)` after each step.

    Returns:
        `Translators`. The same arguments give the same bits on the same machine.

    Raises:
        ArgumentError, DtypeError: a text shorter than the context, ids outside the vocabulary, or numbers that cannot
            be.
        Error: `checkpoint` is that of other arguments, another text or another model.
        CheckpointError: it is damaged, or something else.

    Source: Belrose et al. 2023.
    """
    require_model(model)
    ids = as_ids(tokens, 1)
    check_ids(ids, model.config.vocab_size)
    for name, value, least in (("steps", steps, 0), ("context", context, 1), ("batch", batch, 1)):
        count(name, value, least)
    if len(ids) < context:
        raise ArgumentError(message("tokens", f"at least {context} ids, one context", len(ids)))
    try:
        number = integer(seed) % 2**64
    except TypeError:
        raise DtypeError(message("seed", "an integer", repr(seed))) from None
    learner, kept, done = _Learner(model), None, 0
    if checkpoint is not None:
        facts = {"steps": steps, "context": context, "batch": batch, "seed": number, "config": model.config.to_dict()}
        kept = Unfinished(Path(checkpoint), facts | {"tokens": digest(ids), "model": digest_of_model(model)})
        done = kept.read_into(learner.state)
    generator = np.random.default_rng(number)
    for step in range(steps):
        starts = torch.from_numpy(generator.integers(0, len(ids) - context + 1, batch))
        if step < done:
            continue
        loss = learner.take_step(ids[starts[:, None] + torch.arange(context)], LEARNING_RATE * (1 - step / steps))
        if kept is not None and (step + 1 == steps or (step + 1) % KEPT_EVERY == 0):
            kept.write(step + 1, learner.state)
        if progress is not None:
            progress(step + 1, steps, f"KL {loss:.3f}")
    return Translators(learner.weight, learner.bias)


class _Learner:
    """Translators on their way, and Adam's moments."""

    def __init__(self, model: Transformer) -> None:
        depth, width = model.config.num_hidden_layers, model.config.hidden_size
        self._model = model
        self.weight = torch.zeros(depth, width, width, dtype=torch.float32, device=model.device)
        self.bias = torch.zeros(depth, width, dtype=torch.float32, device=model.device)
        self._adam = torch.optim.Adam([self.weight, self.bias])
        self.state = {"weight": self.weight, "bias": self.bias}
        """All that a step changes, by name."""
        for name, parameter in tuple(self.state.items()):
            moments = {part: torch.zeros_like(parameter) for part in ("exp_avg", "exp_avg_sq")}
            own = self._adam.state[parameter] = {"step": torch.tensor(0.0), **moments}
            self.state |= {f"{name}.{part}": tensor for part, tensor in own.items()}

    def take_step(self, windows: Tensor, rate: float) -> float:
        """The mean divergence over all layers before the step. As in `lens`, the model reads the windows twice, so that
        the states of one layer are there at a time."""
        self.weight.grad, self.bias.grad = torch.zeros_like(self.weight), torch.zeros_like(self.bias)
        losses: list[float] = []
        with torch.no_grad():
            last = self._model(windows).flatten(0, 1)
            self._model(windows, tap=lambda depth, stream: losses.extend(self._learn(depth, stream, last)))
        for group in self._adam.param_groups:
            group["lr"] = rate
        self._adam.step()
        return sum(losses) / max(1, len(losses))

    def _learn(self, depth: int, stream: Tensor, last: Tensor) -> list[float]:
        """Adds a layer's gradient; its loss, none for the last layer."""
        if depth == len(self.bias):
            return []
        with torch.enable_grad():
            own = [x[depth].clone().requires_grad_() for x in (self.weight, self.bias)]
            hidden = self._model.final_norm(translated(stream.flatten(0, 1), *own))
            unembedding = self._model.unembedding.detach()
            loss = divergence(hidden, unembedding, last, **self._model.logit_settings).mean()
            found = torch.autograd.grad(loss, own)
        for whole, part in zip((self.weight, self.bias), found, strict=True):
            assert whole.grad is not None
            whole.grad[depth] = part
        return [loss.item()]


train_lens.__module__ = "farspan"
