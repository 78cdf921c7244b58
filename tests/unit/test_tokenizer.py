"""`tokenizer.json` of a model folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from farspan.lab.subject import load_text
from farspan.tokenizer import load_tokenizer

TEXT = "hello world, " * 400


def byte_level(folder: Path, truncation: int | None = None, padding: int | None = None) -> Path:
    """A folder with a tokenizer whose tokens are bytes."""
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    vocab = {c: i for i, c in enumerate(sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()))} | {"<pad>": 256}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, []))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    if truncation:
        tokenizer.enable_truncation(truncation)
    if padding:
        tokenizer.enable_padding(pad_id=256, pad_token="<pad>", length=padding)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.parametrize(("truncation", "padding"), [(512, None), (None, 8192), (512, 512)])
def test_a_text_is_neither_cut_nor_filled_up(truncation: int | None, padding: int | None, tmp_path: Path) -> None:
    """Truncation and padding that a training run left in the file are not obeyed."""
    tokenizer = load_tokenizer(byte_level(tmp_path, truncation, padding))
    assert len(tokenizer.encode(TEXT)) == len(TEXT)
    assert len(tokenizer.encode("hello")) == 5
    (tmp_path / "text.txt").write_text(TEXT)
    read = load_text([tmp_path / "text.txt"], tokenizer)
    assert len(read.tokens) == len(TEXT)
    assert read.bytes_per_token == 1.0
