"""The files of a model folder: JSON that is read, or why it cannot be, and files that are written as a whole."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from farspan._errors import CheckpointError, message

LFS = b"version https://git-lfs"


def read_json(path: Path) -> Any:
    """The content of a JSON file of a model folder. CheckpointError: unreadable, or not JSON."""
    try:
        raw = path.read_bytes()
        return json.loads(raw)
    except OSError as error:
        raise CheckpointError(message(str(path), "a readable file", error.strerror or error)) from None
    except (ValueError, RecursionError) as error:
        refuse_pointer(path, raw)
        raise CheckpointError(message(str(path), "JSON", error)) from None


def refuse_pointer(path: Path, start: bytes) -> None:
    """CheckpointError if the file that starts so stands for another one that was never fetched."""
    if start.startswith(LFS):
        raise CheckpointError(message(str(path), "the file itself", "a Git LFS pointer to it: run `git lfs pull`"))


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A path to write to: what lies there takes the place of `path` when all of it has been written."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield beside
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
