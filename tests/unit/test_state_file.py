"""The file that a training goes on from: what is in it, what is refused, and what a kill leaves beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import farspan
from farspan.model.state_file import StateFile

TENSORS = {"weight": torch.arange(6.0).view(2, 3), "bias": torch.zeros(2, dtype=torch.bfloat16)}
KIND = "the checkpoint of a test"


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "state.safetensors", KIND)
    assert file.read() is None
    for step in (3, 4):
        file.write(TENSORS, {"seed": 5, "rates": (0.1, None), "step": step})
    found = file.read()
    assert found is not None
    assert found[1] == {"seed": 5, "rates": [0.1, None], "step": 4}
    assert {name: stored.read().tolist() for name, stored in found[0].items()} == {
        name: tensor.tolist() for name, tensor in TENSORS.items()
    }
    file.remove()
    file.remove()
    assert list(tmp_path.iterdir()) == []


def test_files_of_earlier_versions_are_read(tmp_path: Path) -> None:
    """Facts are a note in the header, as JSON."""
    path = tmp_path / "state.safetensors"
    save_file(TENSORS, path, {"format": "pt", "facts": json.dumps({"epoch": 2, "step": 12})})
    found = StateFile(path, KIND).read()
    assert found is not None
    assert found[1] == {"epoch": 2, "step": 12}


def test_what_a_killed_process_left_goes(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    left, other = tmp_path / f".123.{path.name}", tmp_path / ".123.other.safetensors"
    for name in (left, other):
        name.write_bytes(b"half a file")
    StateFile(path, KIND).write(TENSORS, {})
    assert sorted(tmp_path.iterdir()) == sorted([other, path])


@pytest.mark.parametrize("notes", [{}, {"facts": "no JSON"}], ids=["none", "damaged"])
def test_another_file_is_refused_by_what_it_holds(notes: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    save_file(TENSORS, path, notes)
    with pytest.raises(farspan.CheckpointError, match=rf"state.safetensors: expected {KIND}, given bias, weight"):
        StateFile(path, KIND).read()
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(farspan.CheckpointError, match="a sound safetensors file"):
        StateFile(path, KIND).read()
