"""The folder of an extrapolation: what is kept of a model, when it is taken for that model's, what a kill leaves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from farspan import Error
from farspan.lab.kept import written
from farspan.lab.runs import RESULT, Runs

FACTS = {"scheme": "rope", "steps": 5}


def runs(out: Path, *, resume: bool = True) -> Runs:
    return Runs(out, resume=resume, facts_name="facts")


def test_a_result_is_that_of_a_model_with_the_same_facts(tmp_path: Path) -> None:
    runs(tmp_path, resume=False).keep("rope-seed0", {"facts": FACTS, "loss": 1.5})
    assert runs(tmp_path).result("rope-seed0", FACTS) == {"facts": FACTS, "loss": 1.5}
    assert runs(tmp_path).result("alibi-seed0", FACTS) is None
    with pytest.raises(Error, match=r"^steps: expected 5, as .*rope-seed0\.json was made with, given 6$"):
        runs(tmp_path).result("rope-seed0", {**FACTS, "steps": 6})
    with pytest.raises(Error, match="batch: expected None"):
        runs(tmp_path).result("rope-seed0", {**FACTS, "batch": 1})


@pytest.mark.parametrize(
    "name", [RESULT, "runs/rope-seed0.json", "runs/rope-seed0.safetensors", "runs/rope-seed0/config.json"]
)
def test_a_folder_that_holds_an_extrapolation_is_gone_on_with_or_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(Error, match=r"^out: expected .*--resume"):
        runs(tmp_path, resume=False)
    assert sorted(tmp_path.rglob("*")) == before
    runs(tmp_path)


def test_what_a_kill_left_of_a_write_goes(tmp_path: Path) -> None:
    kept = runs(tmp_path / "out", resume=False)
    left, other = (tmp_path / "out" / "runs" / f".{name}.json" for name in ("123.rope-seed0", "123.alibi-seed0"))
    for path in (left, other):
        path.write_text("half")
    runs(tmp_path / "out", resume=False)  # half a file is no result
    kept.result("rope-seed0", FACTS)
    assert not left.exists()
    assert other.exists()


@pytest.mark.parametrize("content", ["[1]", "{}", '{"facts": 3}'])
def test_a_file_that_is_no_result_is_named(content: str, tmp_path: Path) -> None:
    kept = runs(tmp_path)
    kept.place("rope-seed0", ".json").write_text(content)
    with pytest.raises(Error, match=r"rope-seed0\.json: expected a result with its facts as 'facts', given another"):
        kept.result("rope-seed0", FACTS)


def test_names_of_files() -> None:
    assert written("mine:Class(3, window=4)") == "mine_Class_3__window_4_"
    assert written("p-rope") == "p-rope"


def test_what_is_kept_is_json_that_every_reader_accepts(tmp_path: Path) -> None:
    runs(tmp_path).keep("a", {"facts": {}, "loss": float("nan")})
    content = runs(tmp_path).place("a", ".json").read_text()
    assert json.loads(content, parse_constant=pytest.fail) == {"facts": {}, "loss": None}
