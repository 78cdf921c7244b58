"""Where a model lies: in a folder of safetensors, in a GGUF file, in an installed package that carries one of these, or
on the Hugging Face hub."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path

from farspan._errors import CheckpointError, message
from farspan._files import require_folder
from farspan.model import hub

PACKAGE = "package:"


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
