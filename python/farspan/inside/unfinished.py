"""A training of translators as a file, from which it goes on with the same bits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from farspan._files import require_same
from farspan.model.state_file import StateFile


class Unfinished:
    """The file of a training that these facts tell from others."""

    def __init__(self, path: Path, facts: Mapping[str, Any]) -> None:
        self._facts = facts
        path.parent.mkdir(parents=True, exist_ok=True)  # what cannot be written to is told before the training
        self._file = StateFile(path, "a training that train_lens keeps")

    def write(self, step: int, state: Mapping[str, Tensor]) -> None:
        """What there is after so many steps."""
        self._file.write(state, {"training": self._facts, "step": step})

    def read_into(self, state: Mapping[str, Tensor]) -> int:
        """Puts what the file holds into the tensors; gives the steps that are done, 0 where there is no file. Error: it
        holds another training. CheckpointError: it is damaged, or none of a training."""
        found = self._file.read()
        if found is None:
            return 0
        stored, facts = found
        if stored.keys() != state.keys():
            raise self._file.refusal(stored)
        require_same(self._facts, facts.get("training", {}), f"{self._file.path} was begun with")
        for name, tensor in state.items():
            stored[name].require(tuple(tensor.shape), "as the model asks")
        with torch.no_grad():
            for name, tensor in state.items():
                stored[name].copy_into(tensor)
        return int(facts["step"])
