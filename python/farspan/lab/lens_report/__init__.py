"""A reading of `farspan.lens` as files: `document_of(lens, ...)`, `write(document, folder)`."""

from __future__ import annotations

from farspan._pictures import require_matplotlib
from farspan.lab.lens_report.files import document_of, write

__all__ = ["document_of", "require_matplotlib", "write"]
