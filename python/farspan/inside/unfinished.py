"""A training of translators as a file, from which it goes on with the same bits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from farspan._errors import CheckpointError, Error, message
from farspan._files import remove_unfinished, replaced
from farspan.model import Transformer, safetensors

FACTS, STEP = "facts", "step"


class Unfinished:
    """The file of a training that these facts tell from others."""

    def __init__(self, path: Path, facts: Mapping[str, Any]) -> None:
        self._path, self._facts = path, json.loads(json.dumps(facts))
        path.parent.mkdir(parents=True, exist_ok=True)  # what cannot be written to is told before the training
        remove_unfinished(path)

    def write(self, step: int, state: Mapping[str, Tensor]) -> None:
        """What there is after so many steps; it replaces an older file as a whole."""
        notes = {FACTS: json.dumps(self._facts), STEP: str(step)}
        with replaced(self._path) as beside:
            safetensors.write(beside, state, notes)

    def read_into(self, state: Mapping[str, Tensor]) -> int:
        """Puts what the file holds into the tensors; gives the steps that are done, 0 where there is no file. Error: it
        holds another training. CheckpointError: it is damaged, or none of a training."""
        if not self._path.exists():
            return 0
        stored = safetensors.open_file(self._path)
        notes = safetensors.read_notes(self._path)
        if stored.keys() != state.keys() or not {FACTS, STEP} <= notes.keys():
            given = ", ".join(sorted(stored)[:4]) or "nothing"
            raise CheckpointError(message(str(self._path), "a training that train_lens keeps", given))
        try:
            before, done = json.loads(notes[FACTS]), int(notes[STEP])
        except ValueError as error:
            raise CheckpointError(message(str(self._path), "a training that train_lens keeps", error)) from None
        for name, value in self._facts.items():
            if before.get(name) != value:
                told = f"{before.get(name)!r}, as {self._path} was begun with"
                raise Error(message(name, told, repr(value)))
        for name, tensor in state.items():
            stored[name].require(tuple(tensor.shape), "as the model asks")
        with torch.no_grad():
            for name, tensor in state.items():
                stored[name].copy_into(tensor)
        return done


def digest(ids: Tensor) -> str:
    """Of a text."""
    return hashlib.sha256(ids.cpu().long().numpy().tobytes()).hexdigest()


def digest_of_model(model: Transformer) -> str:
    """Of every parameter."""
    seen = hashlib.sha256()
    for name, parameter in model.named_parameters():
        seen.update(f"{name} {list(parameter.shape)} {parameter.dtype}".encode())
        seen.update(parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return seen.hexdigest()
