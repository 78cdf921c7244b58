"""Runs of training that die where a test says, each in a process of its own.

A copy of the tests' process would not do: a copy has none of the threads that torch has started, and torch refuses or
waits for them. The processes are copies of a server that has imported this file and computed nothing.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from farspan import _files, _pictures
from farspan.model import Transformer, checkpoint, state_file
from farspan.training import fit, folder
from support.training import RECIPE, documents, learner

DOCUMENTS, HELD_OUT = documents(), documents(5, seed=1)


def run(out: Path | None, resume: bool = False, dtype: str = "float32", **options: Any) -> Transformer:
    model = learner(dtype)
    fit(model, DOCUMENTS, RECIPE, out, resume, validation=HELD_OUT, **options)
    return model


def run_without_picture(out: Path, resume: bool = False, dtype: str = "float32", **options: Any) -> None:
    """Drawing takes longer than everything else."""
    folder._can_draw = lambda: False
    run(out, resume, dtype, **options)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def run_killed_after(out: Path, step: int, dtype: str = "float32") -> None:
    run_without_picture(out, dtype=dtype, progress=lambda done, total, text: kill() if done == step else None)


def run_killed_while_writing(out: Path, name: str, times: int, moment: str) -> None:
    """Dies before, in the middle of or behind the time numbered `times` that a file of this name is written."""
    left, counted = _files.replaced, 0

    class Dying:
        """`replaced`, until its time comes."""

        def __init__(self, path: Path) -> None:
            self.path, self.inner = path, left(path)

        def __enter__(self) -> Path:
            nonlocal counted
            self.beside = self.inner.__enter__()
            counted += self.path.name == name
            self.dies = self.path.name == name and counted == times
            if self.dies and moment == "before":
                kill()
            return self.beside

        def __exit__(self, *error: Any) -> Any:
            if self.dies and moment == "in the middle":
                content = self.beside.read_bytes()
                self.beside.write_bytes(content[: len(content) // 2])
                kill()
            self.inner.__exit__(*error)
            if self.dies:
                kill()

    folder.replaced = checkpoint.replaced = state_file.replaced = _pictures.replaced = Dying  # type: ignore[assignment]
    (run if name == "loss.png" else run_without_picture)(out)


def started(work: Callable[..., object], *arguments: object) -> ForkServerProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=work, args=arguments)
    process.start()
    return process


def signal_that_ended(work: Callable[..., object], *arguments: object) -> int:
    """Runs it in a process of its own; 0 where no signal ended that."""
    process = started(work, *arguments)
    process.join()
    assert process.exitcode is not None
    assert process.exitcode <= 0, "the run failed before it was killed"
    return -process.exitcode
