"""Documents from files: a text is one document, a `.jsonl` file has one in each line's `text`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from farspan._errors import ArgumentError, message
from farspan.tokenizer import Tokenizer

Encode = Callable[[str, bytes], np.ndarray]
"""From a document, and where it stands, to its ids."""


def documents(files: Iterable[Path], encode: Encode) -> list[np.ndarray]:
    """The ids of all documents of the files. OSError, ArgumentError: a file cannot be read, or is not what it says."""
    return [encode(where, content) for file in files for where, content in _contents(file)]


def as_bytes(end: int) -> Encode:
    """Ids are the bytes, and `end` behind them."""
    return lambda where, content: np.append(np.frombuffer(content, np.uint8).astype(np.int32), np.int32(end))


def by_tokenizer(tokenizer: Tokenizer, end: int | None) -> Encode:
    """Ids are those of the tokenizer, with what it adds itself, and `end` behind them unless it is None or there."""

    def encode(where: str, content: bytes) -> np.ndarray:
        try:
            ids = tokenizer.encode(content.decode("utf-8"), special=True)
        except UnicodeDecodeError as error:
            given = f"{where}, whose byte {error.start} is {content[error.start]:#04x}"
            raise ArgumentError(message("data", "text in UTF-8, which tokenizers read", given)) from None
        if end is not None and ids[-1:] != [end]:
            ids = [*ids, end]
        return np.array(ids, np.int32)

    return encode


def _contents(file: Path) -> Iterator[tuple[str, bytes]]:
    content = file.read_bytes()
    if file.suffix != ".jsonl":
        yield str(file), content
        return
    for number, line in enumerate(content.splitlines(), 1):
        if line.strip():
            yield f"{file}, line {number}", _text_of(f"{file}, line {number}", line)


def _text_of(where: str, line: bytes) -> bytes:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise ArgumentError(message("data", "a JSON object in each line", f"{where}: {error}")) from None
    text = found.get("text") if isinstance(found, dict) else None
    if not isinstance(text, str):
        raise ArgumentError(message("data", "an object with a text in each line", f"{where}: {str(found)[:60]}"))
    return text.encode("utf-8", errors="replace")
