"""The picture of a measurement: loss over length above, and below how far it is from what the model has at home."""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Callable
from typing import Any

from farspan._errors import BackendError
from farspan._pictures import GREY, figure, plain_axes
from farspan.lab.curves import by_length, draw_curve, mark_trained
from farspan.lab.measurement import Measurement, Point
from farspan.lab.schemes import Look, looks

Value = Callable[[Point], tuple[float, float]]
"""What is drawn of a point: the value and its standard error."""

SIDE = 0.05
"""Up to here the scale of differences is linear, beyond it logarithmic."""


def draw(measurement: Measurement, path: str | os.PathLike[str]) -> None:
    """Write the picture as PNG, SVG or PDF, by the ending of `path`. BackendError: matplotlib is not installed."""
    if not measurement.points:
        raise BackendError("drawing a picture: expected a measurement with points, given none")
    home = _home(measurement)
    with figure(path, 8.6, 8.4 if home else 5.2) as drawn:
        panels = list(drawn.subplots(2 if home else 1, 1, sharex=True, squeeze=False)[:, 0])
        _draw_length_axis(panels[-1], measurement)
        unit = measurement.unit
        _draw_panel(panels[0], measurement, lambda point: (point.nats_per_token, point.standard_error), f"loss, {unit}")
        if home:
            _draw_panel(panels[1], measurement, lambda point: point.above(home), f"difference, {unit}")
            _scale_differences(panels[1], measurement, home)
        _draw_titles(drawn, measurement, home)
        _write_notes(drawn, measurement.notes)
        for axes in panels:
            _mark_trained_length(axes, measurement, named=axes is panels[0])
        for axes in panels:
            _label_curves(axes)


def _home(measurement: Measurement) -> Point | None:
    """The model's own loss at the greatest length it was trained on, if that was measured."""
    at_home = [p for p in measurement.points if p.scheme == "own" and p.length <= measurement.trained_length]
    return at_home[-1] if at_home and len(measurement.curves()) > 1 else None


def _draw_panel(axes: Any, measurement: Measurement, value: Value, label: str) -> None:
    curves = measurement.curves()
    styles = looks(curves)
    for rank, (name, points) in enumerate(curves.items()):
        # Equal curves stand side by side, so that none hides another: at most a tenth of an octave from their length.
        shift = 2 ** (0.2 * ((rank + 0.5) / len(curves) - 0.5))
        _draw_curve(axes, measurement, points, value, styles[name], shift, own=name == "own")
    axes.set_ylabel(label)
    plain_axes(axes)
    axes.margins(y=0.08)


def _draw_curve(
    axes: Any, measurement: Measurement, points: list[Point], value: Value, look: Look, shift: float, *, own: bool
) -> None:
    x = [point.length * shift for point in points]
    y, errors = zip(*((measurement.in_unit(a), measurement.in_unit(b)) for a, b in map(value, points)), strict=True)
    if not any(map(math.isnan, errors)):
        low, high = ([a + sign * b for a, b in zip(y, errors, strict=True)] for sign in (-1, 1))
        axes.fill_between(x, low, high, color=look.colour, alpha=0.12, linewidth=0, zorder=2)
    draw_curve(axes, x, y, look, linewidth=2.4 if own else 1.4, zorder=2.9 if own else 3)


def _scale_differences(axes: Any, measurement: Measurement, home: Point) -> None:
    """Hundredths near home and the distance of what fails are both readable."""
    side = SIDE if measurement.unit == "bits per byte" else 2 * SIDE
    axes.set_yscale("symlog", linthresh=side, linscale=1.0)
    axes.axhline(0, color="#000000", linewidth=0.8, zorder=1)
    values = [measurement.in_unit(point.above(home)[0]) for point in measurement.points]
    steps = [step * 10**power for power in range(-2, 4) for step in (1, 2, 5)]
    ticks = [sign * step for step in steps for sign in (-1, 1) if min(values) * 1.3 <= sign * step <= max(values) * 1.3]
    ticks = [tick for tick in ticks if abs(tick) >= side / 2.5]  # closer to 0 they would overlap it
    axes.set_yticks([0, *ticks], labels=["0", *(f"{tick:+g}" for tick in ticks)])
    axes.minorticks_off()


def _label_curves(axes: Any) -> None:
    """Each curve's name at its end, moved apart where they would overlap, with a line that leads to it."""
    to_axes = axes.transScale + axes.transLimits
    ends = [(float(to_axes.transform((line.get_xdata()[-1], line.get_ydata()[-1]))[1]), line)
            for line in axes.get_lines() if not line.get_label().startswith("_")]  # fmt: skip
    ends.sort(key=lambda end: end[0])
    for height, (_, line) in zip(_moved_apart([height for height, _ in ends], 0.062), ends, strict=True):
        x, y = line.get_xdata()[-1], line.get_ydata()[-1]
        axes.annotate(
            line.get_label(), (x, y), (1.045, height), xycoords="data", textcoords="axes fraction", va="center",
            fontsize=9, color=line.get_color(), annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": line.get_color(), "linewidth": 0.7, "shrinkA": 1, "shrinkB": 4,
                        "relpos": (0, 0.5)},
        )  # fmt: skip


def _moved_apart(heights: list[float], gap: float) -> list[float]:
    """Sorted heights, moved as little as needed to be `gap` apart: groups that touch are centred on where they were."""
    groups: list[list[float]] = []
    for height in heights:
        groups.append([height])
        while len(groups) > 1 and _bottom(groups[-1], gap) < _top(groups[-2], gap) + gap:
            last = groups.pop()
            groups[-1] += last
    return [_bottom(group, gap) + place * gap for group in groups for place in range(len(group))]


def _bottom(group: list[float], gap: float) -> float:
    return sum(group) / len(group) - gap * (len(group) - 1) / 2


def _top(group: list[float], gap: float) -> float:
    return _bottom(group, gap) + gap * (len(group) - 1)


def _draw_titles(figure: Any, measurement: Measurement, home: Point | None) -> None:
    upper, lower = figure.axes[0], figure.axes[-1]
    # "the embedded model" begins a sentence here; the name of a checkpoint stays as it is.
    model = "The " + measurement.model[4:] if measurement.model.startswith("the ") else measurement.model
    upper.set_title(f"{model} on {measurement.text}", loc="left", fontsize=12, fontweight="bold", pad=24)
    how = f"mean over {_scored(measurement)}; lower is better" + "; bands: standard error" * (measurement.windows > 1)
    if not measurement.complete:
        how = "INTERRUPTED; " + how
    _subtitle(upper, how)
    if home:
        _subtitle(lower, f"against the model's own loss at {_where(measurement, home)}")


def _write_notes(figure: Any, notes: tuple[str, ...]) -> None:
    """Below the picture, so that it does not travel without them."""
    lines = [line for note in notes for line in textwrap.wrap(f"Note: {note}.", 118, subsequent_indent="    ")]
    if lines:
        figure.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=8, color=GREY)


def _where(measurement: Measurement, home: Point) -> str:
    """What the lower panel compares with. By position other tokens stand there; by length the same ones, so that a
    negative value can only come from what stands further back."""
    if measurement.by == "position":
        return f"positions {home.shortest} to {home.length}"
    return f"{home.length} {_tokens(measurement)}: below 0, what stands further back helps"


def _subtitle(axes: Any, text: str) -> None:
    axes.text(0, 1.02, text, transform=axes.transAxes, fontsize=9, color=GREY)


def _scored(measurement: Measurement) -> str:
    windows = f"{measurement.windows} window{'s' * (measurement.windows > 1)}"
    tokens = _tokens(measurement)
    if measurement.by == "position":
        return f"all {tokens} of {windows}"
    return f"the last {measurement.targets} {tokens} of " + ("each of " * (measurement.windows > 1)) + windows


def _tokens(measurement: Measurement) -> str:
    return "bytes" if measurement.bytes_per_token == 1 else "tokens"


def _draw_length_axis(axes: Any, measurement: Measurement) -> None:
    lengths = [length for length in measurement.lengths if any(p.length == length for p in measurement.points)]
    by_length(axes, lengths, [f"{length:,}".replace(",", "\u2009") for length in lengths])
    what = f"context length, {_tokens(measurement)}"
    if measurement.by == "position":
        what = f"position in the window, {_tokens(measurement)} (from the mark before to this one)"
    axes.set_xlabel(what)


def _mark_trained_length(axes: Any, measurement: Measurement, *, named: bool) -> None:
    x = measurement.trained_length
    mark_trained(axes, x)
    if named:
        axes.annotate(
            f"trained length: {x}", (x, 1), (0, -4), xycoords=("data", "axes fraction"), textcoords="offset points",
            ha="center", va="top", fontsize=9, color=GREY,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 2},
        )  # fmt: skip
