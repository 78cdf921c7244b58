"""The model that comes with farspan: a small byte-level Llama. `CARD.md` beside this file is its card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from farspan.model import Transformer
from farspan.tokenizer import ByteTokenizer

__all__ = ["FOLDER", "load_embedded"]

FOLDER = Path(__file__).parent
"""An ordinary model folder: `config.json` and `model.safetensors`, as Hugging Face lays out a Llama."""


def load_embedded(**options: Any) -> tuple[Transformer, ByteTokenizer]:
    """The model of this package and its tokenizer; `options` are those of `Transformer.from_pretrained`.

    The weights are stored as float16; they are loaded as float32 unless `dtype` says otherwise: at 1.1 million
    parameters float32 is the fastest on every CPU.
    """
    return Transformer.from_pretrained(FOLDER, **{"dtype": "float32", **options}), ByteTokenizer()
