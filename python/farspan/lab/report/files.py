"""A measurement as files: JSON with everything, CSV with the points, pictures; and as a table for a terminal."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from pathlib import Path

from farspan import _strict_json
from farspan.lab.measurement import Measurement
from farspan.lab.report.plot import draw

PICTURES = ("png", "svg", "pdf")


def write(measurement: Measurement, folder: str | os.PathLike[str]) -> list[Path]:
    """`loss.json`, `loss.csv`, `loss.png`, `loss.svg` and `loss.pdf` in a folder, which is made if need be.

    The files of an interrupted measurement are called `loss-partial`. A complete one removes those.
    """
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    kinds = ("json", "csv", *PICTURES)
    whole, partial = ([out / f"{name}.{kind}" for kind in kinds] for name in ("loss", "loss-partial"))
    paths = whole if measurement.complete else partial
    paths[0].write_text(_strict_json.dumps(measurement.to_dict(), indent=2) + "\n", encoding="utf-8")
    paths[1].write_text(_csv(measurement), encoding="utf-8")
    for path in paths[2:]:
        draw(measurement, path)
    if measurement.complete:
        for path in partial:
            path.unlink(missing_ok=True)
    return paths


def table(measurement: Measurement) -> str:
    """The losses in columns, for a terminal: a row for each scheme, a column for each length."""
    curves = measurement.curves()
    columns = [length for length in measurement.lengths if any(p.length == length for p in measurement.points)]
    wide = max(16, *(len(name) + 2 for name in curves)) if curves else 16
    lines = [f"{measurement.unit:<{wide}}" + "".join(f"{length:>8}" for length in columns)]
    for name, points in curves.items():
        values = {point.length: f"{measurement.in_unit(point.nats_per_token):.3f}" for point in points}
        lines.append(f"{name:<{wide}}" + "".join(f"{values.get(length, '-'):>8}" for length in columns))
    return "\n".join(lines)


def reach_line(measurement: Measurement) -> str:
    """Up to which length each scheme reads, in words."""
    reads = ", ".join(f"{name} {length}" for name, length in measurement.effective_lengths().items())
    return f"reads up to, by a loss within {measurement.margin:g} nats per token of its best: {reads}"


def needle_table(measurement: Measurement) -> str:
    """The share of needles found in columns, over all depths: a row for each scheme, a column for each length."""
    cells: dict[str, dict[int, list[float]]] = {}
    for found in measurement.needles:
        cells.setdefault(found.scheme, {}).setdefault(found.length, []).append(found.accuracy)
    shares = {name: {n: sum(those) / len(those) for n, those in row.items()} for name, row in cells.items()}
    return _percent("needles found, %", shares)


def copy_table(measurement: Measurement) -> str:
    """The share of tokens that are repeated in columns: a row for each scheme, a column for each length."""
    shares: dict[str, dict[int, float]] = {}
    for found in measurement.copies:
        shares.setdefault(found.scheme, {})[found.length] = found.accuracy
    guessed = 100 * measurement.copies[0].guessed
    lines = _percent("copied, %", shares)
    return f"{lines}\n{guessed:.0f} % are right where the model as it is reads the piece for the first time"


def _percent(title: str, shares: Mapping[str, Mapping[int, float]]) -> str:
    columns = sorted({length for row in shares.values() for length in row})
    wide = max(16, *(len(name) + 2 for name in shares))
    lines = [f"{title:<{wide}}" + "".join(f"{length:>8}" for length in columns)]
    for name, row in shares.items():
        lines.append(f"{name:<{wide}}" + "".join(f"{100 * row[length]:8.0f}" for length in columns))
    return "\n".join(lines)


def _csv(measurement: Measurement) -> str:
    """The points without the losses of single windows, which JSON has."""
    rows = [{name: value for name, value in row.items() if name != "window_losses"} for row in measurement.rows()]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
