"""The files that readers get: JSON with everything, CSV with the points, a picture, a page."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

from farspan import _strict_json
from farspan._files import replaced
from farspan.lab.extrapolation.folder import RESULT
from farspan.lab.extrapolation.report.page import page_of
from farspan.lab.extrapolation.report.picture import draw
from farspan.lab.extrapolation.result import COLUMNS, Extrapolation
from farspan.lab.recipes import Recipe


def write(found: Extrapolation, folder: str | os.PathLike[str], recipe: Recipe | None = None) -> list[Path]:
    """`extrapolate.json`, `.csv`, `.png` and `.html`. The page has the published figures of a recipe."""
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    json_file = out / RESULT
    csv_file, picture, page = (json_file.with_suffix(ending) for ending in (".csv", ".png", ".html"))
    with replaced(picture) as beside:
        draw(found, beside)
    texts = {
        csv_file: _csv(found),
        page: page_of(found, picture.read_bytes(), recipe),
        json_file: _strict_json.dumps(found.to_dict(), indent=1) + "\n",
    }
    for path, text in texts.items():
        with replaced(path) as beside:
            beside.write_text(text, encoding="utf-8", newline="")
    return [json_file, csv_file, picture, page]


def _csv(found: Extrapolation) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(found.rows())
    return text.getvalue()
