"""What decides the outcome of a training run, besides the model and the documents."""

from __future__ import annotations

import dataclasses
from typing import Any

from farspan._errors import ArgumentError, message
from farspan.model.kinds import FLAG, Kind, count, number, one_of, optional
from farspan.training.schedule import SCHEDULES

MANY = 2**53
POSITIVE = number(above=0)
SHARE = number(least=0, most=1)
MOMENT = Kind("a number from 0 on and below 1", lambda x: SHARE.accepts(x) and x < 1)
LONGEST_WARMUP = 100

KINDS: dict[str, Kind] = {
    "steps": count(MANY),
    "batch": count(MANY),
    "context": count(MANY),
    "learning_rate": POSITIVE,
    "warmup": optional(count(MANY, least=0)),
    "seed": count(2**63 - 1, least=-(2**63)),
    "schedule": one_of(*SCHEDULES),
    "decay": SHARE,
    "final": SHARE,
    "weight_decay": number(least=0),
    "beta1": MOMENT,
    "beta2": MOMENT,
    "epsilon": POSITIVE,
    "clip": optional(POSITIVE),
    "accumulate": count(MANY),
    "recompute": FLAG,
    "validate_every": count(MANY),
    "validation_tokens": count(MANY),
    "save_every": count(MANY),
}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Settings of `farspan.training.fit`.

    A step reads at most `batch * context` tokens, `accumulate` times over before the weights change. `context` is the
    longest piece of a document that the model sees at once.

    `learning_rate` is reached after `warmup` steps (None: a tenth of all, at most 100). `schedule` "cosine" lowers it
    from there on; "plateau" keeps it, and lowers it over the last `decay` of the steps. At the end it is near `final`
    times itself. AdamW's `weight_decay` is for matrices, and not for norms, biases and embeddings. Gradients longer
    than `clip` are shortened to it (None: never).

    `recompute`: keep no activations inside a layer for the backward pass, and compute them again there: less memory for
    a third more time. The result has the same bits.

    Every `validate_every` steps, and at the end, about `validation_tokens` of the validation documents are scored, at
    most. Every `save_every` steps the folder gets a checkpoint: a kill loses what came after it.

    ArgumentError: a value that cannot be.
    """

    steps: int = 1000
    batch: int = 16
    context: int = 256
    learning_rate: float = 1e-3
    warmup: int | None = None
    seed: int = 0
    schedule: str = "cosine"
    decay: float = 0.2
    final: float = 0.0
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    clip: float | None = 1.0
    accumulate: int = 1
    recompute: bool = False
    validate_every: int = 100
    validation_tokens: int = 65536
    save_every: int = 100

    def __post_init__(self) -> None:
        for name, kind in KINDS.items():
            object.__setattr__(self, name, kind.check(name, getattr(self, name)))

    @property
    def warmup_steps(self) -> int:
        """`warmup`, settled."""
        return min(LONGEST_WARMUP, self.steps // 10) if self.warmup is None else self.warmup

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 1."""
        factor = SCHEDULES[self.schedule](step, self.steps, self.warmup_steps, self.decay, self.final)
        return self.learning_rate * factor


def require_recipe(value: Any) -> None:
    if not isinstance(value, Recipe):
        raise ArgumentError(message("recipe", "a farspan.training.Recipe", repr(value)))
