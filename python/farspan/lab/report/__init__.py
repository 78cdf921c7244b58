"""A measurement as files: `write(measurement, folder)`, `draw(measurement, path)`, `table(measurement)`."""

from __future__ import annotations

from farspan._pictures import require_matplotlib
from farspan.lab.report.files import needle_table, reach_line, table, write
from farspan.lab.report.plot import draw

__all__ = ["draw", "needle_table", "reach_line", "require_matplotlib", "table", "write"]
