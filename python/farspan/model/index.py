"""The files of a model folder by their names, and which of them has which tensor."""

from __future__ import annotations

from pathlib import Path

from farspan._errors import CheckpointError, message
from farspan._files import read_json
from farspan.model.kinds import shown

ONE_FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"
BESIDE = (
    "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "chat_template.jinja",
)  # fmt: skip
"""What a model folder may have beside its config and weights."""


def read_index(path: Path) -> dict[str, str]:
    """Which file has which tensor. CheckpointError: the index does not say it."""
    index = read_json(path)
    files = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(files, dict) or not files:
        raise CheckpointError(message(str(path), "a weight_map of tensor names to files", shown(files)))
    for name, file in files.items():
        if not isinstance(file, str) or not file.isprintable() or Path(file).name != file:
            raise CheckpointError(message(f"{name} in {path}", "the name of a file beside it", shown(file)))
    return files
