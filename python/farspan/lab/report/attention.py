"""What a model's heads look at as files: JSON with everything, and a picture; and as a table for a terminal."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from farspan._files import write_json
from farspan._pictures import GREY, figure, plain_axes
from farspan.lab.attention import AttentionMeasurement, AttentionPoint
from farspan.lab.curves import by_length, mark_trained
from farspan.lab.tables import in_columns, number

PANELS = (
    ("entropy", "entropy, nats"),
    ("parked", "share of first key and sink"),
    ("distance", "mean distance, tokens"),
)
"""What is drawn, from top to bottom."""

PARKING = 3
"""How many of a model's heads the table names."""


def write(measurement: AttentionMeasurement, folder: str | os.PathLike[str]) -> list[Path]:
    """`attention.json` and `attention.png` in a folder, which is made if need be."""
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / "attention.json", out / "attention.png"]
    write_json(paths[0], measurement.to_dict())
    draw(measurement, paths[1])
    return paths


def table(measurement: AttentionMeasurement) -> str:
    """Means over heads for a terminal, a row for each layer and a column for each length; and under each scheme the
    heads that park most at the greatest length that the model was trained on, or at the shortest one."""
    lines = []
    at_home = max((n for n in measurement.lengths if n <= measurement.trained_length), default=measurement.lengths[0])
    for scheme in measurement.schemes:
        points = measurement.of(scheme)
        layers = list(dict.fromkeys(point.layer for point in points))
        for name, label in PANELS:
            rows = {
                f"  layer {layer}": [number(point.mean(name), 3) for point in points if point.layer == layer]
                for layer in layers
            }
            lines.append(in_columns(f"{scheme}: {label}", measurement.lengths, rows))
        parked = [
            (first + sink, point.layer, head)
            for point in points
            if point.length == at_home
            for head, (first, sink) in enumerate(zip(point.first, point.sink, strict=True))
        ]
        parked.sort(key=lambda entry: (-entry[0], entry[1:]))
        heads = ", ".join(f"layer {layer} head {head}: {share:.3f}" for share, layer, head in parked[:PARKING])
        lines.append(f"{scheme}: most on the first key and the sink at {at_home}: {heads}")
    return "\n".join(lines)


def draw(measurement: AttentionMeasurement, path: str | os.PathLike[str]) -> None:
    """A column for each scheme, a line for each layer; as PNG, SVG or PDF, by the ending of `path`. BackendError:
    matplotlib is not installed."""
    schemes = measurement.schemes
    with figure(path, 2.6 + 3.4 * len(schemes), 8.4) as drawn:
        panels = drawn.subplots(len(PANELS), len(schemes), sharex=True, sharey="row", squeeze=False)
        for column, scheme in enumerate(schemes):
            for axes, (name, label) in zip(panels[:, column], PANELS, strict=True):
                _draw_panel(axes, measurement, measurement.of(scheme), name)
                if column == 0:
                    axes.set_ylabel(label)
            panels[0, column].set_title(scheme, loc="left", fontsize=11, fontweight="bold")
            panels[-1, column].set_xlabel("context length, tokens")
        panels[0, -1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=8, frameon=False)
        drawn.suptitle(f"What {measurement.model} looks at in {measurement.text}".replace("$", r"\$"), fontsize=12)
        how = f"Mean over heads and the last {measurement.targets} queries of {measurement.windows} windows."
        drawn.supxlabel(f"{how} Vertical line: the trained length.", x=0.01, ha="left", fontsize=8, color=GREY)


def _draw_panel(axes: Any, measurement: AttentionMeasurement, points: list[AttentionPoint], name: str) -> None:
    import matplotlib

    layers = list(dict.fromkeys(point.layer for point in points))
    colours = matplotlib.colormaps["viridis"]
    for rank, layer in enumerate(layers):
        values = [point.mean(name) for point in points if point.layer == layer]
        colour = colours(0.92 * rank / max(1, len(layers) - 1))
        axes.plot(measurement.lengths, values, color=colour, marker="o", markersize=3.5, label=f"layer {layer}")
    if name == "entropy":
        widest = [math.log(length) for length in measurement.lengths]
        axes.plot(measurement.lengths, widest, color=GREY, linestyle=":", label="all keys alike")
    by_length(axes, measurement.lengths, fontsize=8)
    mark_trained(axes, measurement.trained_length)
    plain_axes(axes)
