"""A measurement as files: JSON with everything, CSV with the points, a picture."""

from __future__ import annotations

import csv
import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farspan.lab import strict_json
from farspan.lab.measure import Measurement


@dataclass(frozen=True)
class Subject:
    """What was measured: which model, on which text, in which unit it is drawn."""

    model: str
    text: str
    trained_length: int
    bytes_per_token: float
    schemes: dict[str, dict[str, Any] | None]
    """settings of each scheme, None for the model's own"""

    @property
    def unit(self) -> str:
        """Bytes as tokens are drawn in bits, which compare between models; other tokens in nats."""
        return "bits per byte" if self.bytes_per_token == 1 else "nats per token"

    def in_unit(self, nats_per_token: float) -> float:
        return nats_per_token / math.log(2) if self.bytes_per_token == 1 else nats_per_token


def as_dict(measurement: Measurement, subject: Subject) -> dict[str, Any]:
    """One JSON document: how it was measured, and a row for each point."""
    how = {name: value for name, value in dataclasses.asdict(measurement).items() if name != "points"}
    return {
        **dataclasses.asdict(subject),
        **how,
        "unit": subject.unit,
        "points": [_row(dataclasses.asdict(point), subject) for point in measurement.points],
    }


def write(measurement: Measurement, subject: Subject, out: Path) -> list[Path]:
    """`loss.json`, `loss.csv` and `loss.png` in the folder `out`, which is made if need be."""
    from farspan.lab.report import plot

    out.mkdir(parents=True, exist_ok=True)
    document = as_dict(measurement, subject)
    paths = [out / f"loss.{kind}" for kind in ("json", "csv", "png")]
    paths[0].write_text(strict_json.dumps(document, indent=2) + "\n", encoding="utf-8")
    with paths[1].open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(document["points"][0]))
        writer.writeheader()
        writer.writerows(document["points"])
    plot.draw(measurement, subject, paths[2])
    return paths


def table(measurement: Measurement, subject: Subject) -> str:
    """The losses in columns, for a terminal: a row for each scheme, a column for each length."""
    columns = list(dict.fromkeys(point.length for point in measurement.points))
    values = {(point.scheme, point.length): subject.in_unit(point.nats_per_token) for point in measurement.points}
    names = list(dict.fromkeys(point.scheme for point in measurement.points))
    lines = ["".join([f"{subject.unit:<16}", *(f"{length:>8}" for length in columns)])]
    lines += ["".join([f"{name:<16}", *(f"{values[name, length]:8.3f}" for length in columns)]) for name in names]
    return "\n".join(lines)


def _row(point: dict[str, Any], subject: Subject) -> dict[str, Any]:
    return {**point, "bits_per_byte": point["nats_per_token"] / math.log(2) / subject.bytes_per_token}
