"""The pieces of a measurement: what is kept comes back as it was, and new schemes learn from the same numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
from support.models import small_model

import farspan
from farspan import Error
from farspan.lab.extrapolation.learning import batch_of
from farspan.lab.extrapolation.settings import Settings
from farspan.lab.extrapolation.subject import Subject
from farspan.lab.measure import measure
from farspan.lab.pieces import UNFINISHED, Pieces, piece_name, require_folder
from farspan.lab.reach import switched
from farspan.positions import Forgetting

NAME = piece_name("loss", "own", 64)
ROWS = [[0.1, 1 / 3, math.inf], [-math.inf, 2.5e-17]]


def test_what_is_kept_is_what_was_found(tmp_path: Path) -> None:
    Pieces(tmp_path, {"model": "a"}, resume=False)(NAME, {"windows": 2}, lambda: [*ROWS, [math.nan]])
    again = Pieces(tmp_path, {"model": "a"}, resume=True)
    *rows, (nothing,) = again(NAME, {"windows": 2}, lambda: pytest.fail("it is found already"))
    assert rows == ROWS
    assert math.isnan(nothing)
    for common, own, said in (("b", 2, "model: expected 'a'"), ("a", 3, "windows: expected 2")):
        with pytest.raises(Error, match=said):
            Pieces(tmp_path, {"model": common}, resume=True)(NAME, {"windows": own}, list)
    assert not again.grown
    again.remove()
    assert list(tmp_path.iterdir()) == []


def test_only_pieces_are_removed_and_only_pieces_are_in_the_way(tmp_path: Path) -> None:
    """A text called `unfinished` that is measured apart has its results in a folder of that name."""
    folder = tmp_path / UNFINISHED
    folder.mkdir()
    for name in ("loss.json", "loss-partial.json", "attention.json", "notes-of-mine-1.json", ".5.loss.json"):
        (folder / name).write_text("{}")
    (folder / UNFINISHED).mkdir()
    others = sorted(tmp_path.rglob("*"))
    pieces = Pieces(tmp_path, {}, resume=False)
    names = [piece_name(what, "Mine: a(3)", 64) for what in ("loss", "needles", "copies", "attention")]
    for name in (*names, "copies-guessed"):
        pieces(name, {}, lambda: ROWS)
        (folder / f".123.{name}.json").write_text("half")
        assert (folder / f"{name}.json").is_file()
    with pytest.raises(Error, match=r"^out: expected .*--resume"):
        require_folder(tmp_path, resume=False)
    pieces.remove()
    assert sorted(tmp_path.rglob("*")) == others
    require_folder(tmp_path, resume=False)


def test_what_is_kept_is_of_this_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Pieces(tmp_path, {}, resume=False)(NAME, {}, lambda: ROWS)
    monkeypatch.setattr(farspan, "__version__", "9.9")
    with pytest.raises(Error, match=r"^farspan: expected '.*, given '9\.9'$"):
        Pieces(tmp_path, {}, resume=True)(NAME, {}, lambda: ROWS)


def test_a_setting_without_bounds_goes_on(tmp_path: Path) -> None:
    facts = {"scheme": {"longest": math.inf}}
    for resume in (False, True):
        assert Pieces(tmp_path, facts, resume=resume)(NAME, facts, lambda: ROWS) == ROWS


@pytest.mark.parametrize("found", [None, 3, [3], [["three"]], [[[]]]])
def test_a_file_without_numbers_is_named(found: object, tmp_path: Path) -> None:
    Pieces(tmp_path, {}, resume=False)(NAME, {}, lambda: ROWS)
    path = tmp_path / UNFINISHED / f"{NAME}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"found": found}))
    with pytest.raises(Error, match=r"loss-own-64\.json: expected a piece with rows of numbers as 'found'"):
        Pieces(tmp_path, {}, resume=True)(NAME, {}, lambda: ROWS)


def test_a_scheme_is_a_file_of_its_own_in_every_system() -> None:
    assert piece_name("loss", "p-rope", 64) == "loss-p-rope-64"
    assert piece_name("loss", "rope_x2", 64) == "loss-rope_x2-64"
    long = f"mine:Class({', '.join(map(str, range(200)))})"
    schemes = ["rope_x2", "rope x2", "ROPE_x2", "rope_X2", "mine:Class(3)", "mine:Class[3]", long, long + " ", "é" * 99]
    names = [piece_name("attention", scheme, 10**6) for scheme in schemes]
    assert len({name.casefold() for name in names}) == len(schemes)
    assert all(len(f".{2**32}.{name}.json".encode()) <= 255 for name in names)
    assert names[4].startswith("attention-mine_Class_3_-")


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


def test_no_generator_of_a_gpu_is_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller's would be: only the CPU's generator is put back."""
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    torch.manual_seed(7)
    assert seeded == [7], "torch seeds GPUs otherwise"
    trial = Settings(task="bucket_sort", schemes=("random-rope",), width=16, heads=2, layers=1).trials()[0]
    subject = Subject(trial)
    model = small_model()
    seeded.clear()
    switched(model, Forgetting())
    subject.loss(batch_of(trial, 1), draw=3)
    assert seeded == []


def test_a_measurement_in_python_is_kept_too(tmp_path: Path) -> None:
    model, tokens = small_model(), torch.arange(60) % 7

    def measured(*, resume: bool) -> object:
        pieces = Pieces(tmp_path, {"text": "numbers"}, resume=resume)
        return measure(model, tokens, [8, 16], ["own"], windows=2, by="position", piece=pieces)

    assert measured(resume=False) == measured(resume=True)
    (tmp_path / "unfinished" / "loss-own-16.json").unlink()
    assert measured(resume=True)
