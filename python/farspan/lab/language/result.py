"""What an extrapolation on language gave: losses by length, needles and copies, and tables of them."""

from __future__ import annotations

import csv
import io
import math
import os
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farspan import _strict_json
from farspan._files import replaced
from farspan._pictures import figure, plain_axes
from farspan.lab.language.settings import Settings
from farspan.lab.language_recipes import LanguageRecipe
from farspan.lab.schemes import looks


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

    def found(self, length: int) -> float | None:
        """The share of needles found at a length, over all depths; None: none was hidden."""
        shares = [needle["accuracy"] for needle in self.needles if needle["length"] == length]
        return math.fsum(shares) / len(shares) if shares else None

    def copied(self, length: int) -> float | None:
        """The share of tokens copied at a length; None: none was asked for."""
        return next((copied["accuracy"] for copied in self.copies if copied["length"] == length), None)


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

    def median(self, name: str, value: str, length: int) -> float | None:
        """Over seeds, of `nats`, `found` or `copied`."""
        several = [model for model in self.models if model.name == name]
        values = [model.nats[length] if value == "nats" else getattr(model, value)(length) for model in several]
        told = [x for x in values if x is not None]
        return statistics.median(told) if told else None

    def growth(self, name: str) -> dict[float, float]:
        """By the factor of the trained length, the perplexity as times that at the trained length."""
        home = self.median(name, "nats", self.settings.train_length)
        grown = {}
        for length in self.settings.test_lengths:
            here = self.median(name, "nats", length)
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
    parts = [_columns("bits per byte", found, lambda name, n: _bits(found.median(name, "nats", n)), 3)]
    for title, value in (("needles found, %", "found"), ("copied, %", "copied")):
        if any(found.median(name, value, n) is not None for name in found.names for n in found.settings.test_lengths):
            parts.append(_columns(title, found, lambda name, n, v=value: _percent(found.median(name, v, n)), 0))
    return "\n".join(parts)


def published_table(found: Language, recipe: LanguageRecipe) -> str:
    """The figures of a paper beside ours: perplexity as times that at the trained length, and needles at twice it."""
    lines = []
    factors = sorted({factor for figures in recipe.growth.values() for factor in figures} - {1})
    wide = max(18, *(len(name) + 2 for name in found.names)) if found.names else 18
    if factors:
        lines.append(f"{'perplexity, times':<{wide}}" + "".join(f"{f'{f:g}x':>9}{'paper':>9}" for f in factors))
        for name, figures in recipe.growth.items():
            if name in found.names:
                ours = found.growth(name)
                cells = [(ours.get(f), figures[f] / figures[1] if f in figures else None) for f in factors]
                lines.append(f"{name:<{wide}}" + "".join(f"{_cell(a, 2):>9}{_cell(b, 2):>9}" for a, b in cells))
    if recipe.needles:
        lines.append(f"{'needles at 2x, %':<{wide}}{'':>9}{'paper':>9}")
        for name, share in recipe.needles.items():
            if name in found.names:
                ours_at = _percent(found.median(name, "found", 2 * found.settings.train_length))
                lines.append(f"{name:<{wide}}{_cell(ours_at, 1):>9}{share:>9.1f}")
    return "\n".join([*lines, f"paper: {recipe.source}"])


def write(found: Language, folder: str | os.PathLike[str]) -> list[Path]:
    """`extrapolate.json`, `.csv` and `.png`. BackendError: matplotlib is not installed."""
    json_file, csv_file, picture = (Path(folder) / f"extrapolate.{kind}" for kind in ("json", "csv", "png"))
    with replaced(picture) as beside:
        draw(found, beside)
    text = io.StringIO(newline="")
    rows = found.rows()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    for path, content in (
        (csv_file, text.getvalue()), (json_file, _strict_json.dumps(found.to_dict(), indent=1) + "\n"),
    ):  # fmt: skip
        with replaced(path) as beside:
            beside.write_text(content, encoding="utf-8", newline="")
    return [json_file, csv_file, picture]


def draw(found: Language, path: str | os.PathLike[str]) -> None:
    """Bits per byte by length: every seed thin, the median thick."""
    settings = found.settings
    x = settings.test_lengths
    with figure(path, 8.6, 5.4) as drawn:
        axes: Any = drawn.subplots()
        for name, look in looks(found.names).items():
            seeds = [model for model in found.models if model.name == name]
            for model in seeds if len(seeds) > 1 else ():
                axes.plot(x, [_bits(model.nats[n]) for n in x], color=look.colour, linewidth=0.7, alpha=0.7)
            medians = [_bits(found.median(name, "nats", n)) for n in x]
            axes.plot(x, medians, color=look.colour, marker=look.marker, linewidth=1.8, label=look.label)
        axes.axvline(settings.train_length, color="#777777", linestyle=(0, (4, 3)), linewidth=1.2)
        axes.set_xscale("log", base=2)
        axes.set_xticks(x, labels=[str(length) for length in x])
        axes.minorticks_off()
        axes.set_xlabel("context length, bytes")
        axes.set_ylabel("bits per byte")
        axes.set_title(f"{found.text}: trained on {settings.train_length} bytes", loc="left", fontsize=11)
        axes.legend(frameon=False, fontsize=8.5, loc="upper left", bbox_to_anchor=(1.01, 1.0))
        plain_axes(axes)


def _columns(title: str, found: Language, value: Any, digits: int) -> str:
    lengths = found.settings.test_lengths
    wide = max(18, *(len(name) + 2 for name in found.names))
    lines = [f"{title:<{wide}}" + "".join(f"{n:>8}" for n in lengths)]
    for name in found.names:
        lines.append(f"{name:<{wide}}" + "".join(f"{_cell(value(name, n), digits):>8}" for n in lengths))
    return "\n".join(lines)


def _cell(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _bits(nats: float | None) -> float | None:
    return None if nats is None else nats / math.log(2)


def _number(x: float | None) -> float:
    return math.nan if x is None else x
