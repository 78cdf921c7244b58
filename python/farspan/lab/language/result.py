"""What an extrapolation on language gave: losses by length, needles and copies, and tables of them."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farspan._files import write_json, write_text
from farspan._pictures import figure, plain_axes
from farspan.lab.curves import by_length, draw_curve, draw_seeds, mark_trained
from farspan.lab.language.settings import Settings
from farspan.lab.language_recipes import LanguageRecipe
from farspan.lab.runs import RESULT
from farspan.lab.schemes import looks
from farspan.lab.tables import as_csv, in_columns, number, percent


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


def table(found: Language) -> str:
    """Medians over seeds for a terminal: bits per byte, and the shares of needles found and of bytes copied."""
    parts = [_medians("bits per byte", found, Model.loss, lambda nats: number(_bits(nats), 3))]
    for title, share in (("needles found, %", Model.found), ("copied, %", Model.copied)):
        if any(share(model, length) is not None for model in found.models for length in found.settings.test_lengths):
            parts.append(_medians(title, found, share, percent))
    return "\n".join(parts)


def published_table(found: Language, recipe: LanguageRecipe) -> str:
    """The figures of a paper beside ours: perplexity as times that at the trained length, and needles at twice it."""
    parts = []
    factors = sorted({factor for figures in recipe.growth.values() for factor in figures} - {1})
    if factors:
        grown: dict[str, list[str]] = {}
        for name, figures in recipe.growth.items():
            if name in found.names:
                ours = found.growth(name)
                pairs = [(ours.get(f), figures[f] / figures[1] if f in figures else None) for f in factors]
                grown[name] = [number(factor, 2) for pair in pairs for factor in pair]
        heads = [head for factor in factors for head in (f"{factor:g}x", "paper")]
        parts.append(in_columns("perplexity, times", heads, grown))
    if recipe.needles:
        twice = 2 * found.settings.train_length
        shares = {
            name: [percent(found.median(name, Model.found, twice), 1), number(published, 1)]
            for name, published in recipe.needles.items() if name in found.names
        }  # fmt: skip
        parts.append(in_columns("needles at 2x, %", ["here", "paper"], shares))
    return "\n".join([*parts, f"paper: {recipe.source}"])


def write(found: Language, folder: str | os.PathLike[str]) -> list[Path]:
    """`extrapolate.json`, `.csv` and `.png`. BackendError: matplotlib is not installed."""
    json_file = Path(folder) / RESULT
    csv_file, picture = (json_file.with_suffix(ending) for ending in (".csv", ".png"))
    draw(found, picture)
    write_text(csv_file, as_csv(found.rows()))
    write_json(json_file, found.to_dict())
    return [json_file, csv_file, picture]


def draw(found: Language, path: str | os.PathLike[str]) -> None:
    """Bits per byte by length: every seed thin, the median thick."""
    settings = found.settings
    x = settings.test_lengths
    with figure(path, 8.6, 5.4) as drawn:
        axes: Any = drawn.subplots()
        for name, look in looks(found.names).items():
            seeds = [model for model in found.models if model.name == name]
            draw_seeds(axes, x, [[model.nats[n] / math.log(2) for n in x] for model in seeds], look)
            medians = [_bits(found.median(name, Model.loss, n)) for n in x]
            draw_curve(axes, x, medians, look)
        mark_trained(axes, settings.train_length)
        by_length(axes, x)
        axes.set_xlabel("context length, bytes")
        axes.set_ylabel("bits per byte")
        axes.set_title(f"{found.text}: trained on {settings.train_length} bytes", loc="left", fontsize=11)
        axes.legend(frameon=False, fontsize=8.5, loc="upper left", bbox_to_anchor=(1.01, 1.0))
        plain_axes(axes)


def _medians(title: str, found: Language, value: Value, cell: Callable[[float | None], str]) -> str:
    lengths = found.settings.test_lengths
    rows = {name: [cell(found.median(name, value, length)) for length in lengths] for name in found.names}
    return in_columns(title, lengths, rows)


def _bits(nats: float | None) -> float | None:
    return None if nats is None else nats / math.log(2)


def _number(x: float | None) -> float:
    return math.nan if x is None else x
