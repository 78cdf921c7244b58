"""Peak memory of one training step of the embedded model's shape, batch 1, beside the same model in eager torch.

A step is the loss, the backward pass, clipping and AdamW with its moments. Memory that grows with the length, and not
with its square, is what the rows show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch

import farspan
from memory import Memory
from train import loss_with_logits, step_of

SIDES = {
    "farspan": "training step, peak",
    "recompute": "training step that recomputes, peak",
    "torch": "eager torch's training step, peak",
}
SHORT = 64


def cases(full: bool) -> Iterator[Memory]:
    for length in (4096, 8192, 16384, 32768) if full else (2048,):
        for side, operation in SIDES.items():
            yield Memory(
                operation=operation,
                case=f"f32 embedded model, batch 1 x {length}",
                suite="peak",
                maker="step",
                arguments=(side, length),
                warm=(side, SHORT),
                peak=True,
            )


def step(side: str, length: int) -> tuple[list[torch.Tensor], Callable[[], None]]:
    """A model's weights, and one step of it."""
    ids = torch.randint(256, (1, length), generator=torch.Generator().manual_seed(0))
    if side == "torch":
        from safetensors.torch import load_file

        from farspan.embedded import FOLDER
        from farspan.lab.eager import EagerLlama, weights_of

        weights = weights_of(load_file(FOLDER / "model.safetensors"), torch.float32)
        config = farspan.Config.from_pretrained(FOLDER)
        eager = EagerLlama({name: weight.requires_grad_() for name, weight in weights.items()}, config, length)
        return list(weights.values()), step_of(list(weights.values()), partial(loss_with_logits, eager, ids))
    model, _ = farspan.load_embedded()
    learning = list(model.parameters())
    return learning, step_of(learning, partial(model.loss, ids, recompute=side == "recompute"))
