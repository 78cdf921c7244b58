"""What decides the outcome of an extrapolation on language."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from farspan._errors import ArgumentError, message
from farspan.lab.extension import methods
from farspan.lab.settings import MANY, plain, put, require_new, settle
from farspan.lab.trainings import Trainings
from farspan.model.kinds import POSITIVE, Kind, count, list_of

DROPPED = "drope"
"""The model that is trained with RoPE, and without positions over the last steps."""
DROPPED_SHARE = 8
"""One of so many steps has no positions."""

KINDS: dict[str, Kind] = {
    "train_length": count(MANY, least=2),
    "test_lengths": list_of(count(MANY, least=2)),
    "tuning_steps": count(MANY),
    "learning_rate": POSITIVE,
    "needles": count(MANY, least=0),
    "copies": count(MANY, least=0),
}


def zero_shot_name(scheme: str) -> str:
    """The name of the RoPE model with a scheme put on it."""
    return f"{scheme}, zero-shot"


def tuned_name(method: str) -> str:
    """The name of the RoPE model that a method has trained further."""
    return f"{method}, tuned"


@dataclass(frozen=True)
class Settings:
    """Byte models with each of `schemes`, `seeds` of each, trained from scratch on windows of `train_length` bytes and
    measured at each of `test_lengths`, on the same bytes of a text that none has seen.

    A scheme `drope` is RoPE whose last eighth of the steps has no positions (DroPE, arXiv 2512.12167). `zero_shot` are
    schemes put on the RoPE model as they are, `tuned` methods of `farspan.lab.extension` that go on from it for
    `tuning_steps`, each on the rest of the same text.

    `examples`: windows that a loss is a mean over. `needles` and `copies`: as in `farspan.lab.extension.extend`.

    ArgumentError: a value that cannot be.
    """

    schemes: tuple[str, ...]
    zero_shot: tuple[str, ...] = ()
    tuned: tuple[str, ...] = ()
    tuning_steps: int = 1000
    train_length: int = 256
    test_lengths: tuple[int, ...] = (256, 512, 1024, 2048)
    steps: int = 6000
    seeds: int = 1
    examples: int = 32
    learning_rate: float = 3e-3
    batch: int = 16
    layers: int = 6
    width: int = 128
    heads: int = 4
    needles: int = 4
    copies: int = 8

    def __post_init__(self) -> None:
        settle(self, KINDS)
        put(self, "test_lengths", tuple(sorted({self.train_length, *self.test_lengths})))
        for name in ("schemes", "zero_shot", "tuned"):
            put(self, name, tuple(dict.fromkeys(map(methods.settled, getattr(self, name)))))
        require_new("rope" if name == DROPPED else name for name in self.schemes)
        if DROPPED in self.schemes and self.steps < 2:
            raise ArgumentError(message("steps", f"at least 2 with {DROPPED}", self.steps))
        alone = [name for name in self.zero_shot if name in methods.ONLY_TUNED]
        if alone:
            raise ArgumentError(message("zero_shot", "schemes that need no training", ", ".join(alone)))
        methods.check(self.zero_shot)
        wrong = [name for name in self.tuned if name not in methods.TUNED]
        if wrong:
            raise ArgumentError(message("tuned", f"methods among {', '.join(methods.TUNED)}", wrong[0]))
        if (self.zero_shot or self.tuned) and "rope" not in self.schemes:
            raise ArgumentError(message("schemes", "rope among them, which others are put on", ", ".join(self.schemes)))

    @property
    def longest(self) -> int:
        return self.test_lengths[-1]

    @property
    def dropped_steps(self) -> int:
        return max(1, self.steps // DROPPED_SHARE)

    @property
    def models(self) -> dict[str, int]:
        """The names of all models of a seed, and how many steps each is trained, beyond those of one that it is made
        from."""
        return {
            **dict.fromkeys(self.schemes, self.steps), **dict.fromkeys(map(zero_shot_name, self.zero_shot), 0),
            **dict.fromkeys(map(tuned_name, self.tuned), self.tuning_steps),
        }  # fmt: skip

    @property
    def trainings(self) -> Trainings:
        """How many there are, by their steps."""
        return Trainings(steps for steps in self.models.values() for _ in range(self.seeds) if steps)

    def facts(self, name: str, seed: int) -> Mapping[str, Any]:
        """What the result of a model depends on, as JSON has it. How many seeds and which others there are is no
        part."""
        others = ("schemes", "zero_shot", "tuned", "seeds")
        own = {key: value for key, value in self.to_dict().items() if key not in others}
        return {"name": name, "seed": seed, **own}

    def to_dict(self) -> dict[str, Any]:
        """With JSON types."""
        return plain(self)
