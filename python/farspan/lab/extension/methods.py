"""The methods by name: position schemes as they are, and trainings that end with one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from farspan._errors import ArgumentError, message
from farspan.lab import custom, schemes
from farspan.lab.extension.pose import SkippedPositions
from farspan.lab.schemes import Reach
from farspan.positions import LogN, NoPE, Scheme

ZERO_SHOT = ("linear", "ntk", "dynamic-ntk", "yarn", "logn", "rerope", "self-extend")
"""What is measured unless others are asked for. Streaming is not among them: its loss stays flat because it forgets."""


@dataclass(frozen=True)
class Trained:
    """How a method trains, and what it leaves behind."""

    during: Scheme
    """the positions in training"""
    after: Scheme
    """those of the model that it gives"""
    whole_reach: bool
    """whether it reads texts of the length to reach, or only of the trained one"""
    adapters: bool = False
    """whether adapters, norms and embeddings learn, or everything"""


DEFAULT_TUNED = ("linear", "yarn", "pose", "drope")
"""What trains where `--steps` is given and no method named."""
TUNED = (*DEFAULT_TUNED, "lora")
"""The methods that train."""
ONLY_TUNED = ("pose", "drope", "lora")
"""Those that are nothing without training."""


def check(names: Iterable[str]) -> None:
    """ArgumentError: an unknown name, or one that says nothing of a longer text."""
    for name in names:
        if settled(name) in ONLY_TUNED:
            continue
        schemes.check([name])
        if not custom.is_reference(name) and schemes.find(name).name == "own":
            raise ArgumentError(message("methods", "ways to extend a model: own is always measured", repr(name)))


def split(names: Iterable[str] | None, *, trains: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The methods that are measured as they are, and those that train. ArgumentError: some need training, and there is
    none."""
    check(names or ())
    if names is None:
        return ZERO_SHOT, DEFAULT_TUNED if trains else ()
    chosen = tuple(dict.fromkeys(map(settled, names)))
    lone = [name for name in chosen if name in ONLY_TUNED]
    if lone and not trains:
        raise ArgumentError(message("methods", "a number of --steps for methods that train", ", ".join(lone)))
    plain = tuple(name for name in chosen if name not in ONLY_TUNED)
    return plain, tuple(name for name in chosen if name in TUNED) if trains else ()


def trained_by(method: str, reach: Reach) -> Trained:
    """What a method of `TUNED` does for a reach."""
    yarn, linear = schemes.make(["yarn", "linear"], reach).values()
    assert yarn is not None
    assert linear is not None
    no_positions = LogN(max(2, reach.trained), inner=NoPE())
    return {
        "linear": Trained(linear, linear, whole_reach=True),
        "yarn": Trained(yarn, yarn, whole_reach=True),
        "pose": Trained(SkippedPositions(reach.longest, inner=yarn), yarn, whole_reach=False),
        "drope": Trained(no_positions, no_positions, whole_reach=False),
        "lora": Trained(yarn, yarn, whole_reach=True, adapters=True),
    }[method]


def settled(name: str) -> str:
    plain = name.strip().lower().replace("_", "-")
    if custom.is_reference(name):
        return name
    return plain if plain in ONLY_TUNED else schemes.find(plain).name
