"""Progress on stderr: a bar on a terminal, one line without tqdm, and a line now and then in a log."""

from __future__ import annotations

import io
import sys

import pytest

from farspan.commands import progress
from farspan.commands.demo import speed_summary


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sys, "stderr", stream)
    with progress.progress_on_stderr("measuring") as tell:
        for done in range(0, 1001, 250):
            tell(done, 1000, f"yarn at {done}")
    return stream.getvalue()


def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(io.StringIO(), monkeypatch) == ""
    clock = iter(range(0, 10_000, 15))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    lines = shown(io.StringIO(), monkeypatch).splitlines()
    assert lines == [
        "measuring: 25 %, yarn at 250, about 45 s left", "measuring: 75 %, yarn at 750, about 15 s left"
    ]  # fmt: skip


def test_a_terminal_gets_a_bar_of_tqdm(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tqdm")
    text = shown(Terminal(), monkeypatch)
    assert "measuring" in text
    assert "1.00k" in text


def test_without_tqdm_a_terminal_gets_one_line_that_is_gone_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    text = shown(Terminal(), monkeypatch)
    assert "measuring: 50 %, yarn at 500" in text
    assert "\n" not in text
    assert text.endswith("\r\x1b[K")


@pytest.mark.parametrize("fails", [KeyboardInterrupt, ValueError])
def test_the_line_is_gone_after_a_failure_too(fails: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setattr(sys, "stderr", Terminal())

    def fail_in_the_middle() -> None:
        with progress.progress_on_stderr("measuring") as tell:
            tell(1, 2, "yarn")
            raise fails

    with pytest.raises(fails):
        fail_in_the_middle()
    assert sys.stderr.getvalue().endswith("\r\x1b[K")


def test_another_total_begins_anew_and_what_was_done_before_says_nothing_of_the_time_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    clock = iter(range(0, 10_000, 30))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    with progress.progress_on_stderr("extending") as tell:
        tell(50, 100, "yarn at 256")
        tell(4, 8, "loss 2.0")
        tell(5, 8, "loss 1.9")
    assert stream.getvalue().splitlines() == [
        "extending: 50 %, yarn at 256", "extending: 50 %, loss 2.0", "extending: 62 %, loss 1.9, about 90 s left",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "said"), [(99.4, "99 s"), (100.0, "2 min"), (5_900.0, "98 min"), (7_500.0, "2 h 5 min")]
)
def test_times_are_said_in_units_that_fit(seconds: float, said: str) -> None:
    assert progress._duration(seconds) == said


def test_a_bar_of_tqdm_is_one_of_each_total(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tqdm")
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with progress.progress_on_stderr("extending") as tell:
        tell(90, 100, "yarn")
        tell(1, 8, "loss")
    assert "/8.00" in stream.getvalue()


# -------------------------------------------------------------------------------------------------------- speed in demo


def test_speed_is_told_with_its_spread() -> None:
    said = speed_summary([200, 210, 190], [100, 100, 100], waiting=0.5, cores=2)
    assert "2.00 times as fast" in said
    assert "(1.90 to 2.10 over the rounds)" in said


@pytest.mark.parametrize(
    ("theirs", "waiting", "word"), [([100, 5, 100], 0.5, "noisy"), ([100, 100, 100], 6.0, "busy")]
)  # fmt: skip
def test_a_noisy_or_busy_machine_gives_no_figure(theirs: list[float], waiting: float, word: str) -> None:
    said = speed_summary([200, 210, 190], theirs, waiting=waiting, cores=2)
    assert word in said
    assert "times as fast" not in said
