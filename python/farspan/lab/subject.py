"""What a command works on: a model with its tokenizer, and text as tokens."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from farspan._errors import ArgumentError, message
from farspan.embedded import load_embedded
from farspan.lab.embedded import data
from farspan.model import Transformer, source
from farspan.model.gguf.checkpoint import GgufCheckpoint
from farspan.model.index import BESIDE
from farspan.tokenizer import ByteTokenizer, Tokenizer


@dataclass(frozen=True)
class LoadedModel:
    """A model that can read and write text."""

    name: str
    model: Transformer
    tokenizer: Tokenizer


@dataclass(frozen=True)
class Text:
    """A text as one sequence of tokens."""

    name: str
    tokens: Tensor
    """`[n]`, int64, without what a tokenizer adds before and behind a text"""
    bytes_per_token: float
    first_tokens: tuple[int, ...]
    """what the tokenizer puts before a text"""
    notes: tuple[str, ...] = ()
    """what a reader of the measurement should know of the text"""


def load_model(path: Path | None, device: str = "cpu", opened: Opened | None = None) -> LoadedModel:
    """The model of a folder or a file, or the embedded one. `opened`: what `open_model` gave, if that was asked
    before."""
    if path is None:
        return LoadedModel("the embedded model", *load_embedded(device=device))
    checkpoint, tokenizer = opened or open_model(path)
    return LoadedModel(model_name(checkpoint.place), Transformer.from_checkpoint(checkpoint, device=device), tokenizer)


Opened = tuple[source.Opened, Tokenizer]


def open_model(path: Path) -> Opened:
    """A checkpoint, its weights not yet read, and its tokenizer. It is soon there, and weights take long: what can be
    wrong with a model, a text or an installation is told before they are read."""
    checkpoint = source.open_checkpoint(path)
    return checkpoint, checkpoint.tokenizer()


def copy_tokenizer(path: Path, out: Path) -> None:
    """Puts the tokenizer of a model, and how it generates, into the folder of one that comes from it."""
    place = source.located(path)
    if place.is_file():
        GgufCheckpoint(place).tokenizer().save(out)
        return
    for name in BESIDE:
        if (place / name).is_file():
            shutil.copyfile(place / name, out / name)


def model_name(path: Path) -> str:
    """What a model is called: in the hub's cache the folder's own name is a number."""
    whole = path.resolve()
    if whole.parent.name == "snapshots" and whole.parent.parent.name.startswith("models--"):
        return whole.parent.parent.name.removeprefix("models--").replace("--", "/")
    return whole.name


def load_text(files: Sequence[Path], tokenizer: Tokenizer) -> Text:
    """The files one after the other, or the modules of the standard library that the embedded model never saw.

    Error: a file cannot be read, or its bytes are no text for this tokenizer.
    """
    if not files and isinstance(tokenizer, ByteTokenizer):
        return _of_bytes("held-out Python source", data.held_out_text())
    if not files:
        name = "modules of Python's standard library"
        note = "the text was held out from the embedded model only: another model may have learned it by heart"
        return _of_text(name, data.held_out_files(), tokenizer, (note,))
    if isinstance(tokenizer, ByteTokenizer):
        return _of_bytes(_names(files), b"".join(data.FILE_START + path.read_bytes() for path in files))
    return _of_text(_names(files), files, tokenizer)


HELD_OUT_SHARE = 10
"""One of so many parts of a text of bytes is measured, where the others are learnt."""


def byte_texts(files: Sequence[Path], longest: int) -> tuple[Tensor, Tensor, str]:
    """The bytes to learn from, those to measure on, and what they are called: of the files, or what the embedded model
    learnt and never saw. ArgumentError: the files hold too little for windows of `longest` bytes."""
    if not files:
        learnt, kept = (_of_bytes("", content).tokens for content in (data.training_text(), data.held_out_text()))
        return learnt, kept, "Python's standard library"
    text = load_text(files, ByteTokenizer())
    held_out = max(len(text.tokens) // HELD_OUT_SHARE, longest + 1)
    if len(text.tokens) < 2 * held_out:
        expected = f"files of at least {2 * held_out} bytes together"
        raise ArgumentError(message("data", expected, len(text.tokens)))
    return text.tokens[:-held_out], text.tokens[-held_out:], text.name


def _of_bytes(name: str, content: bytes) -> Text:
    return Text(name, torch.frombuffer(bytearray(content), dtype=torch.uint8).long(), 1.0, ())


def _of_text(name: str, files: Sequence[Path], tokenizer: Tokenizer, notes: tuple[str, ...] = ()) -> Text:
    """Bytes are counted as the files have them."""
    contents = [path.read_bytes() for path in files]
    texts = [_decoded(path, content) for path, content in zip(files, contents, strict=True)]
    before, behind = _added_around(tokenizer)
    ids = [token for text in texts for token in _without(tokenizer.encode(text, special=True), before, behind)]
    size = sum(map(len, contents))
    return Text(name, torch.tensor(ids, dtype=torch.int64), size / max(1, len(ids)), tuple(before), notes)


def _decoded(path: Path, content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        given = f"{path}, whose byte {error.start} is {content[error.start]:#04x}"
        raise ArgumentError(message("data", "text in UTF-8, which tokenizers read", given)) from None


def _added_around(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """What the tokenizer adds before and behind every text: what a text and no text have in common at their ends."""
    empty, letter = (tokenizer.encode(text, special=True) for text in ("", "a"))
    before = next((i for i, (a, b) in enumerate(zip(empty, letter, strict=False)) if a != b), len(empty))
    return empty[:before], empty[before:]


def _without(ids: list[int], before: list[int], behind: list[int]) -> list[int]:
    return ids[len(before) : len(ids) - len(behind)]


def _names(files: Sequence[Path]) -> str:
    shown = ", ".join(path.name for path in files[:3])
    return shown if len(files) <= 3 else f"{shown} and {len(files) - 3} more"
