"""Steps of a check on a machine that is lent for minutes: one after the other, each in a process of its own and with a
limit, and every result is in a file before the next one begins."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BROKEN = re.compile(
    r"illegal memory access|misaligned address|unspecified launch failure|device-side assert|illegal instruction"
    r"|cannot use this GPU any more|Invalid __(?:global|shared|local)__ (?:read|write)"
)
"""What is said of a kernel after which no other result counts."""
KERNEL = re.compile(r"\b(?:attention|loss|unembed|probe)_[a-z0-9_]+\b")
LAUNCH = re.compile(r"to launch (\w+)")
TEST_RESULT = r"::.* (PASSED|FAILED|ERROR|SKIPPED)"
GRACE_S = 15.0
"""How long a process may go on to tell what it knows of a broken kernel."""
TAIL = 60
"""Lines of a step's output that are kept."""


@dataclass(frozen=True)
class Step:
    """One process."""

    name: str
    command: Sequence[str]
    limit_s: float
    environment: dict[str, str] = field(default_factory=dict)
    keeps: str = TEST_RESULT
    """Which lines of its output are results: each is written down as it comes."""


@dataclass
class Done:
    """What became of a step: "passed", "failed", "timed out", "broken", or "no time" where none was left for it."""

    step: str
    state: str
    seconds: float = 0.0
    exit_code: int | None = None
    counts: dict[str, int] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    kernel: str | None = None
    """The kernel that broke."""
    tail: list[str] = field(default_factory=list)


class Record:
    """A file of JSON lines; each is on the disk before anything else happens."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")

    def write(self, **entry: Any) -> None:
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def run_steps(steps: Sequence[Step], record: Record, total_s: float) -> list[Done]:
    """All steps, as long as there is time and no kernel is broken."""
    ends, found = time.monotonic() + total_s, []
    for step in steps:
        left = ends - time.monotonic()
        done = run_step(step, record, min(step.limit_s, left)) if left > 0 else Done(step.name, "no time")
        found.append(done)
        record.write(**vars(done))
        print(f"{done.state:<10} {done.step:<12} {done.seconds:6.1f} s  {_counted(done)}", flush=True)
        if done.state == "broken":
            break
    return found


def run_step(step: Step, record: Record, limit_s: float) -> Done:
    """One step; whatever is left of its processes at the limit is ended."""
    record.write(begins=step.name, command=list(step.command), limit_s=limit_s)
    began, keeps = time.monotonic(), re.compile(step.keeps)
    environment = os.environ | step.environment
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "start_new_session": True}
    process = subprocess.Popen(step.command, env=environment, text=True, errors="replace", **options)
    limit = _EndsAt(process, limit_s)
    done = Done(step.name, "passed")
    counts: Counter[str] = Counter()
    tail: deque[str] = deque(maxlen=TAIL)
    broken: list[str] = []
    try:
        assert process.stdout is not None
        for line in map(str.rstrip, process.stdout):
            tail.append(line)
            result = keeps.search(line)
            if result:
                record.write(step=step.name, line=line, seconds=round(time.monotonic() - began, 3))
                if result.lastindex:
                    counts[result[1].lower()] += 1
                    if result[1] in ("FAILED", "ERROR"):
                        done.failed.append(line.split()[0])
            if broken or BROKEN.search(line):
                if not broken:
                    limit.at_most(GRACE_S)
                broken.append(line)
        done.exit_code = process.wait()
    finally:  # also where the user has seen enough
        limit.cancel()
        _end(process)
    done.seconds = round(time.monotonic() - began, 3)
    done.counts, done.tail = dict(counts), list(tail)
    if broken:
        done.state, done.kernel = "broken", _kernel(broken, tail)
    elif limit.passed:
        done.state = "timed out"
    elif done.exit_code != 0:
        done.state = "failed"
    return done


class _EndsAt:
    """Ends a process at a limit, which can be brought forward."""

    def __init__(self, process: subprocess.Popen[str], seconds: float) -> None:
        self.passed = False
        self._process, self._ends = process, time.monotonic() + seconds
        self._timer = self._started(seconds)

    def at_most(self, seconds: float) -> None:
        self._timer.cancel()
        self._timer = self._started(min(seconds, max(0.0, self._ends - time.monotonic())))

    def cancel(self) -> None:
        self._timer.cancel()

    def _started(self, seconds: float) -> threading.Timer:
        timer = threading.Timer(seconds, self._pass)
        timer.daemon = True
        timer.start()
        return timer

    def _pass(self) -> None:
        self.passed = True
        _end(self._process)


def _end(process: subprocess.Popen[str]) -> None:
    """The process and all that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _kernel(broken: Sequence[str], tail: Sequence[str]) -> str | None:
    """The kernel whose launch failed, else the first one named since."""
    for pattern in (LAUNCH, KERNEL):
        for line in (*broken, *tail):
            found = pattern.search(line)
            if found:
                return found[found.lastindex or 0]
    return None


def _counted(done: Done) -> str:
    text = ", ".join(f"{count} {state}" for state, count in done.counts.items())
    return text + (f"; kernel {done.kernel or 'unknown'}" if done.state == "broken" else "")
