"""`tokenizer.json` of a byte-level model, for Hugging Face's readers: a BPE of the 256 bytes without a single merge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

END = "<|end|>"


def byte_tokenizer_json(end: int | None = None) -> dict[str, Any]:
    """Token ids are the bytes themselves; the vocabulary names them by GPT-2's printable stand-ins. `end`: one id more,
    which no text has."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    model = {"type": "BPE", "dropout": None, "unk_token": None, "fuse_unk": False, "byte_fallback": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [] if end is None else [_end_token(end)],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": model | {"vocab": {name: byte for byte, name in enumerate(_stand_ins())}, "merges": []},
    }


def write_byte_tokenizer(folder: Path, end: int | None = None) -> None:
    """`tokenizer.json` into a model's folder, so that commands read it as a model of text."""
    document = json.dumps(byte_tokenizer_json(end), indent=0)
    (folder / "tokenizer.json").write_text(document + "\n", encoding="utf-8")


def _end_token(index: int) -> dict[str, Any]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": index, "content": END, "special": True, **plain}


def _stand_ins() -> list[str]:
    """GPT-2's character for each byte: itself where it prints, else the next free one from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    free = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(free)) for byte in range(256)]
