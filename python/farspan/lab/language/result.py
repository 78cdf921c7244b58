"""What an extrapolation on language gave: losses by length, needles and copies."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from farspan.lab.language.settings import Settings


@dataclass(frozen=True)
class Model:
    """How one model reads long texts."""

    name: str
    seed: int
    nats: Mapping[int, float]
    """by length, of a byte"""
    errors: Mapping[int, float]
    """the standard errors of these"""
    needles: tuple[Mapping[str, Any], ...]
    copies: tuple[Mapping[str, Any], ...]

    @classmethod
    def of(cls, name: str, seed: int, found: Mapping[str, Any]) -> Model:
        """From its file."""
        nats, errors = ({int(n): _number(x) for n, x in found[part].items()} for part in ("nats", "errors"))
        return cls(name, seed, nats, errors, tuple(found["needles"]), tuple(found["copies"]))

    def loss(self, length: int) -> float:
        """Nats of a byte."""
        return self.nats[length]

    def found(self, length: int) -> float | None:
        """The share of needles found at a length, over all depths; None: none was hidden."""
        shares = [needle["accuracy"] for needle in self.needles if needle["length"] == length]
        return math.fsum(shares) / len(shares) if shares else None

    def copied(self, length: int) -> float | None:
        """The share of tokens copied at a length; None: none was asked for."""
        return next((copied["accuracy"] for copied in self.copies if copied["length"] == length), None)


Value = Callable[[Model, int], float | None]
"""A number that a model has at a length: `Model.loss`, `Model.found` or `Model.copied`."""


@dataclass(frozen=True)
class Language:
    """The models of some settings."""

    settings: Settings
    machine: str
    text: str
    learnt: int
    """bytes that models learnt from"""
    models: tuple[Model, ...]

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys(model.name for model in self.models))

    def median(self, name: str, value: Value, length: int) -> float | None:
        """Over seeds; None: no model of this name has such a value."""
        values = [value(model, length) for model in self.models if model.name == name]
        told = [x for x in values if x is not None]
        return statistics.median(told) if told else None

    def growth(self, name: str) -> dict[float, float]:
        """By the factor of the trained length, the perplexity as times that at the trained length."""
        home = self.median(name, Model.loss, self.settings.train_length)
        grown = {}
        for length in self.settings.test_lengths:
            here = self.median(name, Model.loss, length)
            assert home is not None
            assert here is not None
            grown[length / self.settings.train_length] = math.exp(min(here - home, 700.0))
        return grown

    def rows(self) -> list[dict[str, Any]]:
        """A row for each model and length."""
        return [
            {"scheme": model.name, "seed": model.seed, "length": length, "nats_per_byte": nats,
             "standard_error": model.errors[length], "needles_found": model.found(length),
             "copied": model.copied(length)}
            for model in self.models for length, nats in model.nats.items()
        ]  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Everything as one JSON document."""
        asked = [
            {"scheme": model.name, "seed": model.seed, "needles": list(model.needles), "copies": list(model.copies)}
            for model in self.models
        ]
        return {
            "task": "language", "settings": self.settings.to_dict(), "machine": self.machine, "text": self.text,
            "bytes_learnt": self.learnt, "points": self.rows(), "retrieval": asked,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Language:
        """What `to_dict` gave."""
        points = [(point["scheme"], point["seed"], point) for point in document["points"]]

        def by_length(asked: Mapping[str, Any], value: str) -> dict[int, float]:
            own = (asked["scheme"], asked["seed"])
            return {point["length"]: _number(point[value]) for *of, point in points if tuple(of) == own}

        models = tuple(
            Model(asked["scheme"], asked["seed"], by_length(asked, "nats_per_byte"), by_length(asked, "standard_error"),
                  tuple(asked["needles"]), tuple(asked["copies"]))
            for asked in document["retrieval"]
        )  # fmt: skip
        settings = Settings(**document["settings"])
        return cls(settings, document["machine"], document["text"], document["bytes_learnt"], models)


def _number(x: float | None) -> float:
    return math.nan if x is None else x
