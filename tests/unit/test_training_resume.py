"""A run that was killed, at any moment, goes on to the bits of one that nobody stopped."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from support.killed import (
    run,
    run_killed_after,
    run_killed_while_writing,
    run_without_picture,
    signal_that_ended,
    started,
)
from support.training import log_of, same_weights, without_time

from farspan._errors import Error
from farspan.model import Transformer, safetensors
from farspan.training import folder
from farspan.training.log import Log


@pytest.fixture
def no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than everything else here."""
    monkeypatch.setattr(folder, "_can_draw", lambda: False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Transformer, list[dict[str, Any]]]:
    """A run that nobody stopped, and its log."""
    out = tmp_path_factory.mktemp("whole") / "out"
    return run(out), log_of(out)


def check_goes_on(out: Path, whole: tuple[Transformer, list[dict[str, Any]]]) -> list[int]:
    """Gives the steps that were left to take."""
    model, log = whole
    taken: list[int] = []
    assert same_weights(run(out, resume=True, progress=lambda done, total, text: taken.append(done)), model)
    assert without_time(log_of(out)) == without_time(log)
    assert same_weights(Transformer.from_pretrained(out, backend=model.backend), model)
    assert not [path.name for path in out.iterdir() if path.name.startswith(".") or path.name == "state.safetensors"]
    return taken


@pytest.mark.parametrize("step", [1, 3, 4, 5, 8, 11, 12])
@pytest.mark.usefixtures("no_picture")
def test_killed_after_a_step(step: int, tmp_path: Path, whole: Any) -> None:
    out = tmp_path / "out"
    assert signal_that_ended(run_killed_after, out, step) == signal.SIGKILL
    assert len(log_of(out)) == step
    saved = out / "state.safetensors"
    assert saved.exists() == (step >= 4)
    last_checkpoint = min(step, 11) // 4 * 4  # the last step ends the run, and needs none
    assert check_goes_on(out, whole) == list(range(last_checkpoint + 1, 13)), "a kill loses one interval at the most"


WRITES = {"run.json": 1, "state.safetensors": 2, "config.json": 3, "model.safetensors": 3, "loss.png": 2}
"""How often each file is written in a run; a run of seconds draws at its first checkpoint and at its end."""


@pytest.mark.parametrize("moment", ["before", "in the middle", "behind"])
@pytest.mark.parametrize("name", WRITES)
def test_killed_in_the_middle_of_a_write(
    name: str, moment: str, tmp_path: Path, whole: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the last time that the file is written: there is an older one that must stay whole."""
    out = tmp_path / "out"
    if name == "loss.png":
        pytest.importorskip("matplotlib", reason="the picture is drawn with it")
    else:
        monkeypatch.setattr(folder, "_can_draw", lambda: False)
    assert signal_that_ended(run_killed_while_writing, out, name, WRITES[name], moment) == signal.SIGKILL
    for path in out.iterdir():
        if path.suffix == ".safetensors" and not path.name.startswith("."):
            assert safetensors.open_file(path), "a file is whole or not there"
    check_goes_on(out, whole)


@pytest.mark.usefixtures("no_picture")
def test_killed_at_random_moments_again_and_again(tmp_path: Path, whole: Any) -> None:
    out, moments = tmp_path / "out", random.Random(0)

    def lines() -> int:
        log = out / "log.jsonl"
        return log.read_bytes().count(b"\n") if log.exists() else 0

    kills = 0
    for turn in range(6):
        process, before = started(run_without_picture, out, turn > 0), lines()
        while process.is_alive() and lines() <= before:
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.02))
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
    assert kills
    check_goes_on(out, whole)


@pytest.mark.usefixtures("no_picture")
def test_half_precision_goes_on_from_its_masters(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert signal_that_ended(run_killed_after, out, 9, "bfloat16") == signal.SIGKILL
    assert same_weights(run(out, resume=True, dtype="bfloat16"), run(None, dtype="bfloat16"))


# ------------------------------------------------------------------------------------------------------------- the log


def test_a_log_is_cut_where_a_run_goes_on(tmp_path: Path) -> None:
    log = Log(tmp_path / "log.jsonl")
    for step in range(1, 6):
        log.append({"step": step})
    log.path.write_bytes(log.path.read_bytes() + b'{"step": 6, "lo')
    log.cut(4)
    log.append({"step": 5, "again": True})
    assert [line["step"] for line in log_of(tmp_path)] == [1, 2, 3, 4, 5]
    assert log.lines()[-1] == {"step": 5, "again": True}
    log.cut(0)
    assert log.path.read_bytes() == b""


def test_a_log_that_lacks_steps_is_an_error(tmp_path: Path) -> None:
    log = Log(tmp_path / "log.jsonl")
    log.append({"step": 1})
    with pytest.raises(Error, match=r"log\.jsonl: expected steps 1 to 3, as the checkpoint says, given 1 lines$"):
        log.cut(3)
