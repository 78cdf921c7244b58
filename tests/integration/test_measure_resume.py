"""`farspan measure --resume`: what is measured before a stop stays, and the result is that of an unbroken run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib", reason="the command draws a picture")

import torch

import farspan
from farspan.cli import main
from farspan.embedded import FOLDER
from farspan.lab import measure as measuring
from farspan.lab.kept import Kept
from farspan.lab.pieces import UNFINISHED

SAID = "farspan: --resume goes on where this command stopped"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("def add(first, second):\n    return first + second\n\n" * 60)
    return path


def command(text: Path, out: Path, schemes: str = "own,yarn,forgetting", *more: object) -> list[str]:
    given = ["--data", text, "--lengths", "32,128", "--schemes", schemes, "--windows", "2", "--out", out, *more]
    return ["measure", *map(str, given)]


ALL = ("--copies", "2", "--statistics")
"""Beside the losses; needles, which have no room in 32 tokens, are asked in a test of their own."""


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Stopped:
    """Stops a command at the piece with this number, before it is kept."""

    def __init__(self, patch: pytest.MonkeyPatch, failure: type[BaseException] = KeyboardInterrupt) -> None:
        self.left, self._keep, self._failure = 10**9, Kept.keep, failure
        self.names: list[str] = []
        patch.setattr(Kept, "keep", lambda kept, name, result: self._counted(kept, name, result))

    def _counted(self, kept: Kept, name: str, result: Mapping[str, Any]) -> None:
        if self.left == 0:
            raise self._failure
        self.left -= 1
        self.names.append(name)
        self._keep(kept, name, result)

    def at(self, number: int) -> None:
        self.left = number


def test_a_run_that_was_stopped_ends_with_the_files_of_one_that_was_not(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    stop = Stopped(monkeypatch)
    assert main(command(text, whole, "own,yarn,forgetting", *ALL)) == 0
    printed, names = capsys.readouterr().out, stop.names
    kinds = [name.partition("-")[0] for name in names]
    assert kinds == ["loss"] * 6 + ["copies"] * 7 + ["attention"] * 6
    stop.names = []
    more: tuple[str, ...] = ()
    for number in (3, 4, 8):  # among the losses, the copies and the statistics
        stop.at(number)
        assert main(command(text, parts, "own,yarn,forgetting", *ALL, *more)) == 130
        assert SAID in capsys.readouterr().err
        more = ("--resume",)
    stop.at(100)
    assert main(command(text, parts, "own,yarn,forgetting", *ALL, *more)) == 0
    assert stop.names == names, "each piece is measured once"
    assert contents(parts) == contents(whole)
    assert capsys.readouterr().out == printed.replace(str(whole), str(parts))


def test_needles_by_position(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    asked = ("--lengths", "112,128", "--needles", "1", "--by", "position", "--windows", "1")
    assert main(command(text, whole, "own,yarn", *asked)) == 0
    stop = Stopped(monkeypatch)
    for number, resume in ((3, ()), (100, ("--resume",))):
        stop.at(number)
        main(command(text, parts, "own,yarn", *asked, *resume))
    assert stop.names == [
        "loss-own-128", "loss-yarn-128", "needles-own-112", "needles-own-128", "needles-yarn-112", "needles-yarn-128",
    ]  # fmt: skip
    assert contents(parts) == contents(whole)


def test_a_kill_leaves_what_is_measured(text: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    asked = ("--windows", "60", "--targets", "16")
    names = "own,yarn,ntk,linear,rerope,self-extend"
    killed = subprocess.Popen(
        [sys.executable, "-m", "farspan", *command(text, parts, names, *asked)],
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(path for path in sys.path if path)), stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        latest = time.monotonic() + 120
        while time.monotonic() < latest and not (parts / "loss-partial.json").exists():
            time.sleep(0.01)
    finally:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    assert killed.returncode == -signal.SIGKILL, "it was over before it could be killed"
    partial = json.loads((parts / "loss-partial.json").read_text())
    assert partial["complete"] is False
    first = partial["points"][0]
    kept = json.loads((parts / UNFINISHED / "loss-own-32.json").read_text())
    assert kept["found"] == [first["window_losses"]]
    assert main(command(text, parts, names, *asked, "--resume")) == 0
    assert main(command(text, whole, names, *asked)) == 0
    assert contents(parts) == contents(whole)


def test_a_measurement_that_was_stopped_is_not_lost_to_one_that_begins(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stop = Stopped(monkeypatch)
    stop.at(1)
    assert main(command(text, tmp_path / "out")) == 130
    before = contents(tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr("farspan.lab.subject.load_model", lambda *_: pytest.fail("the weights were read"))
        assert main(command(text, tmp_path / "out")) == 1
    assert (
        "out: expected a folder without an unfinished measurement, or resume=True (--resume)" in capsys.readouterr().err
    )
    assert contents(tmp_path / "out") == before
    stop.at(100)
    assert main(command(text, tmp_path / "out", "own", "--resume")) == 0
    assert main(command(text, tmp_path / "out", "own")) == 0, "one that is over is in nobody's way"


CHANGES = {
    "windows": (["--windows", "3"], "windows: expected 2, as {kept} was made with, given 3"),
    "targets": (["--targets", "5"], "targets: expected 16, as {kept} was made with, given 5"),
    "stride": (["--stride", "20"], "stride: expected "),
    "longest": (["--lengths", "32,64"], "longest length: expected 128, as {kept} was made with, given 64"),
    "by": (["--by", "position"], "by: expected 'length', as "),
    "bos": (["--bos", "always"], "first tokens: expected [], as {kept} was made with, given [0]"),
    "copies": (["--copies", "3"], "copies: expected 2, as "),
    "trained": (["--trained", "64"], "'factor': 1.0, 'original_length': 256, "),
}


@pytest.mark.parametrize("changed", CHANGES)
def test_other_settings_are_refused_by_name(
    changed: str, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr("farspan.lab.report.files.draw", lambda *_: None)
    stop = Stopped(monkeypatch)
    stop.at(5)
    scheme = "yarn"
    assert main(command(text, out, scheme, "--copies", "2", "--statistics")) == 130
    kept = out / UNFINISHED / f"loss-{scheme}-{'128' if changed == 'by' else '32'}.json"
    assert SAID in capsys.readouterr().err
    options, said = CHANGES[changed]
    before = contents(out / UNFINISHED)
    assert main(command(text, out, scheme, "--copies", "2", "--statistics", "--resume", *options)) == 1
    error = capsys.readouterr().err
    assert said.replace("{kept}", str(kept)) in error
    assert SAID not in error
    assert contents(out / UNFINISHED) == before


def test_another_text_or_model_is_refused(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, folder = tmp_path / "out", tmp_path / "model"
    shutil.copytree(FOLDER, folder)
    stop = Stopped(monkeypatch)
    stop.at(1)
    asked = ("--model", str(folder), "--resume")
    assert main(command(text, out, "own", *asked)) == 130
    content = text.read_text()
    text.write_text(content[:-2] + "x\n")
    assert main(command(text, out, "own", *asked)) == 1
    assert "text: expected 'text.txt, sha256 " in capsys.readouterr().err
    text.write_text(content)
    model = farspan.Transformer.from_pretrained(folder)
    with torch.no_grad():
        model.embedding[0, 0] += 1
    model.save_pretrained(folder)
    assert main(command(text, out, "own", *asked)) == 1
    assert "model: expected 'model, sha256 " in capsys.readouterr().err


def test_a_scheme_that_fails_takes_nothing_along(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who leaves it out, or adds another one, goes on from what the others have."""
    out, losses = tmp_path / "out", measuring._losses

    def refused(model: Any, windows: Any, scored: int) -> Any:
        if type(model.config.positions[0]).__name__ == "YaRN" and windows.shape[1] > 100:
            raise farspan.ArgumentError("lengths: expected at most 100, given 128")
        return losses(model, windows, scored)

    monkeypatch.setattr(measuring, "_losses", refused)
    stop = Stopped(monkeypatch)
    assert main(command(text, out, "own,yarn,ntk")) == 1
    assert SAID in capsys.readouterr().err
    assert {path.name for path in out.glob("loss-partial.*")} >= {"loss-partial.csv", "loss-partial.png"}
    assert main(command(text, out, "own,ntk,linear", "--resume")) == 0
    pieces = [f"loss-{name}-{length}" for name in ("own", "yarn", "ntk", "linear") for length in (32, 128)]
    pieces.remove("loss-yarn-128")
    assert stop.names == pieces
    assert main(command(text, tmp_path / "whole", "own,ntk,linear")) == 0
    assert contents(out) == contents(tmp_path / "whole")


def test_the_weights_are_read_once_for_all_texts(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "unfinished.txt"  # its folder of results has the name of the one with pieces
    other.write_text(text.read_text())
    seen: list[object] = []
    monkeypatch.setattr("farspan.lab.pieces.digest_of_model", lambda model: seen.append(model) or "0" * 64)
    assert main(command(text, tmp_path / "out", "own", "--apart", "--data", str(other))) == 0
    assert len(seen) == 1
    assert main(command(text, tmp_path / "out", "own")) == 0
    assert (tmp_path / "out" / UNFINISHED / "loss.json").is_file()


def test_texts_apart_stay_until_all_are_measured(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other.txt"
    other.write_text("import this\n" * 100)
    stop = Stopped(monkeypatch)
    stop.at(3)
    asked = command(text, tmp_path / "out", "own", "--apart", "--data", str(other))
    assert main(asked) == 130
    assert (tmp_path / "out" / "text" / "loss.json").is_file()
    stop.at(100)
    assert main([*asked, "--resume"]) == 0
    assert stop.names == ["loss-own-32", "loss-own-128"] * 2
    assert not list(tmp_path.rglob(UNFINISHED))
