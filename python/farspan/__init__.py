"""Attention without the score matrix, sampling without the logits, and a measure of how far a model generalises.

Needs NumPy only; names that need torch (`Transformer`, `load_embedded`, ...) import it when they are first used.
"""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from farspan._errors import ArgumentError, BackendError, CheckpointError, DtypeError, Error
from farspan._threads import get_num_threads, set_num_threads
from farspan.attention import DistanceBias, Rotary, attention
from farspan.linear import linear
from farspan.parallel import VocabularyShard, vocabulary_ranges
from farspan.unembed import FLAG_EMPTY, FLAG_NAN, Sample, Score, Top, greedy, sample, score, top
from farspan.verify import Verified, verify

if TYPE_CHECKING:
    from farspan import positions, reference, reference_sampler
    from farspan.embedded import load_embedded
    from farspan.model import Cache, Completion, Config, Transformer

try:
    __version__ = version("farspan")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

_LAZY = {
    "Cache": "farspan.model",
    "Completion": "farspan.model",
    "Config": "farspan.model",
    "Transformer": "farspan.model",
    "load_embedded": "farspan.embedded",
    "positions": "",
    "reference": "",
    "reference_sampler": "",
}
"""Names that need torch, and the modules that have them; a name without a module is one itself."""

__all__ = [
    "FLAG_EMPTY", "FLAG_NAN", "ArgumentError", "BackendError", "Cache", "CheckpointError", "Completion", "Config",
    "DistanceBias", "DtypeError", "Error", "Rotary", "Sample", "Score", "Top", "Transformer", "Verified",
    "VocabularyShard", "attention", "get_num_threads", "greedy", "linear", "load_embedded", "positions", "reference",
    "reference_sampler", "sample", "score", "set_num_threads", "top", "verify", "vocabulary_ranges",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'farspan' has no attribute {name!r}")
    try:
        module = importlib.import_module(_LAZY[name] or f"farspan.{name}")
    except ModuleNotFoundError as missing:
        if (missing.name or "").startswith("farspan"):
            raise
        raise BackendError(
            f"farspan.{name}: expected {missing.name} to be installed, given no such module"
        ) from missing
    value = getattr(module, name) if _LAZY[name] else module
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
