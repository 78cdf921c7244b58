"""The page of a lens: one file that needs no network."""

from __future__ import annotations

from pathlib import Path

PLACE = "__DOCUMENT__"


def page_of(document: str) -> str:
    """The page that shows a JSON document. No text of a token can end the script that holds it."""
    template = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    return template.replace(PLACE, document.replace("<", "\\u003c"))
