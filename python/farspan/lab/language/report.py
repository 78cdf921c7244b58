"""An extrapolation on language as tables for a terminal, beside a paper's figures, and as files."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from farspan._files import write_json, write_text
from farspan._pictures import figure, plain_axes
from farspan.lab.curves import by_length, draw_curve, draw_seeds, mark_trained
from farspan.lab.language.result import Language, Model, Value
from farspan.lab.language_recipes import LanguageRecipe
from farspan.lab.runs import RESULT
from farspan.lab.schemes import looks
from farspan.lab.tables import as_csv, in_columns, number, percent


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
