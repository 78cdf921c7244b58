"""What a run of compute-sanitizer counts as: it never passes silently."""

from __future__ import annotations

import pytest
from support.sanitizer import verdict

RAN = "ran: attention\n"
SUMMARY = "========= ERROR SUMMARY: 0 errors\n"
INVALID = "========= Invalid __global__ read of size 4 bytes\n"

RUNS = {
    "clean": (RAN + "every kernel ran\n" + SUMMARY, 0, True, ""),
    "an access": (RAN + INVALID, 9, False, "Invalid __global__ read"),
    "an access before the limit": (RAN + INVALID, None, False, "Invalid __global__ read"),
    "a call that failed": (RAN + "RuntimeError: no\n" + SUMMARY, 1, False, "RuntimeError"),
    "the limit": (RAN + RAN, None, None, "not through after 25 s; 2 calls ran, and it found nothing"),
    "a machine that refuses": ("========= Error: Device not supported\n", 1, None, "Device not supported"),
    "nothing at all": ("", 0, None, "does not work on this machine"),
    "an end before the end": (RAN + SUMMARY, 0, False, "ERROR SUMMARY"),
}


@pytest.mark.parametrize(("output", "exit_code", "clean", "words"), RUNS.values(), ids=RUNS)
def test_a_run_is_clean_only_if_it_says_so(output: str, exit_code: int | None, clean: bool | None, words: str) -> None:
    found, why = verdict(output, exit_code, 25.0)
    assert found is clean
    assert words in why
