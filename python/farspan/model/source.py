"""Where a model lies: in a folder of safetensors, in a GGUF file, in an installed package that carries one of these, or
on the Hugging Face hub."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path

from farspan._errors import CheckpointError, message
from farspan.model import hub
from farspan.model.checkpoint import Checkpoint
from farspan.model.config import Config, read_settings
from farspan.model.files import require_folder
from farspan.model.gguf.checkpoint import GgufCheckpoint

PACKAGE = "package:"
Opened = Checkpoint | GgufCheckpoint


def open_checkpoint(path: str | os.PathLike[str]) -> Opened:
    """The checkpoint there, its weights not yet read. CheckpointError: none, or one that is damaged or unknown."""
    place = located(path)
    return GgufCheckpoint(place) if place.is_file() else Checkpoint(place)


def read_config(path: str | os.PathLike[str]) -> Config:
    """The config of the checkpoint there, without a look at its weights. CheckpointError: as above."""
    place = located(path)
    return GgufCheckpoint(place).config if place.is_file() else Config.from_dict(read_settings(place))


def located(path: str | os.PathLike[str]) -> Path:
    """The folder or the file that `path`, `package:NAME` or a name on the hub stands for. CheckpointError: there is
    none. BackendError: the hub cannot be asked."""
    name = os.fspath(path)
    place = _in_package(name.removeprefix(PACKAGE)) if name.startswith(PACKAGE) else Path(name)
    if place.is_file():
        return place
    if place.suffix == ".gguf":
        raise CheckpointError(message("model", "a GGUF file", f"{str(place)!r}, which is not there"))
    if not place.exists() and hub.is_name(name):
        return hub.fetched(name)
    require_folder(place)
    return place


def _in_package(name: str) -> Path:
    """The GGUF file, or the model folder, inside an installed package. The package is not imported: that could need
    anything, and run it."""
    module = name.replace("-", "_")
    spec = importlib.util.find_spec(module) if re.fullmatch(r"\w+", module) else None
    if spec is None or not spec.submodule_search_locations:
        expected = "the name of an installed package that carries a model"
        raise CheckpointError(message("model", expected, f"{PACKAGE}{name}, which is not installed"))
    places = [Path(location) for location in spec.submodule_search_locations]
    files = sorted(file for place in places for file in place.rglob("*.gguf"))
    found = files or sorted(file.parent for place in places for file in place.rglob("config.json"))
    if len(found) != 1:
        given = f"{PACKAGE}{name}, which has {len(found) or 'none'}"
        raise CheckpointError(message("model", "a package with one GGUF file, or one model folder", given))
    return found[0]
