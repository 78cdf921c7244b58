"""Run the emulated CUDA kernels under AddressSanitizer and UndefinedBehaviorSanitizer, and sum up.

    python tools/deep_checks.py

The kernels are built anew, with GCC, in a target folder of their own. A sanitizer ends the process at its first
finding: the test that ran then is the last one in the output.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from checks import ROOT, Step, summary

TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "sanitized"
EMULATOR = TARGET / "debug" / "deps" / "libfarspan_cuda_emulator.so"
TESTS = ["selftest", "emulated_probe", "emulated_attention", "emulated_sampler", "emulated_unembed"]
CARGO = ["cargo", "test", "-p", "farspan-cuda-emulator", "-p", "farspan-cuda", *(f"--test={name}" for name in TESTS)]
BUILD = {"FARSPAN_SANITIZE": "1", "CARGO_TARGET_DIR": str(TARGET)}
# The interpreter's memory, and stacks of threads that wait, hold what the search for leaks does not see.
RUN = {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"}


def runtimes() -> str:
    """The libraries that a process has to load first: what the emulator asks for, as the loader finds it."""
    lines = subprocess.run(["ldd", EMULATOR], check=True, capture_output=True, text=True).stdout.splitlines()
    paths = {line.split()[0].split(".")[0]: line.split()[2] for line in lines if "=> /" in line}
    # With libstdc++, or else an exception thrown before the interpreter loads it goes nowhere.
    return f"{paths['libasan']} {paths['libstdc++']}"


def main() -> int:
    build = Step("sanitized build", [*CARGO, "--no-run"], environment=BUILD)
    build.run()
    steps = [build]
    if build.ok:
        pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "emulated"]
        python = BUILD | RUN | {"FARSPAN_EMULATOR": str(EMULATOR), "HYPOTHESIS_PROFILE": "deep"}
        python["LD_PRELOAD"] = runtimes()
        # For the tests alone: cargo and what it calls have no need of the runtime.
        runner = f"target.'cfg(all())'.runner = ['env', 'LD_PRELOAD={runtimes()}']"
        steps += [
            Step("Rust tests", [*CARGO, "--no-fail-fast", "--config", runner], "cargo", BUILD | RUN),
            Step("Python tests", [*pytest, "tests/property", "tests/integration/test_device.py"], "pytest", python),
        ]
        for step in steps[1:]:
            step.run()
    print(summary(steps), flush=True)
    return 0 if all(step.ok for step in steps) else 1


if __name__ == "__main__":
    sys.exit(main())
