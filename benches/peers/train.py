"""One training step of the embedded model's shape beside the same model on torch's SDPA and cross-entropy.

A step is the loss, the backward pass, clipping and AdamW, which both sides share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

import farspan
from farspan.embedded import FOLDER
from farspan.lab.eager import EagerLlama, weights_of
from timing import Case

BATCH, TIME = 16, 256
GOAL = 1.3


def cases(full: bool) -> Iterator[Case]:
    model, _ = farspan.load_embedded()
    weights = weights_of(load_file(FOLDER / "model.safetensors"), torch.float32)
    eager = EagerLlama({name: weight.requires_grad_() for name, weight in weights.items()}, model.config)
    for batch in (BATCH, 2) if full else (BATCH,):
        ids = torch.randint(model.config.vocab_size, (batch, TIME), generator=torch.Generator().manual_seed(0))
        yield Case(
            operation="training step",
            case=f"f32 embedded model, batch {batch} x {TIME}",
            peer="torch SDPA, cross_entropy",
            farspan=step_of(list(model.parameters()), partial(model.loss, ids)),
            other=step_of(list(weights.values()), partial(loss_with_logits, eager, ids)),
            goal=GOAL if batch == BATCH else None,
        )


def loss_with_logits(model: EagerLlama, ids: torch.Tensor) -> torch.Tensor:
    """The mean over all tokens but the first, as `Transformer.loss` gives it."""
    logits = F.linear(model.hidden(ids)[:, :-1], model.unembedding)
    return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


def step_of(
    weights: list[torch.Tensor], loss: Callable[[], torch.Tensor], optimizer: torch.optim.Optimizer | None = None
) -> Callable[[], None]:
    """A step of `optimizer`: by default one with a rate so small that all steps see the same weights."""
    optimizer = torch.optim.AdamW(weights, lr=1e-12) if optimizer is None else optimizer

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()

    return step
