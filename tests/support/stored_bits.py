"""Digests of the results of every operation: `tests/unit/test_stored_bits.py` compares them with the stored ones.

A change of how something is computed must not change a bit of what it gives. Inputs are made of integers that are
hashed here, so that no version of another library moves them. After a change of what an operation means, write the file
anew and look at which lines differ:

    PYTHONPATH=tests .venv/bin/python -m support.stored_bits
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

import farspan

FILE = Path(__file__).resolve().parents[1] / "data" / "stored_bits.json"
ABOUT = "Digests of results. PYTHONPATH=tests .venv/bin/python -m support.stored_bits writes them, no test does."
DTYPES: dict[str, Any] = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
DIGITS = 8
"""Hexadecimal digits that are kept of a digest."""

SAMPLE = (
    "token", "logprob", "raw_logprob", "lse", "flag", "rank", "logit", "kept", "kept_mass", "entropy", "top_token",
    "top_logprob",
)  # fmt: skip
"""The fields of `farspan.Sample` that are digested, so that a new one changes no digest."""


class Numbers:
    """Numbers that depend on a label and on nothing else."""

    def __init__(self, label: str) -> None:
        self._label = label

    def _hashed(self, what: str, count: int) -> np.ndarray:
        """uint64 `[count]`: SplitMix64 (Steele et al. 2014) from a place that the labels choose."""
        start = np.uint64(zlib.crc32(f"{self._label}: {what}".encode())) << np.uint64(32)
        x = (start + np.arange(count, dtype=np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))

    def normal(self, what: str, *shape: int, step: float = 2.0**-15) -> np.ndarray:
        """float32, the sum of four even numbers: within four of zero, exact multiples of `step`."""
        words = self._hashed(what, int(np.prod(shape, dtype=np.int64))).view(np.uint16).reshape(-1, 4)
        total = words.astype(np.int64).sum(1) - 2 * 65535
        return (np.rint(total * 2.0**-15 / step) * step).astype(np.float32).reshape(shape)

    def integers(self, what: str, low: int, high: int, *shape: int) -> np.ndarray:
        """int64 from `low` to `high - 1`."""
        words = self._hashed(what, int(np.prod(shape, dtype=np.int64))) % np.uint64(high - low)
        return (words.astype(np.int64) + low).reshape(shape)

    def some(self, what: str, one_in: int, *shape: int) -> np.ndarray:
        """bool, true once in so many."""
        return self.integers(what, 0, one_in, *shape) == 0


@dataclass(frozen=True)
class Case:
    """A call and its name."""

    operation: str
    name: str
    run: Callable[[Numbers], Any]
    emulated: bool = False
    """Whether it is of the smaller share that runs on the emulated CUDA kernels too."""

    def digest(self) -> str:
        """Of what the call gives now."""
        state = hashlib.sha256()
        for x in _arrays(self.run(Numbers(f"{self.operation}: {self.name}"))):
            state.update(f"{x.dtype.name}{list(x.shape)}".encode())
            state.update(np.ascontiguousarray(x).tobytes())
        return state.hexdigest()[:DIGITS]


def _arrays(found: Any) -> Iterator[np.ndarray]:
    if isinstance(found, farspan.Sample):
        found = [getattr(found, name) for name in SAMPLE]
    if isinstance(found, (tuple, list)):
        for part in found:
            yield from _arrays(part)
    elif found is not None:
        yield np.asarray(found)


def cases() -> dict[str, list[Case]]:
    """All of them, by operation."""
    from support import stored_attention, stored_rows, stored_unembed

    every: dict[str, list[Case]] = {}
    for module in (stored_attention, stored_unembed, stored_rows):
        for case in module.cases():
            every.setdefault(case.operation, []).append(case)
    return every


def stored(backend: str) -> dict[str, dict[str, str]]:
    """The digests of a backend by operation and name: "cpu" for every instruction set, or "emulated"."""
    found: dict[str, dict[str, str]] = json.loads(FILE.read_text())[backend]
    return found


def write() -> None:
    """The file anew, from what this machine's instruction set and the emulator give."""
    from support.emulated import emulated_kernels

    digests: dict[str, Any] = {"about": ABOUT}
    every = cases()
    digests["cpu"] = {name: {c.name: c.digest() for c in found} for name, found in every.items()}
    with emulated_kernels():
        shares = {name: [c for c in found if c.emulated] for name, found in every.items()}
        digests["emulated"] = {name: {c.name: c.digest() for c in found} for name, found in shares.items() if found}
    FILE.write_text(json.dumps(digests, indent=0) + "\n")


if __name__ == "__main__":
    write()
