"""CONTRIBUTING.md follows `model.generate` from text to token: it names the files that run, in their order."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest

farspan = pytest.importorskip("farspan")
pytest.importorskip("torch", reason="generation uses torch")

ROOT = Path(__file__).resolve().parents[2]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
WALK = CONTRIBUTING.split("## From text to token", 1)[1]
NAMED = re.findall(r"^\d+\. `([\w/.]+)`", WALK, re.MULTILINE)


@contextmanager
def entered_files() -> Iterator[list[str]]:
    """The package's Python files in the order in which their functions are first called."""
    package = Path(farspan.__file__).parent
    files: list[str] = []

    def note(frame: FrameType, event: str, argument: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(package):
            name = f"python/farspan/{path.relative_to(package)}"
            if name not in files:
                files.append(name)

    sys.setprofile(note)
    try:
        yield files
    finally:
        sys.setprofile(None)


def generate_some(model: farspan.Transformer, tokenizer: object) -> str:
    (completion,) = model.generate([tokenizer.encode("x = ")], max_new_tokens=2, temperature=1.0)
    return tokenizer.decode(completion.tokens)


def test_the_walk_names_each_file_once_and_every_file_exists() -> None:
    assert len(NAMED) == len(set(NAMED)) > 10
    assert [name for name in NAMED if not (ROOT / name).is_file()] == []


def test_the_walk_names_the_python_files_that_run() -> None:
    model, tokenizer = farspan.load_embedded()
    generate_some(model, tokenizer)  # what is imported at the first call is not part of the walk
    with entered_files() as files:
        generate_some(model, tokenizer)
    assert [name for name in NAMED if name.endswith(".py")] == files
