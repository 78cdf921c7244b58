"""Trials side by side, each in a process of its own with a share of the cores."""

from __future__ import annotations

import functools
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from farspan._errors import Error
from farspan.lab.extrapolation.folder import Folder
from farspan.lab.extrapolation.settings import Trial

Report = Callable[[Trial, int, int, str], object]
"""Is told of a trial: steps done, steps in all, what comes now."""

PROGRAM = "from farspan.lab.extrapolation.workers import work; work()"
"""What a worker's process runs. It knows nothing of the program that asked for it, and does not run it again."""


class Job(NamedTuple):
    """What a worker is given."""

    trial: Trial
    folder: Folder
    threads: int
    device: str


class Progress(NamedTuple):
    """What a worker says of the job that it has."""

    done: int
    steps: int
    what: str


FINISHED = "finished"


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_all(trials: Sequence[Trial], folder: Folder, workers: int, threads: int, device: str, report: Report) -> None:
    """Runs the trials and keeps their results. One worker is this very process."""
    if workers == 1:
        for trial in trials:
            _run(Job(trial, folder, threads, device), functools.partial(report, trial))
        return
    left = deque(Job(trial, folder, threads, device) for trial in trials)
    heard: queue.Queue[tuple[_Worker, Any]] = queue.Queue()
    crew = [_Worker(heard) for _ in range(min(workers, len(trials)))]
    try:
        for worker in crew:
            worker.take(left.popleft())
        busy = len(crew)
        while busy:
            worker, said = heard.get()
            if isinstance(said, Progress):
                report(worker.job.trial, *said)
            elif said != FINISHED:
                raise said if isinstance(said, Error) else Error(f"{worker.job.trial.name}: {said}")
            elif left:
                worker.take(left.popleft())
            else:
                busy -= 1
    finally:
        for worker in crew:
            worker.end()


class _Worker:
    """A process that does jobs, one after the other. What it says goes to a queue."""

    job: Job

    def __init__(self, heard: queue.Queue[tuple[_Worker, Any]]) -> None:
        environment = dict(os.environ, PYTHONPATH=os.pathsep.join(path for path in sys.path if path))
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
        self._heard = heard
        threading.Thread(target=self._listen, daemon=True).start()

    def take(self, job: Job) -> None:
        self.job = job
        assert self._process.stdin is not None
        try:
            pickle.dump(job, self._process.stdin)
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended, which the other thread tells

    def _listen(self) -> None:
        try:
            while True:
                assert self._process.stdout is not None
                self._heard.put((self, pickle.load(self._process.stdout)))
        except (EOFError, OSError, pickle.UnpicklingError):
            self._heard.put((self, f"its process ended with exit code {self._process.wait()}"))
        except Exception as error:  # what it said cannot be read here: a class that is not there
            self._heard.put((self, f"{type(error).__name__}: {error}"))

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


def work() -> None:
    """What a worker's process does. It ends when nobody is there to give it jobs: orphans must not go on writing."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one that gives jobs, and ends this one
    jobs: queue.Queue[Job] = queue.Queue()
    said, sys.stdout = sys.stdout.buffer, sys.stderr  # what a scheme of somebody's own prints is no message
    threading.Thread(target=_receive, args=(jobs,), daemon=True).start()

    def say(message: Any) -> None:
        pickle.dump(message, said)
        said.flush()

    while True:
        try:
            _run(jobs.get(), lambda done, steps, what: say(Progress(done, steps, what)))
            say(FINISHED)
        except Exception as error:
            say(error if isinstance(error, Error) else f"{type(error).__name__}: {error}")


def _receive(jobs: queue.Queue[Job]) -> None:
    try:
        while True:
            jobs.put(pickle.load(sys.stdin.buffer))
    except EOFError:
        os._exit(1)


def _run(job: Job, report: Callable[[int, int, str], Any]) -> None:
    import torch

    from farspan.lab.extrapolation.trial import run_trial

    before = torch.get_num_threads()
    torch.set_num_threads(job.threads)
    try:
        job.folder.keep(job.trial, run_trial(job.trial, job.folder.checkpoint(job.trial), report, job.device))
    finally:
        torch.set_num_threads(before)
