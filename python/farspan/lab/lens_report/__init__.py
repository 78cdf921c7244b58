"""A reading of `farspan.lens` as files: `write(document, folder)`, where `farspan.inside.page` makes the document."""

from __future__ import annotations

from farspan._pictures import require_matplotlib
from farspan.lab.lens_report.files import write

__all__ = ["require_matplotlib", "write"]
