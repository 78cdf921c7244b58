"""Progress on stderr: a bar of tqdm's on a terminal, without tqdm one line that rewrites itself, and elsewhere a line
now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from farspan.lab.progress import Progress

SECONDS_BETWEEN_LINES = 20.0


@contextmanager
def progress_on_stderr(what: str, unit: str = "token") -> Iterator[Progress]:
    """What long computations may call; `what` is done meanwhile, counted in `unit`s. What stands on the terminal's line
    goes at the end."""
    shown = _Lines(what) if not sys.stderr.isatty() else _bar_or_line(what, unit)
    try:
        yield shown
    finally:
        shown.close()


def _bar_or_line(what: str, unit: str) -> _Bar | _RewrittenLine:
    try:
        import tqdm
    except ImportError:
        return _RewrittenLine(what)
    return _Bar(what, unit, tqdm.tqdm)


class _Bar:
    def __init__(self, what: str, unit: str, tqdm: Any) -> None:
        self._what, self._unit, self._tqdm = what, unit, tqdm
        self._bar: Any = None

    def __call__(self, done: int, total: int, next_step: str) -> None:
        if self._bar is not None and self._bar.total != total:  # something else has begun
            self.close()
            self._bar = None
        if self._bar is None:
            self._bar = self._tqdm(
                desc=self._what, total=total, initial=done, unit=self._unit, unit_scale=True, leave=False,
                dynamic_ncols=True, file=sys.stderr,
            )  # fmt: skip
        self._bar.set_postfix_str(next_step, refresh=False)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


class _Lines:
    """A line every twenty seconds, for logs."""

    def __init__(self, what: str) -> None:
        self._what, self._total = what, 0
        self._started = self._last = time.monotonic()
        self._first = 0

    def __call__(self, done: int, total: int, next_step: str) -> None:
        now = self._now(done, total)
        if now - self._last >= SECONDS_BETWEEN_LINES:
            self._last = now
            print(self._text(now, done, total, next_step), file=sys.stderr, flush=True)

    def _now(self, done: int, total: int) -> float:
        """The time. Another total is something else, which begins now. What was done before, by a run that was stopped,
        says nothing of how fast this one is."""
        now = time.monotonic()
        if self._total != total:
            self._started, self._first, self._total = now, done, total
        return now

    def _text(self, now: float, done: int, total: int, next_step: str) -> str:
        taken = done - self._first
        left = f", about {_duration((now - self._started) / taken * (total - done))} left" if taken > 0 else ""
        return f"{self._what}: {100 * done // max(1, total)} %, {next_step}{left}"

    def close(self) -> None:
        """Lines stay."""


class _RewrittenLine(_Lines):
    """One line of a terminal, for a machine without tqdm."""

    def __call__(self, done: int, total: int, next_step: str) -> None:
        sys.stderr.write("\r\x1b[K" + self._text(self._now(done, total), done, total, next_step))
        sys.stderr.flush()

    def close(self) -> None:
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()


def _duration(seconds: float) -> str:
    """Two units at most: `2 h 5 min`."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
