"""A GGUF file, opened: what it says of the model, and its tensors by name, none of them read yet."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import torch

from farspan.model.config import config_of_gguf
from farspan.model.decoder import Decoder
from farspan.model.families.layouts import Place
from farspan.model.gguf.architectures import described
from farspan.model.gguf.container import open_file
from farspan.model.gguf.rotation import TABLES
from farspan.model.gguf.vocabulary import tokenizer_of
from farspan.model.places import check_tensors, places
from farspan.tokenizer import SubwordTokenizer

TURNED = re.compile(r"blk\.\d+\.attn_[qk]\.")


class GgufCheckpoint:
    """The counterpart of `Checkpoint`. CheckpointError: anything missing, damaged or unknown."""

    def __init__(self, path: Path) -> None:
        self.place = path
        self._contents = open_file(path)
        tensors = self._contents.tensors
        self._architecture, settings = described(self._contents)
        self.config = config_of_gguf(path, settings)
        self._stored = {name: tensor for name, tensor in tensors.items() if name not in TABLES}

    def tokenizer(self) -> SubwordTokenizer:
        """Its tokenizer. CheckpointError: none, or of a kind that farspan does not read."""
        return tokenizer_of(self._contents.path, self._contents.settings, self.config.vocab_size)

    def check(self, model: Decoder) -> None:
        """CheckpointError unless the tensors are exactly the model's, by name and shape."""
        check_tensors(dict(self._places(model)), self._stored, f"as the settings of {self._contents.path} say")

    @torch.no_grad()
    def load(self, model: Decoder) -> None:
        """Widens the tensors, which `check` has passed, into the model, one after the other, in its dtype."""
        for name, (view, _) in self._places(model):
            self._stored[name].copy_into(view, less=self._added(name))

    def _places(self, model: Decoder) -> Iterator[tuple[str, Place]]:
        for name, place in places(model, self._architecture.names):
            turned = self._architecture.turned and TURNED.match(name)
            yield name, _neighbours(place, self.config.dim_per_head) if turned else place

    def _added(self, name: str) -> float:
        """llama.cpp stores gains, and the family's checkpoints gains less one."""
        return 1.0 if self.config.norm_adds_one and name.endswith("norm.weight") else 0.0


def _neighbours(place: Place, dim: int) -> Place:
    """The pairs that turn together are `(2i, 2i + 1)` in the file, and here `(i, i + dim / 2)`."""
    halves = place.view.unflatten(0, (-1, 2, dim // 2))
    return Place(halves.transpose(1, 2), place.shape)
