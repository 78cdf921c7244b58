"""CONTRIBUTING.md follows `model.generate` from text to token: its ten stops name what runs, in its order."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

farspan = pytest.importorskip("farspan")
pytest.importorskip("torch", reason="generation uses torch")

from token_way import CORE, token_way  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
WAY = (ROOT / "CONTRIBUTING.md").read_text().split("## A token's way", 1)[1].split("\n## ", 1)[0]
STOPS = re.split(r"^### ", WAY, flags=re.MULTILINE)[1:]
NAMED = re.findall(r"^- `([\w/.]+)` `([\w.]+)`$", WAY, re.MULTILINE)


def test_there_are_ten_stops_and_each_names_where_to_look() -> None:
    assert [stop.split(".", 1)[0] for stop in STOPS] == [str(number) for number in range(1, 11)]
    assert all(re.search(r"^- `[\w/.]+` `[\w.]+`$", stop, re.MULTILINE) for stop in STOPS)
    assert len(NAMED) == len(set(NAMED))


@pytest.mark.parametrize(("file", "function"), NAMED, ids=":".join)
def test_what_a_stop_names_exists(file: str, function: str) -> None:
    word = "fn" if file.endswith(".rs") else "def"
    assert re.search(rf"\b{word} {function.rpartition('.')[2]}\b", (ROOT / file).read_text())


def test_the_stops_name_what_runs_in_the_order_in_which_it_runs() -> None:
    """Python's functions, and those that the binding gives to Python: no tracer sees what lies below."""
    named = [(CORE if file.startswith("rust/py/") else file, function) for file, function in NAMED
             if file.startswith(("python/", "rust/py/"))]  # fmt: skip
    run = token_way()
    assert [call for call in named if call not in run] == []
    assert named == sorted(named, key=run.index)
