"""The picture of what is found and copied: a panel of needles for each scheme, and one of copies."""

from __future__ import annotations

import math
import os
from typing import Any

from farspan._errors import BackendError
from farspan._pictures import GREY, figure, plain_axes
from farspan.lab.curves import by_length, draw_curve, mark_trained
from farspan.lab.measurement import Measurement
from farspan.lab.schemes import looks

COLUMNS = 4


def draw(measurement: Measurement, path: str | os.PathLike[str]) -> None:
    """Needles by depth and length, dark where all are found, and the share of tokens copied by length; as PNG, SVG or
    PDF by the ending of `path`. BackendError: nothing was asked for, or matplotlib is not installed."""
    names = list(dict.fromkeys(found.scheme for found in measurement.needles))
    if not names and not measurement.copies:
        raise BackendError("drawing a picture: expected a measurement with needles or copies, given none")
    rows = math.ceil(len(names) / COLUMNS)
    below = 1 if measurement.copies else 0
    with figure(path, 8.6, 1.9 * rows + 3.4 * below + 0.4) as drawn:
        grid = drawn.add_gridspec(rows + below, COLUMNS, height_ratios=[1.0] * rows + [2.0] * below)
        for number, name in enumerate(names):
            axes = drawn.add_subplot(grid[number // COLUMNS, number % COLUMNS])
            _draw_needles(axes, measurement, name, labelled=number % COLUMNS == 0)
        if names:
            drawn.suptitle("needles found, by depth and length; dark: all", x=0.01, ha="left", fontsize=9, color=GREY)
        if measurement.copies:
            _draw_copies(drawn.add_subplot(grid[rows, :]), measurement)


def _draw_needles(axes: Any, measurement: Measurement, name: str, *, labelled: bool) -> None:
    found = [found for found in measurement.needles if found.scheme == name]
    lengths, depths = sorted({x.length for x in found}), sorted({x.depth for x in found})
    share = {(x.depth, x.length): x.accuracy for x in found}
    axes.imshow(
        [[share[depth, length] for length in lengths] for depth in depths], vmin=0, vmax=1, cmap="Greens", aspect="auto"
    )
    axes.set_xticks(range(len(lengths)), labels=[str(length) for length in lengths], fontsize=7)
    axes.set_yticks(range(len(depths)), labels=[f"{100 * depth:.0f} %" if labelled else "" for depth in depths])
    axes.tick_params(labelsize=7, length=0)
    axes.set_title(looks([name])[name].label, loc="left", fontsize=8.5)


def _draw_copies(axes: Any, measurement: Measurement) -> None:
    curves: dict[str, list[tuple[int, float]]] = {}
    for found in measurement.copies:
        curves.setdefault(found.scheme, []).append((found.length, 100 * found.accuracy))
    for name, look in looks(curves).items():
        x, y = zip(*curves[name], strict=True)
        draw_curve(axes, x, y, look, linewidth=1.4)
    guessed = 100 * measurement.copies[0].guessed
    axes.axhline(guessed, color=GREY, linestyle=":", linewidth=1.2, label="read for the first time")
    mark_trained(axes, measurement.trained_length)
    by_length(axes, sorted({found.length for found in measurement.copies}))
    axes.set_ylim(-2, 102)
    axes.set_xlabel("length of both pieces together, tokens")
    axes.set_ylabel("copied, %")
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    plain_axes(axes)
