"""Pictures of texts in any script: what no font has a picture of is written by its number."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib", reason="pictures are drawn with it")

from farspan._pictures import drawable, figure
from farspan.lab.lens_report import picture

HIDDEN = "\U0010fffd"
"""Of a private plane: no font has it."""


def test_the_font_is_asked() -> None:
    assert drawable("aé→\n", "monospace") == ["a", "é", "→", "\n"]
    assert drawable(f"a{HIDDEN}", "monospace") == ["a", "U+10FFFD"]
    assert drawable(HIDDEN, ["monospace", "sans-serif"]) == ["U+10FFFD"]


@pytest.mark.parametrize(
    ("text", "drawn"),
    [
        ("word", "word"),
        ("longer", "long\u2026"),
        (" a", "\u2423a"),
        ("\n\t", r"\n\t"),
        ("a\x00", r"a\x00"),
        ("你", "U+4F60"),
        ("你好", "U+4F60\u2026"),
        ("a你", "a\u2026"),
        ("", ""),
    ],
)
def test_a_token_in_a_cell(text: str, drawn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        picture, "drawable", lambda text, family: [x if ord(x) < 256 else f"U+{ord(x):04X}" for x in text]
    )
    assert picture._short(text) == drawn


def test_what_takes_more_room_is_written_smaller() -> None:
    assert picture._size(6, "four") == picture._size(6, "fives") == 6
    assert picture._size(6, "U+4F60") == 5


def document(*texts: str) -> dict[str, Any]:
    tokens, layers = list(range(len(texts))), [0, 1]
    return {
        "model": f"a $^$ model{HIDDEN}", "lens": "logit", "tokens": tokens,
        "texts": {str(token): texts[token] for token in tokens},
        "layers": layers, "kl": [[1.0] * len(texts), [0.0] * len(texts)],
        "top_token": [[[token] for token in tokens]] * 2,
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["png", "pdf"])
def test_a_picture_of_any_text_has_no_boxes(kind: str, tmp_path: Path) -> None:
    """matplotlib warns of each glyph that a font lacks, and reads what is between dollars as mathematics."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture.draw(document("你", HIDDEN, "a", "$^$"), tmp_path / f"lens.{kind}")


@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        ("png", "U+10FFFD"),
        pytest.param("svg", HIDDEN, marks=pytest.mark.filterwarnings("ignore:Glyph")),  # drawn by whoever shows it
    ],
)
@pytest.mark.filterwarnings("error")
def test_titles_and_labels(kind: str, shown: str, tmp_path: Path) -> None:
    with figure(tmp_path / f"x.{kind}", 2, 2) as drawn:
        axes = drawn.subplots()
        axes.set_ylabel(HIDDEN)
        title = drawn.suptitle(f"of {HIDDEN}")
    assert (axes.get_ylabel(), title.get_text()) == (shown, f"of {shown}")
