"""`farspan.train_lens`: translators that bring each layer's distribution close to the final one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from farspan._errors import ArgumentError, DtypeError, message
from farspan.inside.reading import require_model
from farspan.inside.translators import Translators, translated
from farspan.loss import divergence
from farspan.model import Transformer
from farspan.model.arguments import check_ids, count, integer
from farspan.model.decoder import as_ids

LEARNING_RATE = 3e-3

Progress = Callable[[int, int, str], object]
"""What is told of a training after each step: the steps done, the steps in all, and the loss in words."""


def train_lens(
    model: Transformer,
    tokens: Any,
    *,
    steps: int,
    context: int,
    batch: int,
    seed: int = 0,
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
        progress: is told `(steps done, steps in all, the mean divergence in words)` after each step.

    Returns:
        `Translators`. The same arguments give the same bits on the same machine.

    Raises:
        ArgumentError, DtypeError: a text shorter than the context, ids outside the vocabulary, or numbers that cannot
            be.

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
        generator = np.random.default_rng(integer(seed) % 2**64)
    except TypeError:
        raise DtypeError(message("seed", "an integer", repr(seed))) from None
    learner = _Learner(model, steps)
    for step in range(steps):
        starts = torch.from_numpy(generator.integers(0, len(ids) - context + 1, batch))
        windows = ids[starts[:, None] + torch.arange(context)]
        loss = learner.take_step(windows)
        if progress is not None:
            progress(step + 1, steps, f"KL {loss:.3f}")
    return Translators(learner.weight, learner.bias)


class _Learner:
    """Translators on their way, and Adam's moments."""

    def __init__(self, model: Transformer, steps: int) -> None:
        depth, width = model.config.num_hidden_layers, model.config.hidden_size
        self._model = model
        self.weight = torch.zeros(depth, width, width, dtype=torch.float32, device=model.device)
        self.bias = torch.zeros(depth, width, dtype=torch.float32, device=model.device)
        self._adam = torch.optim.Adam([self.weight, self.bias], lr=LEARNING_RATE)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._adam, lambda step: 1 - step / max(1, steps))

    def take_step(self, windows: Tensor) -> float:
        """The mean divergence over all layers before the step. As in `lens`, the model reads the windows twice, so that
        the states of one layer are there at a time."""
        self.weight.grad, self.bias.grad = torch.zeros_like(self.weight), torch.zeros_like(self.bias)
        losses: list[float] = []
        with torch.no_grad():
            last = self._model(windows).flatten(0, 1)
            self._model(windows, tap=lambda depth, stream: losses.extend(self._learn(depth, stream, last)))
        self._adam.step()
        self._schedule.step()
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
