"""Extrapolations as files: `write(found, folder)`, and for one picture `draw(found, path)`, or of several of them
`draw_overview(runs, path)`."""

from __future__ import annotations

from farspan._pictures import require_matplotlib
from farspan.lab.extrapolation.report.files import write
from farspan.lab.extrapolation.report.overview import draw_overview
from farspan.lab.extrapolation.report.picture import draw

__all__ = ["draw", "draw_overview", "require_matplotlib", "write"]
