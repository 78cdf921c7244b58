"""Between text and token ids: bytes for the embedded model, a folder's `tokenizer.json` for all others."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from farspan._errors import CheckpointError, message, missing_package


class Tokenizer(Protocol):
    """What generating and measuring need to know of a tokenizer."""

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Iterable[int]) -> str: ...


class ByteTokenizer:
    """The tokens are the 256 bytes: `encode` gives a text's UTF-8, `decode` reads it, U+FFFD where it is none."""

    vocab_size = 256

    def encode(self, text: str) -> list[int]:
        return list(text.encode("utf-8", errors="replace"))

    def decode(self, ids: Iterable[int]) -> str:
        return bytes(map(int, ids)).decode("utf-8", errors="replace")


class FolderTokenizer:
    """`tokenizer.json` of a model folder, read by the `tokenizers` package."""

    def __init__(self, path: Path) -> None:
        try:
            import tokenizers
        except ImportError:
            raise missing_package("reading tokenizer.json", "tokenizers") from None
        try:
            self._tokenizer: Any = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the package raises bare Exception
            raise CheckpointError(message(str(path), "a tokenizer the package tokenizers reads", error)) from error
        # What a training run left in the file must neither cut a text nor fill it up.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text).ids)

    def decode(self, ids: Iterable[int]) -> str:
        return str(self._tokenizer.decode([int(i) for i in ids]))


def load_tokenizer(folder: str | os.PathLike[str]) -> Tokenizer:
    """The tokenizer of a model folder. CheckpointError: the folder has none."""
    path = Path(folder) / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(message(str(path), "a file: without it no text can be read or written", "none"))
    return FolderTokenizer(path)


class TextStream:
    """Text from tokens that come one by one; a character spread over several tokens appears with its last."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._shown = 0  # tokens whose text is out
        self._context = 0  # decoding starts here: some tokenizers write a token differently at the start of a text

    def push(self, token: int) -> str:
        """The text that this token completes."""
        self._ids.append(token)
        text = self._new_text()
        if text.endswith("\ufffd") and len(self._ids) - self._shown < 8:  # perhaps the first bytes of a character
            return ""
        self._context, self._shown = self._shown, len(self._ids)
        return text

    def end(self) -> str:
        """What is left of a character that was never completed."""
        text = self._new_text()
        self._shown = len(self._ids)
        return text

    def _new_text(self) -> str:
        before = self._tokenizer.decode(self._ids[self._context : self._shown])
        return self._tokenizer.decode(self._ids[self._context :])[len(before) :]
