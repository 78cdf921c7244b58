"""What a command works on: a model with its tokenizer, and text as tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from farspan.embedded import load_embedded
from farspan.lab import schemes
from farspan.lab.embedded import data
from farspan.lab.measure import Measurement, Progress, measure, no_progress
from farspan.lab.report.files import Subject
from farspan.lab.schemes import Reach
from farspan.model import Transformer
from farspan.tokenizer import ByteTokenizer, Tokenizer, load_tokenizer


@dataclass(frozen=True)
class LoadedModel:
    """A model that can read and write text."""

    name: str
    model: Transformer
    tokenizer: Tokenizer

    @property
    def trained_length(self) -> int:
        """The longest sequence seen in training, as far as `config.json` tells: before any scaling of its positions."""
        lengths = (getattr(scheme, "original_length", None) for scheme in self.model.config.positions)
        return min((n for n in lengths if n is not None), default=self.model.config.max_position_embeddings)


@dataclass(frozen=True)
class Text:
    """A text as one sequence of tokens."""

    name: str
    tokens: Tensor
    """`[n]`, int64"""
    bytes_per_token: float


def load_model(folder: Path | None, device: str = "cpu") -> LoadedModel:
    """The model of a folder, or the embedded one."""
    if folder is None:
        return LoadedModel("the embedded model", *load_embedded(device=device))
    # Configuration and weights first: a folder that is missing altogether is reported as such.
    model = Transformer.from_pretrained(folder, device=device)
    return LoadedModel(folder.resolve().name, model, load_tokenizer(folder))


def load_text(files: Sequence[Path], tokenizer: Tokenizer) -> Text:
    """The files one after the other, or the modules of the standard library that the embedded model never saw."""
    name = ", ".join(path.name for path in files) or "held-out Python source"
    paths = list(files) or data.held_out_files()
    if isinstance(tokenizer, ByteTokenizer):
        content = data.read_text(paths)
        ids = torch.frombuffer(bytearray(content), dtype=torch.uint8).long()
        return Text(name, ids, 1.0)
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in paths]
    ids = torch.tensor([token for text in texts for token in tokenizer.encode(text)], dtype=torch.int64)
    return Text(name, ids, sum(len(text.encode()) for text in texts) / max(1, len(ids)))


def measure_schemes(
    loaded: LoadedModel, text: Text, names: Sequence[str], lengths: Sequence[int], *, trained: int | None = None,
    by: str = "length", windows: int = 32, targets: int = 64, progress: Progress = no_progress,
) -> tuple[Measurement, Subject]:  # fmt: skip
    """The measurement, and what it is about."""
    trained = trained or loaded.trained_length
    base = loaded.model.config.rope_theta or 10000.0
    chosen = schemes.make(names, Reach(trained, max(lengths), base))
    measurement = measure(
        loaded.model, text.tokens, lengths, chosen, by=by, windows=windows, targets=targets, progress=progress
    )
    settings = {name: None if scheme is None else scheme.to_dict() for name, scheme in chosen.items()}
    return measurement, Subject(loaded.name, text.name, trained, text.bytes_per_token, settings)
