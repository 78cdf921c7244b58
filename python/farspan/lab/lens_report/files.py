"""A reading of one text as a document, and the files with it: JSON, a picture and a page."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from farspan.inside import Lens
from farspan.lab import strict_json
from farspan.lab.lens_report.page import page_of
from farspan.lab.lens_report.picture import draw
from farspan.tokenizer import Tokenizer

FIELDS = ("entropy", "kl", "logprob", "rank", "top_token", "top_logprob")


def document_of(
    lens: Lens, tokens: list[int], tokenizer: Tokenizer, model_name: str, *, translated: bool
) -> dict[str, Any]:
    """The fields of a lens on one sequence, `[layers][time]` and `[layers][time][top]`, and the texts of its ids."""
    values = {name: getattr(lens, name)[:, 0].tolist() for name in FIELDS}
    ids = {*tokens, *lens.top_token.flatten().tolist()}
    return {
        "model": model_name,
        "lens": "tuned" if translated else "logit",
        "tokens": tokens,
        "texts": {str(token): tokenizer.decode([token]) for token in sorted(ids)},
        "layers": list(lens.layers),
        **values,
    }


def write(document: dict[str, Any], folder: str | os.PathLike[str]) -> list[Path]:
    """`lens.json`, `lens.png` and `lens.html` in a folder, which is made if need be."""
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / f"lens.{kind}" for kind in ("json", "png", "html")]
    text = strict_json.dumps(document)
    paths[0].write_text(text + "\n", encoding="utf-8")
    draw(document, paths[1])
    paths[2].write_text(page_of(text), encoding="utf-8")
    return paths
