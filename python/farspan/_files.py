"""Files: JSON that is read, or why it cannot be, and what is written as a whole."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from farspan import _strict_json
from farspan._errors import CheckpointError, Error, message

LFS = b"version https://git-lfs"


def require_folder(folder: Path) -> None:
    """CheckpointError: there is no such folder."""
    if not folder.exists():
        expected = "a folder with config.json and safetensors weights"
        raise CheckpointError(message("model", expected, f"{str(folder)!r}, which is not there"))


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


def require_same(facts: Mapping[str, Any], before: Mapping[str, Any], where: str) -> None:
    """Error: a fact differs from what a file has of it, which was made `where`."""
    for name, value in facts.items():
        if _as_read(before.get(name)) != _as_read(value):
            raise Error(message(name, f"{before.get(name)!r}, as {where}", repr(value)))


def _as_read(value: Any) -> Any:
    """What a file gives back of a value."""
    return json.loads(_strict_json.dumps(value))


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A path to write to, of the same ending: what lies there takes the place of `path` when all of it has been written
    and has reached the disk. Whatever stops that, a kill or the power, `path` is the old file or the new one."""
    beside = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield beside
        _to_disk(beside)
        beside.replace(path)
        _to_disk(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a file as a whole, in UTF-8 and with the line ends of the text."""
    with replaced(path) as beside:
        beside.write_text(text, encoding="utf-8", newline="")


def write_json(path: Path, document: Any) -> None:
    """Writes a document as a whole, as JSON that every reader accepts."""
    write_text(path, _strict_json.dumps(document, indent=1) + "\n")


def remove_unfinished(path: Path) -> None:
    """Removes what killed processes left beside `path` of new versions of it."""
    for beside in path.parent.glob(f".[0-9]*.{path.name}"):
        beside.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    """Waits until a file, or the names in a folder, would survive a loss of power."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
