"""A model folder as it lies on a hub: safetensors weights under a family's names, in one file or in shards."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from farspan._backend.arrays import name_of
from farspan._errors import ArgumentError, CheckpointError, message
from farspan._files import replaced
from farspan.model import mxfp4, safetensors
from farspan.model.config import Config
from farspan.model.decoder import Decoder
from farspan.model.families import family_named
from farspan.model.index import INDEX, ONE_FILE, read_index
from farspan.model.places import check_tensors, named_tensors, places
from farspan.model.safetensors import StoredTensor
from farspan.model.settings import read_settings
from farspan.positions.frequencies import RotaryScheme, rope_frequencies
from farspan.tokenizer import Tokenizer, load_tokenizer

# ------------------------------------------------------------------------------------------------------------- reading


class Checkpoint:
    """A model folder, opened: what config.json says, and the tensors by name, none of them read yet.

    CheckpointError: anything missing, damaged or unknown.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        settings = read_settings(folder)
        self.place = Path(folder)
        self.config = Config.from_dict(settings)
        self.family = family_named(settings["model_type"])
        self.names = self.family.names
        stored = self._renamed(self._open(self.place))
        self._stored: dict[str, Any] = mxfp4.joined(stored) if mxfp4.is_mxfp4(settings) else stored
        self._drop_angles()
        self._settle_tie()

    def tokenizer(self) -> Tokenizer:
        """Its tokenizer. CheckpointError: none, or one with more tokens than the model has."""
        tokenizer = load_tokenizer(self.place)
        if tokenizer.vocab_size > self.config.vocab_size:
            where = str(self.place / "tokenizer.json")
            raise CheckpointError(message(where, f"at most {self.config.vocab_size} tokens", tokenizer.vocab_size))
        return tokenizer

    def check(self, model: Decoder) -> None:
        """CheckpointError unless the tensors are exactly the model's, by name and shape."""
        check_tensors(dict(places(model, self.names)), self._stored, "as config.json says")

    @torch.no_grad()
    def load(self, model: Decoder) -> None:
        """Copies the tensors, which `check` has passed, into the model, one after the other, in its dtype."""
        for name, (view, _) in places(model, self.names):
            self._stored[name].copy_into(view)

    # ---- files

    def _open(self, folder: Path) -> dict[str, StoredTensor]:
        if (folder / ONE_FILE).exists():
            return safetensors.open_file(folder / ONE_FILE)
        if not (folder / INDEX).exists():
            raise CheckpointError(message(str(folder), f"{ONE_FILE} or {INDEX}", "neither"))
        place_of = read_index(folder / INDEX)
        needed = {file for name, file in place_of.items() if not self._spare(name)}
        files = [file for file in sorted(set(place_of.values())) if file in needed or (folder / file).exists()]
        tensors: dict[str, StoredTensor] = {}
        for file in files:
            for name, tensor in safetensors.open_file(folder / file).items():
                listed = place_of.get(name) == file
                if not listed and not self._spare(name):
                    expected = f"only what {INDEX} places there"
                    raise CheckpointError(message(f"{name} in {folder / file}", expected, "it"))
                if listed or name not in tensors:
                    tensors[name] = tensor
        for name, file in place_of.items():
            if name not in tensors and not self._spare(name):
                raise CheckpointError(message(name, f"in {folder / file}, where {INDEX} places it", "not there"))
        return tensors

    def _renamed(self, found: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
        """The tensors of the model by the names of the family."""
        tensors: dict[str, StoredTensor] = {}
        for name, tensor in found.items():
            known = self.family.renamed(name)
            if known in tensors:
                raise CheckpointError(message(name, "one tensor for each name", f"{tensors[known].name} as well"))
            if known is not None:
                tensors[known] = tensor
        return tensors

    def _spare(self, name: str) -> bool:
        """Whether a model may do without a tensor of this name: a table of angles, either of two that are tied, or
        what is no part of it."""
        known = self.family.renamed(name)
        if known is None:
            return True
        tied = self.config.tie_word_embeddings and known in (self.names.embedding, self.names.head)
        return tied or self._layer_of_angles(known) is not None

    # ---- tables of angles

    def _layer_of_angles(self, name: str) -> int | None:
        """The layer whose inverse frequencies a tensor of this name holds, 0 where it is all; None: it holds none."""
        for template in self.names.angles:
            found = re.fullmatch(re.escape(template).replace(re.escape("{}"), "([0-9]{1,9})"), name)
            if found and int((found.groups() or ("0",))[0]) < self.config.num_hidden_layers:
                return int((found.groups() or ("0",))[0])
        return None

    def _drop_angles(self) -> None:
        """Older files carry what follows from config.json, which holds, as it does for transformers."""
        for name in list(self._stored):
            layer = self._layer_of_angles(name)
            if layer is None:
                continue
            tensor = self._stored.pop(name)
            tensor.require((self.config.rotary_dim // 2,), "a number for each pair of a head's dims that turn")
            if not _follows(tensor.read(), self.config, layer):
                warnings.warn(
                    f"{name} in {tensor.path} differs from what config.json says of the rotation: config.json holds",
                    stacklevel=4,
                )

    # ---- tied embeddings

    def _settle_tie(self) -> None:
        """Of two tied tensors a file may hold either, or both; where they differ, they are not tied after all."""
        if not self.config.tie_word_embeddings:
            return
        head = self._stored.get(self.names.head)
        embedding = self._stored.get(self.names.embedding)
        if head is None:
            return
        if embedding is not None:
            shape = (self.config.vocab_size, self.config.hidden_size)
            for tensor in (embedding, head):
                tensor.require(shape, "as config.json says")
            if not _equal(embedding.read(), head.read()):
                tied = f"tie_word_embeddings is true in config.json, but {head.name} in {head.path} is another tensor"
                warnings.warn(f"{tied} than {self.names.embedding}: both are used", stacklevel=4)
                self.config = dataclasses.replace(self.config, tie_word_embeddings=False)
                return
        self._stored[self.names.embedding] = embedding or head
        del self._stored[self.names.head]


def _equal(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one shape hold the same numbers, whatever their dtypes."""
    if a.dtype == b.dtype:
        return torch.equal(a, b)
    return all(torch.equal(x.double(), y.double()) for x, y in zip(a.split(1024), b.split(1024), strict=True))


def _follows(stored: Tensor, config: Config, layer: int) -> bool:
    """Whether inverse frequencies are those of the layer, before or after any scaling, in a low precision."""
    scheme, base = config.positions[layer], (config.rope_bases or ())[layer] or config.rope_theta
    tables = [] if base is None else [rope_frequencies(base, config.rotary_dim)]
    if isinstance(scheme, RotaryScheme):
        tables.append(scheme.inverse_frequencies(config.rotary_dim, 0))
    numbers = stored.double().numpy()
    return any(np.allclose(numbers, table, rtol=0.01, atol=1e-7) for table in tables)


# ------------------------------------------------------------------------------------------------------------- writing


def save(model: Decoder, folder: str | os.PathLike[str]) -> None:
    """Writes what `from_pretrained` reads, and transformers too where it knows the family. The dtype in config.json is
    the one that holds all weights. Each file is replaced as a whole: a crash leaves the old one."""
    require_own_parameters(model)
    folder = Path(folder)
    widest = functools.reduce(torch.promote_types, (parameter.dtype for parameter in model.parameters()))
    settings = dataclasses.replace(model.config, dtype=name_of(widest)).to_dict()
    tensors = named_tensors(model, family_named(settings["model_type"]))
    folder.mkdir(parents=True, exist_ok=True)
    with replaced(folder / "config.json") as config, replaced(folder / ONE_FILE) as weights:
        config.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        safetensors.write(weights, tensors)


def require_own_parameters(model: Decoder) -> None:
    """ArgumentError where a parameter has no place in a checkpoint, as those of adapters have none."""
    own = {name for name, _ in Decoder(model.config, backend="reference", device="meta").named_parameters()}
    for name, _ in model.named_parameters():
        if name not in own:
            raise ArgumentError(message("model", "its own parameters alone, adapters merged", f"{name} too"))
