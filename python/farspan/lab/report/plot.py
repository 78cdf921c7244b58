"""The picture of a measurement: loss over length, a line for each scheme."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from farspan._errors import BackendError
from farspan.lab import schemes
from farspan.lab.measure import Measurement, Point
from farspan.lab.report.files import Subject


def draw(measurement: Measurement, subject: Subject, path: Path) -> None:
    """Write the picture as PNG. BackendError: matplotlib is not installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise BackendError("drawing a picture needs matplotlib: pip install farspan[plot]") from None

    figure = Figure(figsize=(9.2, 5.4), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)  # no display, and no global state of pyplot
    axes = figure.add_subplot()
    lines = _lines(measurement, subject)
    for name, points in lines.items():
        _draw_line(axes, name, points, subject)
    _draw_frame(axes, measurement, subject)
    axes.legend(
        *_in_order_of_last_value(axes), title="at the right end,\nhighest first", loc="center left",
        bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9.5, title_fontsize=8.5, alignment="left",
        labelspacing=0.75,
    )  # fmt: skip
    figure.savefig(path)


def _lines(measurement: Measurement, subject: Subject) -> dict[str, list[Point]]:
    lines: dict[str, list[Point]] = {}
    for point in measurement.points:
        lines.setdefault(point.scheme, []).append(point)
    return lines


def _draw_line(axes: Any, name: str, points: list[Point], subject: Subject) -> None:
    entry = schemes.find(name)
    marker = entry.marker
    x = [point.length for point in points]
    y = [subject.in_unit(point.nats_per_token) for point in points]
    axes.plot(
        x, y, color=entry.colour, marker=marker, markersize=6.5 if marker == "*" else 5, markeredgecolor="white",
        markeredgewidth=0.6, linewidth=2.2 if name == "rope" else 1.6, label=entry.label,
        zorder=4 if name == "rope" else 3,
    )  # fmt: skip


def _draw_frame(axes: Any, measurement: Measurement, subject: Subject) -> None:
    lengths = measurement.lengths
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, labels=[f"{length:,}".replace(",", "\u2009") for length in lengths])
    axes.minorticks_off()
    token = "bytes" if subject.bytes_per_token == 1 else "tokens"
    scored = f"the last {measurement.targets} {token} of each of {measurement.windows} windows"
    if measurement.by == "position":
        scored = f"all {token} of {measurement.windows} windows"
    by_position = f"position in the window, {token} (from the mark before to this one)"
    axes.set_xlabel(f"context length, {token}" if measurement.by == "length" else by_position)
    axes.set_ylabel(f"loss, {subject.unit}")
    title = f"{subject.model} on {subject.text}"
    axes.set_title(title[:1].upper() + title[1:], loc="left", fontsize=12, fontweight="bold", pad=22)
    axes.text(0, 1.02, f"mean over {scored}; lower is better", transform=axes.transAxes, fontsize=9, color="#555555")
    axes.axvline(subject.trained_length, color="#777777", linestyle=(0, (4, 3)), linewidth=1.2, zorder=1)
    axes.margins(y=0.09)
    axes.annotate(
        f"trained length: {subject.trained_length}", (subject.trained_length, 1), (0, -4),
        xycoords=("data", "axes fraction"), textcoords="offset points", ha="center", va="top", fontsize=9,
        color="#555555", bbox={"facecolor": "white", "edgecolor": "none", "pad": 2},
    )  # fmt: skip
    axes.grid(axis="y", color="#E4E4E4", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _in_order_of_last_value(axes: Any) -> tuple[list[Any], list[str]]:
    handles, labels = axes.get_legend_handles_labels()
    ranked = sorted(zip(handles, labels, strict=True), key=lambda pair: -pair[0].get_ydata()[-1])
    return [handle for handle, _ in ranked], [text for _, text in ranked]
