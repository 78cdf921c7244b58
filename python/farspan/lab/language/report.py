"""An extrapolation on language as tables for a terminal, beside a paper's figures, and as files."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from farspan._files import write_json, write_text
from farspan._pictures import figure, plain_axes
from farspan.lab.curves import by_length, draw_curve, draw_seeds, mark_trained
from farspan.lab.language.result import Language, Model, Value
from farspan.lab.language_recipes import LanguageRecipe
from farspan.lab.runs import RESULT
from farspan.lab.schemes import looks
from farspan.lab.tables import as_csv, in_columns, number, percent

Nothing = TypeVar("Nothing", float, None)
"""What stands where there is no number."""


@dataclass(frozen=True)
class Shown:
    """A value of models as tables and pictures have it."""

    title: str
    value: Value
    factor: float
    """what it is multiplied with"""
    digits: int
    height: float
    """of its part of a picture, beside the others"""
    limits: tuple[float, float] | None = None
    """of the picture's axis; None: by the values"""

    def rows(self, found: Language, name: str) -> list[list[float]]:
        """Of a name, for each seed a number for each length; NaN where there is none."""
        models = [model for model in found.models if model.name == name]
        return [[self._scaled(self.value(model, n), math.nan) for n in found.settings.test_lengths] for model in models]

    def medians(self, found: Language, name: str) -> list[float | None]:
        """Of a name a number for each length, over seeds."""
        return [self._scaled(found.median(name, self.value, n), None) for n in found.settings.test_lengths]

    def _scaled(self, value: float | None, nothing: Nothing) -> float | Nothing:
        return nothing if value is None else self.factor * value


SHOWN = (
    Shown("bits per byte", Model.loss, 1 / math.log(2), 3, height=3),
    Shown("needles found, %", Model.found, 100, 0, height=2, limits=(-2, 102)),
    Shown("copied, %", Model.copied, 100, 0, height=2, limits=(-2, 102)),
)


def _asked_for(found: Language) -> list[Shown]:
    """What there is to show."""
    lengths = found.settings.test_lengths
    return [shown for shown in SHOWN
            if any(shown.value(model, length) is not None for model in found.models for length in lengths)]  # fmt: skip


def table(found: Language) -> str:
    """Medians over seeds for a terminal: bits per byte, and the shares of needles found and of bytes copied."""
    parts = []
    for shown in _asked_for(found):
        rows = {name: [number(x, shown.digits) for x in shown.medians(found, name)] for name in found.names}
        parts.append(in_columns(shown.title, found.settings.test_lengths, rows))
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
    """Bits per byte by length, and below them needles and copies: every seed thin, the median thick."""
    x, shown = found.settings.test_lengths, _asked_for(found)
    with figure(path, 8.6, 1.4 + 1.4 * sum(one.height for one in shown)) as drawn:
        panels = drawn.subplots(
            len(shown), 1, sharex=True, squeeze=False, height_ratios=[one.height for one in shown]
        )[:, 0]  # fmt: skip
        for axes, one in zip(panels, shown, strict=True):
            for name, look in looks(found.names).items():
                draw_seeds(axes, x, one.rows(found, name), look)
                draw_curve(axes, x, one.medians(found, name), look)
            mark_trained(axes, found.settings.train_length)
            axes.set_ylabel(one.title)
            if one.limits is not None:
                axes.set_ylim(*one.limits)
            plain_axes(axes)
        by_length(panels[-1], x)
        panels[-1].set_xlabel("context length, bytes")
        title = f"{found.text}: trained on {found.settings.train_length} bytes"
        panels[0].set_title(title, loc="left", fontsize=11)
        panels[0].legend(frameon=False, fontsize=8.5, loc="upper left", bbox_to_anchor=(1.01, 1.0))
