"""A run that was killed, at any moment, goes on to the bits of one that nobody stopped."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.training import RECIPE, documents, learner, log_of, same_weights, without_time

from farspan._errors import Error
from farspan.model import Transformer, checkpoint, files, safetensors
from farspan.training import fit, folder
from farspan.training.log import Log

DOCUMENTS, HELD_OUT = documents(), documents(5, seed=1)


def run(out: Path | None, resume: bool = False, dtype: str = "float32", **options: Any) -> Transformer:
    model = learner(dtype)
    fit(model, DOCUMENTS, RECIPE, out, resume, validation=HELD_OUT, **options)
    return model


@pytest.fixture
def no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than everything else here."""
    monkeypatch.setattr(folder, "_can_draw", lambda: False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Transformer, list[dict[str, Any]]]:
    """A run that nobody stopped, and its log."""
    out = tmp_path_factory.mktemp("whole") / "out"
    return run(out), log_of(out)


def in_a_process(work: Callable[[], object]) -> int:
    """Runs it in a copy of this process; the signal that ended that, 0 if none did."""
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)  # a copy has none of the threads that torch has made
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the run failed before it was killed"
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def check_goes_on(out: Path, whole: tuple[Transformer, list[dict[str, Any]]]) -> None:
    model, log = whole
    assert same_weights(run(out, resume=True), model)
    assert without_time(log_of(out)) == without_time(log)
    assert same_weights(Transformer.from_pretrained(out, backend=model.backend), model)
    assert not [path.name for path in out.iterdir() if path.name.startswith(".") or path.name == "state.safetensors"]


@pytest.mark.parametrize("step", [1, 3, 4, 5, 8, 11, 12])
@pytest.mark.usefixtures("no_picture")
def test_killed_after_a_step(step: int, tmp_path: Path, whole: Any) -> None:
    out = tmp_path / "out"
    stop = lambda done, total, text: kill() if done == step else None  # noqa: E731
    assert in_a_process(lambda: run(out, progress=stop)) == signal.SIGKILL
    assert len(log_of(out)) == step
    saved = out / "state.safetensors"
    assert saved.exists() == (step >= 4)
    check_goes_on(out, whole)


WRITES = {"run.json": 1, "state.safetensors": 2, "config.json": 3, "model.safetensors": 3, "loss.png": 2}
"""How often each file is written in a run; a run of seconds draws at its first checkpoint and at its end."""


@pytest.mark.parametrize("moment", ["before", "in the middle", "behind"])
@pytest.mark.parametrize("name", WRITES)
def test_killed_in_the_middle_of_a_write(
    name: str, moment: str, tmp_path: Path, whole: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the last time that the file is written: there is an older one that must stay whole."""
    out, left, times = tmp_path / "out", files.replaced, WRITES[name]
    if name == "loss.png":
        pytest.importorskip("matplotlib", reason="the picture is drawn with it")
    else:
        monkeypatch.setattr(folder, "_can_draw", lambda: False)

    class Dying:
        """`replaced`, until its time comes."""

        count = 0

        def __init__(self, path: Path) -> None:
            self.path, self.inner = path, left(path)

        def __enter__(self) -> Path:
            self.beside = self.inner.__enter__()
            if self.path.name == name:
                Dying.count += 1
                self.dies = Dying.count == times
                if self.dies and moment == "before":
                    kill()
            else:
                self.dies = False
            return self.beside

        def __exit__(self, *error: Any) -> Any:
            if self.dies and moment == "in the middle":
                content = self.beside.read_bytes()
                self.beside.write_bytes(content[: len(content) // 2])
                kill()
            self.inner.__exit__(*error)
            if self.dies:
                kill()

    def dying_run() -> None:
        folder.replaced = checkpoint.replaced = Dying  # type: ignore[assignment]
        run(out)

    assert in_a_process(dying_run) == signal.SIGKILL
    for path in out.iterdir():
        if path.suffix == ".safetensors" and not path.name.startswith("."):
            assert safetensors.open_file(path), "a file is whole or not there"
    check_goes_on(out, whole)


@pytest.mark.usefixtures("no_picture")
def test_killed_at_random_moments_again_and_again(tmp_path: Path, whole: Any) -> None:
    out, moments = tmp_path / "out", random.Random(0)
    kills = 0
    for turn in range(6):
        child = os.fork()
        if child == 0:
            torch.set_num_threads(1)
            run(out, resume=turn > 0)
            os._exit(0)
        time.sleep(moments.uniform(0.02, 0.4))
        os.kill(child, signal.SIGKILL)
        kills += os.WIFSIGNALED(os.waitpid(child, 0)[1])
    assert kills
    check_goes_on(out, whole)


@pytest.mark.usefixtures("no_picture")
def test_half_precision_goes_on_from_its_masters(tmp_path: Path) -> None:
    out = tmp_path / "out"
    stop = lambda done, total, text: kill() if done == 9 else None  # noqa: E731
    assert in_a_process(lambda: run(out, dtype="bfloat16", progress=stop)) == signal.SIGKILL
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
