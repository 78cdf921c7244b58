"""`log.jsonl`: a line for each step, only ever appended to, and cut where a run goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from farspan._errors import Error, message


class Log:
    """A log that one process writes. Error: another process does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - as long as the run
        try:
            _lock(self._file.fileno())
        except BlockingIOError:
            self._file.close()
            raise Error(message("out", "a folder that no other process trains into", path.parent)) from None

    def append(self, line: Mapping[str, Any]) -> None:
        """By one call of the system: a kill leaves the line whole, or not at all, or torn off at the log's end."""
        self._file.write((json.dumps(line, allow_nan=False) + "\n").encode())

    def lines(self) -> list[dict[str, Any]]:
        """What is in it so far."""
        return [line for line, _ in _read(self.path)]

    def cut(self, step: int) -> None:
        """Forgets what was logged after a step. Error: steps before it are missing."""
        kept = [(line, end) for line, end in _read(self.path) if line["step"] <= step]
        if [line["step"] for line, _ in kept] != list(range(1, step + 1)):
            raise Error(message(str(self.path), f"steps 1 to {step}, as the checkpoint says", f"{len(kept)} lines"))
        self._file.truncate(kept[-1][1] if kept else 0)

    def to_disk(self) -> None:
        """Waits until a loss of power would leave what was appended."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Another process may write now."""
        self._file.close()


def _read(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """The lines and where each ends, up to one that a kill has torn."""
    end = 0
    for line in path.read_bytes().splitlines(keepends=True):
        end += len(line)
        if not line.endswith(b"\n"):
            return
        try:
            yield json.loads(line), end
        except ValueError:
            return


def _lock(file: int) -> None:
    """BlockingIOError: another process has locked the file. Some network file systems have no locks."""
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        pass
