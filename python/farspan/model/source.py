"""A checkpoint of either kind, opened where it lies."""

from __future__ import annotations

import os

from farspan.model.checkpoint import Checkpoint
from farspan.model.gguf.checkpoint import GgufCheckpoint
from farspan.model.location import located

Opened = Checkpoint | GgufCheckpoint


def open_checkpoint(path: str | os.PathLike[str]) -> Opened:
    """The checkpoint there, its weights not yet read. CheckpointError: none, or one that is damaged or unknown."""
    place = located(path)
    return GgufCheckpoint(place) if place.is_file() else Checkpoint(place)
