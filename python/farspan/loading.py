"""`farspan.load`: a model and its tokenizer from wherever they lie."""

from __future__ import annotations

import os

import torch

from farspan.model.source import open_checkpoint
from farspan.model.transformer import Transformer
from farspan.tokenizer import Tokenizer


def load(
    path: str | os.PathLike[str], dtype: torch.dtype | str | None = None, device: torch.device | str = "cpu"
) -> tuple[Transformer, Tokenizer]:
    """The model and the tokenizer of a folder of safetensors, of a GGUF file, of `package:NAME`, or of a name on the
    Hugging Face hub.

    `dtype` None: the one that a folder names; bfloat16 for a GGUF file, whose weights are widened one tensor at a time.
    The tokenizer has `encode(text)`, `decode(ids)` and `chat(messages)`, the ids of a conversation by the checkpoint's
    chat template.

    CheckpointError: anything missing, damaged or unknown. BackendError: a package that reading it needs is not there,
    or the hub cannot be asked.
    """
    opened = open_checkpoint(path)
    tokenizer = opened.tokenizer()
    return Transformer.from_checkpoint(opened, dtype, device), tokenizer
