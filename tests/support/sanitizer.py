"""What a run under compute-sanitizer says."""

from __future__ import annotations

import re

FINISHED = "every kernel ran"
FINDINGS = re.compile(r"^========= (Invalid|Misaligned|Race reported|Error: (?:Race|Potential))", re.MULTILINE)
LONGEST = 4000


def verdict(output: str, exit_code: int | None, limit_s: float) -> tuple[bool | None, str]:
    """True: clean; False: it found something, or the calls failed; None: it could not look. And why, in words.
    `exit_code` None: it was ended at the limit."""
    if FINDINGS.search(output):
        return False, output[-LONGEST:]
    if exit_code is None:
        ran = output.count("ran: ")
        return None, f"compute-sanitizer was not through after {limit_s:.0f} s; {ran} calls ran, and it found nothing"
    if exit_code == 0 and FINISHED in output:
        return True, ""
    if "ran: " not in output and "ERROR SUMMARY" not in output:
        words = [line for line in output.splitlines() if line.strip()]
        return None, f"compute-sanitizer does not work on this machine: {' '.join(words[-3:])[:300]}"
    return False, output[-LONGEST:]
