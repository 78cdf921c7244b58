"""The short trainings: a copy of the model, other positions, and the user's text."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from farspan.lab.extension.methods import Trained
from farspan.model import Config, Transformer
from farspan.training import Recipe, Result, fit

BYTES_OF_STATE = 16
"""of a parameter: itself, its gradient and two moments, in float32"""


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


def tuned(
    model: Transformer, text: Tensor, method: Trained, context: int, tuning: Tuning,
    progress: Callable[[int, int, str], object] | None = None,
) -> tuple[Transformer, Result]:  # fmt: skip
    """A copy of the model that has learnt to read the text with other positions. `context`: the longest piece of the
    text that it reads at once."""
    learner = copy.deepcopy(model).with_positions(method.during)
    result = fit(learner, [text.numpy()], tuning.recipe(context), progress=progress)
    return learner.with_positions(method.after), result


def memory(config: Config, parameters: int, context: int, tuning: Tuning) -> int:
    """Bytes that a training takes at most beside the model that is there: weights, gradients and moments, what enters
    each layer, and all that one layer and the loss keep. Scores and logits are never there."""
    recipe = tuning.recipe(context)
    tokens = recipe.batch * recipe.context
    heads = (config.num_attention_heads + 2 * config.kv_heads) * config.dim_per_head
    inside = 6 * config.hidden_size + 4 * heads + 6 * config.intermediate_size
    streams = (config.num_hidden_layers + 4) * config.hidden_size
    return BYTES_OF_STATE * parameters + 4 * tokens * (streams + inside)
