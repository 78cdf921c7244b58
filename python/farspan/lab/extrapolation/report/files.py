"""The files that readers get: JSON with everything, CSV with the points, a picture, a page."""

from __future__ import annotations

import os
from pathlib import Path

from farspan._files import write_json, write_text
from farspan.lab.extrapolation.report.page import page_of
from farspan.lab.extrapolation.report.picture import draw
from farspan.lab.extrapolation.result import COLUMNS, Extrapolation
from farspan.lab.recipes import Recipe
from farspan.lab.runs import RESULT
from farspan.lab.tables import as_csv


def write(found: Extrapolation, folder: str | os.PathLike[str], recipe: Recipe | None = None) -> list[Path]:
    """`extrapolate.json`, `.csv`, `.png` and `.html`. The page has the published figures of a recipe."""
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    json_file = out / RESULT
    csv_file, picture, page = (json_file.with_suffix(ending) for ending in (".csv", ".png", ".html"))
    draw(found, picture)
    write_text(csv_file, as_csv(found.rows(), COLUMNS))
    write_text(page, page_of(found, picture.read_bytes(), recipe))
    write_json(json_file, found.to_dict())
    return [json_file, csv_file, picture, page]
