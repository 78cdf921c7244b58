"""One picture of several extrapolations: a panel for each, with its own colours wherever a scheme comes again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from farspan._pictures import GREY, figure
from farspan.lab.curves import by_length
from farspan.lab.extrapolation.report.picture import draw_panel
from farspan.lab.extrapolation.result import Extrapolation
from farspan.lab.schemes import looks

ACROSS = 3


def draw_overview(runs: Mapping[str, Extrapolation], path: str | os.PathLike[str]) -> None:
    """Draws the outputs that are right by length, a panel for each run under its name; as PNG, SVG or PDF by the ending
    of `path`. BackendError: there is no matplotlib."""
    across = min(ACROSS, len(runs))
    down = -(-len(runs) // across)
    styles = looks(dict.fromkeys(scheme for found in runs.values() for scheme in found.settings.schemes))
    with figure(path, 3.4 * across + 0.6, 2.7 * down + 0.7) as drawn:
        panels = drawn.subplots(down, across, sharey=True, squeeze=False)
        handles: dict[str, Any] = {}
        for axes, (name, found) in zip(panels.flat, runs.items(), strict=False):
            draw_panel(axes, found, "accuracy", styles)
            axes.axhline(100 * found.chance, color=GREY, linestyle=":", linewidth=1.2, label="chance", zorder=1)
            axes.set_title(name, loc="left", fontsize=10, fontweight="bold")
            by_length(axes, found.settings.test_lengths)
            handles |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
        for axes in list(panels.flat)[len(runs) :]:
            axes.set_visible(False)
        handles["chance"] = handles.pop("chance")  # last
        drawn.supylabel("outputs right, %", fontsize=9)
        drawn.supxlabel("length of the input, symbols; dashed: the longest one trained on", fontsize=9)
        drawn.legend(handles.values(), handles.keys(), loc="outside upper left", ncols=4, frameon=False, fontsize=8.5)
