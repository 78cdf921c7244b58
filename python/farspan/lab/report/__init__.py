"""A measurement as files: `write(measurement, folder)`, `draw(measurement, path)`, `table(measurement)`."""

from __future__ import annotations

from farspan._pictures import require_matplotlib
from farspan.lab.report.files import table, write
from farspan.lab.report.plot import draw

__all__ = ["draw", "require_matplotlib", "table", "write"]
