"""A measurement as files: `write(measurement, folder)`, `draw(measurement, path)`, `table(measurement)`; the same in
`attention` for what a model's heads look at, and `retrieval` for what a model finds in a text."""

from __future__ import annotations

from farspan._pictures import require_matplotlib
from farspan.lab.report import attention, retrieval
from farspan.lab.report.files import copy_table, keep, needle_table, reach_line, table, write
from farspan.lab.report.plot import draw

__all__ = [
    "attention",
    "copy_table",
    "draw",
    "keep",
    "needle_table",
    "reach_line",
    "require_matplotlib",
    "retrieval",
    "table",
    "write",
]
