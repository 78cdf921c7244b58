"""An extrapolation as files: `write(found, folder)`, and `draw(found, path)` for one picture."""

from __future__ import annotations

from farspan._pictures import require_matplotlib
from farspan.lab.extrapolation.report.files import write
from farspan.lab.extrapolation.report.picture import draw

__all__ = ["draw", "require_matplotlib", "write"]
