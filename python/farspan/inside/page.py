"""The page of a `farspan.Lens`: one file that needs no network, and the document that it shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from farspan import _strict_json

PLACE = "__DOCUMENT__"
FIELDS = ("entropy", "kl", "logprob", "rank", "top_token", "top_logprob")


def document_of(lens: Any, text_of: Callable[[int], str], model_name: str, *, sequence: int = 0) -> dict[str, Any]:
    """The fields of a lens on one sequence, `[layers][time]` and `[layers][time][top]`, and the texts of its ids."""
    values = {name: getattr(lens, name)[:, sequence].tolist() for name in FIELDS}
    tokens = lens.tokens[sequence].tolist()
    targets = lens.targets[sequence].tolist()
    ids = {*tokens, *(target for target in targets if target >= 0), *lens.top_token[:, sequence].flatten().tolist()}
    return {
        "model": model_name,
        "lens": "tuned" if lens.translated else "logit",
        "tokens": tokens,
        "targets": targets,
        "positions": list(lens.positions),
        "texts": {str(token): text_of(token) for token in sorted(ids)},
        "layers": list(lens.layers),
        **values,
    }


def page_of(document: dict[str, Any]) -> str:
    """The page that shows a document. No text of a token can end the script that holds it."""
    template = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    return template.replace(PLACE, _strict_json.dumps(document).replace("<", "\\u003c"))
