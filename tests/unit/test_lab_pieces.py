"""The pieces of a measurement: what is kept comes back as it was, and new schemes learn from the same numbers."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
from support.models import small_model

from farspan import Error
from farspan.lab.measure import measure
from farspan.lab.pieces import Pieces, piece_name
from farspan.lab.reach import switched
from farspan.positions import Forgetting

ROWS = [[0.1, 1 / 3, math.inf], [-math.inf, 2.5e-17]]


def test_what_is_kept_is_what_was_found(tmp_path: Path) -> None:
    Pieces(tmp_path, {"model": "a"}, resume=False)("loss", {"windows": 2}, lambda: [*ROWS, [math.nan]])
    again = Pieces(tmp_path, {"model": "a"}, resume=True)
    *rows, (nothing,) = again("loss", {"windows": 2}, lambda: pytest.fail("it is found already"))
    assert rows == ROWS
    assert math.isnan(nothing)
    for common, own, said in (("b", 2, "model: expected 'a'"), ("a", 3, "windows: expected 2")):
        with pytest.raises(Error, match=said):
            Pieces(tmp_path, {"model": common}, resume=True)("loss", {"windows": own}, list)
    assert not again.grown
    again.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_name_is_a_file_in_every_system() -> None:
    assert piece_name("loss", "mine:Class(3)", 64) == "loss-mine_Class_3_-64"


def test_what_a_scheme_draws_is_the_same_in_every_measurement() -> None:
    model = small_model()
    state = torch.random.get_rng_state()
    first = switched(model, Forgetting()).state_dict()
    assert torch.equal(torch.random.get_rng_state(), state), "the caller's generator is left alone"
    torch.manual_seed(7)
    second = switched(model, Forgetting()).state_dict()
    assert any("gate" in name for name in first)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert switched(model, None) is model


def test_a_measurement_in_python_is_kept_too(tmp_path: Path) -> None:
    model, tokens = small_model(), torch.arange(60) % 7

    def measured(*, resume: bool) -> object:
        pieces = Pieces(tmp_path, {"text": "numbers"}, resume=resume)
        return measure(model, tokens, [8, 16], ["own"], windows=2, by="position", piece=pieces)

    assert measured(resume=False) == measured(resume=True)
    (tmp_path / "unfinished" / "loss-own-16.json").unlink()
    assert measured(resume=True)
