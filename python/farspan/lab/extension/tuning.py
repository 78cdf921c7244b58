"""The short trainings: a copy of the model, other positions, and the user's text."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from farspan.lab.extension import lora
from farspan.lab.extension.methods import Trained
from farspan.model import Config, Transformer
from farspan.model.operations import HALVES
from farspan.training import Recipe, Result, fit

BYTES_OF_LEARNING = 12
"""of a number that learns: its gradient and two moments, in float32"""
BYTES_OF_MASTER = 6
"""of a number that learns in half precision: beside these a float32 master, and a gradient in half precision"""


@dataclass(frozen=True)
class Tuning:
    """How a method trains. A step reads at most so many tokens, whatever the length of a text is."""

    steps: int
    tokens: int = 4096
    learning_rate: float = 2e-5
    seed: int = 0

    def recipe(self, context: int) -> Recipe:
        return Recipe(
            steps=self.steps, batch=max(1, self.tokens // context), context=context, learning_rate=self.learning_rate,
            seed=self.seed, warmup=min(20, self.steps // 10), weight_decay=0.0, schedule="cosine", recompute=True,
        )  # fmt: skip


@torch.inference_mode(False)  # the copy learns, whatever the caller's mode
def tuned(
    model: Transformer, text: Tensor, method: Trained, context: int, tuning: Tuning,
    progress: Callable[[int, int, str], object] | None = None,
) -> tuple[Transformer, Result]:  # fmt: skip
    """A copy of the model that has learnt to read the text with other positions. `context`: the longest piece of the
    text that it reads at once."""
    learner = copy.deepcopy(model).with_positions(method.during)
    merge = lora.adapt(learner) if method.adapters else None
    result = fit(learner, [text.numpy()], tuning.recipe(context), progress=progress)
    if merge is not None:
        merge()
    return learner.with_positions(method.after), result


def memory(model: Transformer, method: Trained, context: int, tuning: Tuning) -> int:
    """Bytes that a training takes at most beside the model that is there: a copy of its weights, gradients and moments
    of what learns, what enters each layer, and all that one layer and the loss keep. Scores and logits are never
    there."""
    weights = list(model.parameters())
    size = max(weight.element_size() for weight in weights)
    learning = lora.learning(model) if method.adapters else sum(weight.numel() for weight in weights)
    half = any(weight.dtype in HALVES for weight in weights)
    state = size * sum(weight.numel() for weight in weights)
    state += learning * (BYTES_OF_LEARNING + (BYTES_OF_MASTER if half else 0) + (4 if method.adapters else 0))
    recipe = tuning.recipe(context)
    return state + 4 * recipe.batch * recipe.context * _per_token(model.config, method)


def _per_token(config: Config, method: Trained) -> int:
    """How many numbers a training keeps of each token: what enters each layer, and what is inside one."""
    heads = (config.num_attention_heads + 2 * config.kv_heads) * config.dim_per_head
    experts = (config.moe_intermediate_size or 0) * config.num_experts_per_tok
    inside = 6 * config.hidden_size + 4 * heads + 6 * max(config.intermediate_size, experts)
    if method.adapters:
        # What each projection gave, what its adapter adds and their sum, and the gradients of these.
        inside += 6 * (2 * config.hidden_size + heads + 2 * config.intermediate_size)
    return (config.num_hidden_layers + 4) * config.hidden_size + inside
