"""Training a byte-level model on one long text: seeded windows, AdamW, warm-up, a plateau, and a last fifth of decay.
`farspan.training` trains on documents, with checkpoints, and makes the embedded model. This loop is short, and any
module may be its model: the loss is that of `farspan.reference`.

The plateau is what makes a time limit reproducible: the limit only decides at which step the decay begins, so a run
that was cut by the clock after n steps equals a run of n steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from farspan import reference
from farspan.training.optimizer import adamw, set_rate
from farspan.training.schedule import decaying, warming


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the outcome of `train`, besides the model and the text."""

    steps: int = 6000
    batch: int = 16
    context: int = 256
    learning_rate: float = 3e-3
    weight_decay: float = 0.1
    warmup: int = 100
    clip: float = 1.0
    seed: int = 0

    def decay_steps(self) -> int:
        return max(1, self.steps // 5)


@dataclass(frozen=True)
class State:
    """Where a training run stands after a step: losses in nats per byte, `train_loss` a mean over about 50 steps."""

    step: int
    steps: int
    train_loss: float
    seconds: float
    learning_rate: float


@torch.inference_mode(False)  # it learns, whatever the caller's mode
def train(
    model: nn.Module,
    unembedding: Callable[[], Tensor],
    text: Tensor,
    recipe: Recipe,
    *,
    minutes: float | None = None,
    each_step: Callable[[State], None] = lambda state: None,
) -> State:
    """Fit `model` to `text`, a vector of token ids, in `recipe.steps`, or fewer where `minutes` ask for that."""
    weights = dict(model.named_parameters())
    optimizer = adamw(weights, lambda name, p: p.ndim > 1, recipe.weight_decay, recipe.learning_rate)
    windows = torch.Generator().manual_seed(recipe.seed + 1)
    started = time.monotonic()
    decay_from, steps, mean = recipe.steps - recipe.decay_steps(), recipe.steps, 0.0
    model.train()
    for step in range(1, recipe.steps + 1):
        rate = recipe.learning_rate * min(warming(step, recipe.warmup), decaying(step, steps, decay_from))
        set_rate(optimizer, rate)
        loss = mean_loss(model, unembedding(), draw_windows(text, recipe.batch, recipe.context, windows))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()

        mean += (loss.item() - mean) / min(step, 50)
        seconds = time.monotonic() - started
        state = State(step, steps, mean, seconds, rate)
        each_step(state)
        if step == steps:
            break
        if minutes is not None and step < decay_from and seconds > 0.8 * 60 * minutes:
            decay_from, steps = step, step + max(1, step // 4)  # of the whole, the decay is then a fifth as well
    model.eval()
    return state


def draw_windows(text: Tensor, batch: int, context: int, generator: torch.Generator) -> Tensor:
    """`[batch, context + 1]` ids: windows that begin anywhere in the text."""
    starts = torch.randint(len(text) - context, (batch, 1), generator=generator)
    return text[starts + torch.arange(context + 1)].long()


def mean_loss(model: nn.Module, unembedding: Tensor, windows: Tensor) -> Tensor:
    """Nats per token of predicting each token of the windows from those before it."""
    settings = getattr(model, "logit_settings", {})
    return -reference.score(model(windows[:, :-1]), unembedding, windows[:, 1:], **settings).logprob.mean()


@torch.no_grad()
def held_out_loss(
    model: nn.Module, unembedding: Tensor, text: Tensor, context: int, batch: int = 16, most: int | None = None
) -> float:
    """Nats per token over consecutive windows of a text; `most` bounds their number, spread over the whole text."""
    starts = torch.arange(0, len(text) - context, context)
    if most is not None and len(starts) > most:
        starts = starts[torch.linspace(0, len(starts) - 1, most).long()]
    windows = text[starts[:, None] + torch.arange(context + 1)].long()
    losses = [mean_loss(model, unembedding, part).item() * len(part) for part in windows.split(batch)]
    return sum(losses) / len(windows)
