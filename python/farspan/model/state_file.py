"""What a training keeps of itself in a file, to go on from after a stop: tensors, and facts in the file's header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from farspan._errors import CheckpointError, message
from farspan._files import remove_unfinished, replaced
from farspan.model import safetensors
from farspan.model.safetensors import StoredTensor

FACTS = "facts"
"""The header's note that has them."""


class StateFile:
    """One file, replaced as a whole: a kill leaves the old state or the new one, and the next process removes the rest.

    `kind` says what the file keeps, for whoever finds something else.
    """

    def __init__(self, path: Path, kind: str) -> None:
        self.path, self._kind = path, kind
        remove_unfinished(path)

    def write(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """The state now. Facts have values that JSON has."""
        notes = {FACTS: json.dumps(facts)}
        with replaced(self.path) as beside:
            safetensors.write(beside, tensors, notes)

    def read(self) -> tuple[dict[str, StoredTensor], dict[str, Any]] | None:
        """Tensors, not yet read, and facts; None where there is no file. CheckpointError: it is damaged, or keeps
        something else."""
        if not self.path.exists():
            return None
        tensors, notes = safetensors.open_file(self.path), safetensors.read_notes(self.path)
        try:
            return tensors, json.loads(notes[FACTS])
        except (KeyError, ValueError):
            raise self.refusal(tensors) from None

    def refusal(self, tensors: Mapping[str, Any]) -> CheckpointError:
        """The error of a file that keeps something else."""
        given = ", ".join(sorted(tensors)[:4]) or "nothing"
        return CheckpointError(message(str(self.path), self._kind, given))

    def remove(self) -> None:
        """Nobody goes on from it any more."""
        self.path.unlink(missing_ok=True)
