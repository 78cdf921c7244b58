"""`farspan extrapolate` and `farspan extend` as commands: recipes, files, wrong usage, a parent that is killed."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")

import torch

from farspan import ArgumentError
from farspan.cli import main
from farspan.commands import extrapolate
from farspan.commands.extend import _read_by
from farspan.commands.measure import _begun
from farspan.embedded import FOLDER
from farspan.lab.extension import extension
from farspan.lab.extension.checkpoint import Readers
from farspan.lab.language_recipes import DROPPED_NEEDLES
from farspan.lab.subject import Text

TINY = [
    "--train-length", "4", "--test-lengths", "4,6", "--steps", "1", "--seeds", "1", "--examples", "5", "--batch", "2",
    "--layers", "1", "--width", "16", "--heads", "2", "--workers", "1",
]  # fmt: skip


def test_a_recipe_of_several_tasks_has_a_folder_for_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, int, str]] = []
    monkeypatch.setattr(
        extrapolate, "progress_on_stderr", lambda *_, **__: contextlib.nullcontext(lambda *said: told.append(said))
    )
    command = ["extrapolate", "e3", "--schemes", "rope,nope", *TINY, "--out", str(tmp_path)]
    assert main([*command, "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == "e3: 2 runs, 4 trainings of 1 step\n"
    assert [done for done, _, said in told if ": loss" in said] == [1, 2, 3, 4], "of all runs"
    assert {total for _, total, _ in told} == {4}
    assert told[-1][2].startswith("sort_integers, nope, seed 0: ")
    document = json.loads(captured.out)
    assert [task["run"] for task in document["tasks"]] == ["copy", "sort_integers"]
    for task in document["tasks"]:
        assert task.pop("run") == task["task"]
        assert task == json.loads((tmp_path / task["task"] / "extrapolate.json").read_text())
        assert task["settings"]["steps"] == 1, "options count more than the recipe"
        assert task["settings"]["reading"] == "causal"
    assert main([*command, "--resume"]) == 0
    said = capsys.readouterr().out
    assert "Kazemnejad" in said
    assert "sort_integers, one seed; chance 1.0; trained up to 4" in said
    assert said.endswith(f"written: {tmp_path / 'extrapolate.png'}\n")
    assert (tmp_path / "extrapolate.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_that_cannot_be_used_is_told_before_the_first_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "sort_integers" / "runs" / "rope-seed0-rate0.001.json"
    kept.parent.mkdir(parents=True)
    kept.write_text("{}")
    assert main(["extrapolate", "e3", "--schemes", "rope", *TINY, "--out", str(tmp_path)]) == 1
    assert "--resume" in capsys.readouterr().err
    assert list(tmp_path.glob("copy/runs/*")) == [], "nothing was trained"


def test_variants_of_a_recipe_have_a_folder_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = [*TINY[:2], "--test-lengths", "8", *TINY[4:]]
    sizes = ["--layers", "--width", "--heads"]
    kept = [x for i, x in enumerate(tiny) if x not in sizes and (i == 0 or tiny[i - 1] not in sizes)]
    assert main(["extrapolate", "max", *kept, "--schemes", "nope-ssmax", "--out", str(tmp_path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [task["run"] for task in document["tasks"]] == [
        f"fine_max_retrieval-{x}" for x in ("slots", "causal", "deep")
    ]
    assert [task["settings"]["layers"] for task in document["tasks"]] == [1, 1, 3]
    names = {path.parent.name for path in tmp_path.glob("*/extrapolate.json")}
    assert names == {f"fine_max_retrieval-{x}" for x in ("slots", "causal", "deep")}


def test_a_recipe_about_language(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.txt"
    text.write_text("def add(first, second):\n    return first + second\n" * 40)
    command = [
        "extrapolate", "e7", "--data", str(text), "--train-length", "16", "--test-lengths", "16,32", "--steps", "9",
        "--seeds", "1", "--examples", "2", "--batch", "2", "--layers", "1", "--width", "16", "--heads", "2", "--out",
        str(tmp_path / "out"),
    ]  # fmt: skip
    assert main(command) == 0
    said, progress = capsys.readouterr()
    assert progress == "e7: 3 trainings of 9 steps\n"
    names = ["rope", "nope", "drope", *(f"{name}, zero-shot" for name in ("linear", "ntk", "yarn"))]
    document = json.loads((tmp_path / "out" / "extrapolate.json").read_text())
    assert [point["scheme"] for point in document["points"][::2]] == names
    rows = [re.split(r"\s{2,}", line) for line in _below("needles at 2x, %", said)]
    assert {len(row) for row in rows} == {3}, "a name, our figure, the paper's"
    assert {row[0]: float(row[-1]) for row in rows} == DROPPED_NEEDLES
    assert main([*command, "--resume", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == document


def test_published_figures_are_printed_beside_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["extrapolate", "sort", *TINY, "--out", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[-2:] == ["beyond", "paper"]
    assert [line.split()[-1] for line in lines[1:3]] == ["30.6", "100.0"]


@pytest.mark.parametrize(
    ("command", "named"),
    [
        (["extrapolate", "chess"], "chess"),
        (["extrapolate", "bucket_sort", "--schemes", "rope,nonsense"], "nonsense"),
        (["extrapolate", "bucket_sort", "--schemes", "streaming"], "reading 'slots'"),
        (["extrapolate", "bucket_sort", "--test-lengths", "0"], "test-lengths"),
        (["extend", "--to", "512", "--data", "x", "--out", "y", "--methods", "pose"], "--steps"),
        (["extend", "--to", "512", "--data", "x", "--out", "y", "--methods", "nonsense"], "nonsense"),
        (["extend", "--to", "512", "--data", "x", "--out", "y", "--train-data", "z"], "--steps beside it"),
        (["extrapolate", "bucket_sort", "--data", "x"], "--data: expected a recipe about language"),
        (["extrapolate", "e5", "--reading", "slots"], "--reading"),
        (["extrapolate", "e5", "--learning-rates", "0.1,0.2"], "expected one"),
        (["extrapolate", "e6", "--schemes", "rope,nonsense"], "nonsense"),
        (["extrapolate", "e6", "--schemes", "alibi"], "schemes: expected rope among them, which others are put on"),
        (["measure", "--apart"], "--data beside it"),
        (["measure", "--apart", "--data", "a/x.txt", "b/x.txt"], "files with different names, given a/x.txt, b/x.txt"),
    ],
)
def test_wrong_usage(command: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 2
    assert named in capsys.readouterr().err


def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    """A killed parent leaves no process behind that goes on writing into the folder."""
    command = [
        sys.executable, "-m", "farspan", "extrapolate", "bucket_sort", "--schemes", "rope,alibi", "--train-length", "4",
        "--test-lengths", "4", "--steps", "100000", "--seeds", "1", "--workers", "2", "--out", str(tmp_path),
    ]  # fmt: skip
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(path for path in sys.path if path))
    parent = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        children = _wait_for(lambda: _children(parent.pid))
    finally:
        parent.kill()
        parent.wait()
    _wait_for(lambda: not any(map(_is_alive, children)))


def test_extend_says_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.txt"
    text.write_text("def add(first, second):\n    return first + second\n\n\n" * 14)
    command = ["extend", "--model", str(FOLDER), "--to", "320", "--data", str(text), "--methods", "yarn,self-extend"]
    assert main([*command, "--needles", "1", "--copies", "1", "--out", str(tmp_path / "longer")]) == 0
    said = capsys.readouterr().out
    document = json.loads((tmp_path / "longer" / "extend.json").read_text())
    assert f"recommended: {document['recommended']}" in said
    assert ("ONLY farspan reads it" in said) is not document["checkpoint"]["transformers_reads_it"]
    assert (tmp_path / "longer" / "tokenizer.json").is_file()
    assert (tmp_path / "longer" / "extend.png").is_file()
    assert (tmp_path / "longer" / "retrieval.png").read_bytes().startswith(b"\x89PNG")
    assert "needles found, %" in said
    assert "copied, %" in said
    places = {(found["length"], found["depth"]) for found in document["needles"] if found["scheme"] == "yarn"}
    assert places == {(length, depth) for length in (128, 256, 320) for depth in (0.0, 0.25, 0.5, 0.75, 1.0)}
    assert [found["length"] for found in document["copies"] if found["scheme"] == "own"] == [128, 256, 320]
    assert ("llama.cpp once it is converted" in said) is document["checkpoint"]["llama_cpp_reads_it"]


def test_who_reads_an_extended_checkpoint_is_said() -> None:
    said = [_read_by(Readers(*who)) for who in ((True, True), (True, False), (False, False))]
    assert [("llama.cpp once" in x, "passes over" in x, "ONLY farspan" in x) for x in said] == [
        (True, False, False), (False, True, False), (False, False, True)
    ]  # fmt: skip


def test_extend_leaves_the_model_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, model = tmp_path / "text.txt", tmp_path / "model"
    text.write_text("def add(first, second):\n    return first + second\n" * 14)
    shutil.copytree(FOLDER, model)
    before = (model / "config.json").read_bytes()
    assert main(["extend", "--model", str(model), "--to", "320", "--data", str(text), "--out", str(model)]) == 1
    assert "out: expected another folder than the model's" in capsys.readouterr().err
    assert (model / "config.json").read_bytes() == before


def test_what_extend_found_before_it_was_stopped_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(extension, "tuned", stopped)
    text, out = tmp_path / "text.txt", tmp_path / "longer"
    text.write_text("def add(first, second):\n    return first + second\n" * 80)
    command = ["extend", "--to", "320", "--data", str(text), "--methods", "yarn", "--steps", "1", "--out", str(out)]
    assert main(command) == 130
    found = json.loads((out / "extend-partial.json").read_text())
    assert {point["scheme"] for point in found["points"]} == {"own", "yarn"}
    assert not (out / "extend.json").exists()


def test_what_extend_found_before_it_was_killed_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of what was found is there as soon as it is found, and goes when the next command begins."""
    text, out = tmp_path / "text.txt", tmp_path / "longer"
    text.write_text("def add(first, second):\n    return first + second\n" * 14)
    partial = out / "extend-partial.json"
    seen: list[list[str]] = []
    extended = extension.extend

    def watched(*given: Any, keep: Any, **more: Any) -> Any:
        assert not partial.exists()

        def look(so_far: Any) -> None:
            keep(so_far)
            seen.append(sorted({point["scheme"] for point in json.loads(partial.read_text())["points"]}))

        return extended(*given, keep=look, **more)

    monkeypatch.setattr("farspan.lab.extension.extend", watched)
    command = ["extend", "--to", "320", "--data", str(text), "--methods", "yarn", "--copies", "0", "--out", str(out)]
    out.mkdir()
    partial.write_text("of an earlier command")
    assert main(command) == 0
    assert seen[:2] == [["own"], ["own", "yarn"]]
    assert not partial.exists()


@pytest.mark.parametrize(
    ("option", "lengths", "said"),
    [
        ("--needles", "32,512", "lengths: expected at least 98 tokens, for needle and question, given 32"),
        ("--copies", "2,512", "lengths: expected at least 3 tokens, for a piece that stands twice, given 2"),
    ],
)
def test_what_has_no_room_is_told_before_anything_is_measured(
    option: str, lengths: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["measure", "--lengths", lengths, option, "1", "--out", str(tmp_path / "out")]) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_measure_finds_and_copies_beside_its_losses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.txt"
    text.write_text("def add(first, second):\n    return first + second\n" * 14)
    command = ["measure", "--data", str(text), "--lengths", "64,160", "--schemes", "own,yarn", "--windows", "2"]
    assert main([*command, "--copies", "2", "--out", str(tmp_path / "copies")]) == 0
    said = capsys.readouterr().out
    document = json.loads((tmp_path / "copies" / "loss.json").read_text())
    assert [(found["scheme"], found["length"]) for found in document["copies"]] == [
        ("own", 64), ("own", 160), ("yarn", 64), ("yarn", 160)
    ]  # fmt: skip
    assert document["needles"] == []
    shares = [round(100 * found["accuracy"]) for found in document["copies"][:2]]
    assert [int(x) for x in said.partition("copied, %")[2].splitlines()[1].split()[1:]] == shares
    assert (tmp_path / "copies" / "retrieval.png").is_file()


def test_windows_begin_as_it_is_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = Text("a text", torch.arange(9), 1.0, (7,), ("one",))
    never = _begun(text, "never", 5)
    assert never.first_tokens == ()
    assert never.notes == ("one", "no window begins with 7, which the tokenizer puts before a text")
    assert _begun(text, "auto", 5) is _begun(text, "always", 5) is text
    bare = dataclasses.replace(text, first_tokens=())
    assert _begun(bare, "never", 5) is _begun(bare, "auto", 5) is bare
    assert _begun(bare, "always", 5) == dataclasses.replace(text, first_tokens=(5,))
    with pytest.raises(ArgumentError, match="bos: expected auto or never"):
        _begun(bare, "always", None)
    command = ["measure", "--lengths", "3,64", "--copies", "1", "--bos", "always", "--out", str(tmp_path / "out")]
    assert main(command) == 1
    assert "at least 4 tokens, for a piece that stands twice, given 3" in capsys.readouterr().err
    assert not (tmp_path / "out").exists(), "told before anything is measured"


def _below(title: str, said: str) -> list[str]:
    """The rows of the table with this title."""
    lines = said.splitlines()
    rows = lines[next(i for i, line in enumerate(lines) if line.startswith(title)) + 1 :]
    return list(itertools.takewhile(lambda line: ": " not in line, rows))


def _wait_for(condition: object, seconds: float = 120.0) -> list[int]:
    latest = time.monotonic() + seconds
    while time.monotonic() < latest:
        if found := condition():  # type: ignore[operator]
            return found  # type: ignore[no-any-return]
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} seconds")


def _children(parent: int) -> list[int]:
    """Two, or none yet."""
    found = Path(f"/proc/{parent}/task/{parent}/children")
    if not found.exists():
        pytest.skip("the system does not tell a process's children")
    children = [int(pid) for pid in found.read_text().split()]
    return children if len(children) == 2 else []


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
