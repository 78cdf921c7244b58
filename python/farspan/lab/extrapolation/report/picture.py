"""The picture: accuracy over length, and below it the share of inputs without a mistake."""

from __future__ import annotations

import os
from typing import Any

from farspan._pictures import GREY, figure, plain_axes
from farspan.lab.curves import by_length, draw_curve, draw_seeds, mark_trained
from farspan.lab.extrapolation.result import Extrapolation
from farspan.lab.schemes import Look, looks

PANELS = {"accuracy": "outputs right", "exact": "inputs all right"}


def draw(found: Extrapolation, path: str | os.PathLike[str]) -> None:
    """Draws every seed thin, the median of each scheme thick, and the band between least and most; as PNG, SVG or PDF
    by the ending of `path`. BackendError: there is no matplotlib."""
    settings = found.settings
    with figure(path, 8.6, 7.2) as drawn:
        panels = drawn.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        styles = looks(settings.schemes)
        for axes, (value, label) in zip(panels, PANELS.items(), strict=True):
            draw_panel(axes, found, value, styles)
            axes.set_ylabel(f"{label}, %")
        upper, lower = panels
        upper.axhline(100 * found.chance, color=GREY, linestyle=":", linewidth=1.2, label="chance", zorder=1)
        handles, labels = upper.get_legend_handles_labels()
        upper.legend(handles, labels, frameon=False, fontsize=8.5, loc="upper left", bbox_to_anchor=(1.01, 1.0))
        upper.annotate(
            f"trained up to {settings.train_length}", (settings.train_length, 1), (4, -4),
            xycoords=("data", "axes fraction"), textcoords="offset points", ha="left", va="top", fontsize=9, color=GREY,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.8},
        )  # fmt: skip
        upper.set_title(settings.task, loc="left", fontsize=12, fontweight="bold", pad=22)
        upper.text(0, 1.02, _subtitle(found), transform=upper.transAxes, fontsize=9, color=GREY)
        by_length(lower, settings.test_lengths)
        lower.set_xlabel("length of the input, symbols")


def draw_panel(axes: Any, found: Extrapolation, value: str, styles: dict[str, Look]) -> None:
    """Every seed and the median of each scheme, in percent; and where the trained lengths end."""
    settings = found.settings
    x = settings.test_lengths
    medians = found.medians(value)
    for scheme, rows in found.curves(value).items():
        look = styles[scheme]
        draw_seeds(axes, x, [[100 * share for share in row] for row in rows], look)
        draw_curve(axes, x, [100 * share for share in medians[scheme]], look)
    mark_trained(axes, settings.train_length)
    axes.set_ylim(-2, 102)
    plain_axes(axes)


def _subtitle(found: Extrapolation) -> str:
    settings = found.settings
    seeds = f"median of {settings.seeds} seeds, each thin" if settings.seeds > 1 else "one seed"
    return f"{settings.steps:,} steps of {settings.batch} inputs; {settings.examples} inputs per length; {seeds}"
