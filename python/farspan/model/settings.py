"""The settings of a model folder, as its JSON files say them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from farspan._errors import ArgumentError, CheckpointError, message
from farspan._files import read_json, require_folder
from farspan.model.families import OWN_MODEL_TYPE
from farspan.model.families.family import END_TOKENS


def read_settings(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of `config.json`, with the end-of-sequence ids of `generation_config.json` where that has any."""
    require_folder(Path(folder))
    settings = read_json(Path(folder) / "config.json")
    beside = Path(folder) / "generation_config.json"
    if not isinstance(settings, dict):
        raise CheckpointError(message(str(Path(folder) / "config.json"), "an object", type(settings).__name__))
    if settings.get("model_type") == OWN_MODEL_TYPE or not beside.exists():
        return settings
    generation = read_json(beside)
    if not isinstance(generation, dict):
        raise CheckpointError(message(str(beside), "an object", type(generation).__name__))
    ends = generation.get("eos_token_id")
    if ends is None:
        return settings
    try:
        END_TOKENS.check("eos_token_id", ends)
    except ArgumentError as error:
        raise CheckpointError(f"generation_config.json: {error}") from None
    return {**settings, "eos_token_id": ends}
