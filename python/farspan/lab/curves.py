"""What pictures of curves over a length have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from farspan.lab.schemes import Look


def by_length(axes: Any, lengths: Sequence[int], labels: Sequence[str] | None = None, **text: Any) -> None:
    """Marks each length on a scale where doublings are even. `text`: how the labels are written."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, labels=list(map(str, lengths)) if labels is None else labels, **text)
    axes.minorticks_off()


def mark_trained(axes: Any, length: int) -> None:
    """Where the lengths end that a model was trained on."""
    axes.axvline(length, color="#777777", linestyle=(0, (4, 3)), linewidth=1.2, zorder=1)


def draw_curve(axes: Any, x: Sequence[float], y: Sequence[float | None], look: Look, **style: Any) -> None:
    """The curve of a scheme, with its looks."""
    axes.plot(
        x, y, color=look.colour, marker=look.marker, markersize=8 if look.marker == "*" else 5.5,
        markeredgecolor="white", markeredgewidth=0.6, label=look.label, **{"linewidth": 2.0, "zorder": 3, **style},
    )  # fmt: skip


def draw_seeds(axes: Any, x: Sequence[float], rows: Sequence[Sequence[float]], look: Look) -> None:
    """Each of several seeds thin, and the band between the least and the most of them."""
    if len(rows) < 2:
        return
    low, high = ([pick(column) for column in zip(*rows, strict=True)] for pick in (min, max))
    axes.fill_between(x, low, high, color=look.colour, alpha=0.1, linewidth=0, zorder=2)
    for row in rows:
        axes.plot(x, row, color=look.colour, linewidth=0.7, alpha=0.7, zorder=2.5)
