"""A measurement as files: JSON with everything, CSV with the points, pictures; and as a table for a terminal."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from farspan._files import remove_unfinished, write_json, write_text
from farspan.lab.measurement import Measurement
from farspan.lab.report.plot import draw
from farspan.lab.tables import as_csv, in_columns, number, percent

PARTIAL = "loss-partial"
PICTURES = ("png", "svg", "pdf")


def write(measurement: Measurement, folder: str | os.PathLike[str]) -> list[Path]:
    """`loss.json`, `loss.csv`, `loss.png`, `loss.svg` and `loss.pdf` in a folder, which is made if need be.

    The files of an interrupted measurement are called `loss-partial`. A complete one removes those.
    """
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    kinds = ("json", "csv", *PICTURES)
    whole, partial = ([out / f"{name}.{kind}" for kind in kinds] for name in ("loss", PARTIAL))
    for path in (*whole, *partial):
        remove_unfinished(path)
    paths = whole if measurement.complete else partial
    write_json(paths[0], measurement.to_dict())
    # CSV has the points without the losses of single windows, which JSON has.
    points = [{name: value for name, value in row.items() if name != "window_losses"} for row in measurement.rows()]
    write_text(paths[1], as_csv(points))
    for path in paths[2:]:
        draw(measurement, path)
    if measurement.complete:
        for path in partial:
            path.unlink(missing_ok=True)
    return paths


def keep(measurement: Measurement, folder: Path) -> None:
    """`loss-partial.json` of a measurement that goes on."""
    write_json(folder / f"{PARTIAL}.json", measurement.to_dict())


def table(measurement: Measurement) -> str:
    """The losses in columns, for a terminal: a row for each scheme, a column for each length."""
    curves = measurement.curves()
    columns = [length for length in measurement.lengths if any(p.length == length for p in measurement.points)]
    losses = {name: {p.length: measurement.in_unit(p.nats_per_token) for p in row} for name, row in curves.items()}
    rows = {name: [number(row.get(length), 3) for length in columns] for name, row in losses.items()}
    return in_columns(measurement.unit, columns, rows)


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
    return _shares("needles found, %", shares)


def copy_table(measurement: Measurement) -> str:
    """The share of tokens that are repeated in columns: a row for each scheme, a column for each length."""
    shares: dict[str, dict[int, float]] = {}
    for found in measurement.copies:
        shares.setdefault(found.scheme, {})[found.length] = found.accuracy
    guessed = percent(measurement.copies[0].guessed)
    below = f"{guessed} % are right where the model as it is reads the piece for the first time"
    return _shares("copied, %", shares) + "\n" + below


def _shares(title: str, shares: Mapping[str, Mapping[int, float]]) -> str:
    columns = sorted({length for row in shares.values() for length in row})
    return in_columns(title, columns, {name: [percent(row.get(n)) for n in columns] for name, row in shares.items()})
