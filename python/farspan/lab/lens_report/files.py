"""A reading of one text as files: JSON, a picture and a page."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from farspan import _strict_json
from farspan.inside.page import page_of
from farspan.lab.lens_report.picture import draw


def write(document: dict[str, Any], folder: str | os.PathLike[str]) -> list[Path]:
    """`lens.json`, `lens.png` and `lens.html` in a folder, which is made if need be."""
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / f"lens.{kind}" for kind in ("json", "png", "html")]
    paths[0].write_text(_strict_json.dumps(document) + "\n", encoding="utf-8")
    draw(document, paths[1])
    paths[2].write_text(page_of(document), encoding="utf-8")
    return paths
