"""Attention without the score matrix, sampling without the logits, and a measure of how far a model generalises.

Needs NumPy only; names that need torch (`Transformer`, `load_embedded`, ...) import it when they are first used.
"""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from farspan._backend.threads import get_num_threads, set_num_threads
from farspan._errors import ArgumentError, BackendError, CheckpointError, DtypeError, Error, missing_package
from farspan.attention import DistanceBias, Rotary, attention
from farspan.linear import linear
from farspan.loss import divergence, linear_cross_entropy
from farspan.parallel.vocabulary import VocabularyShard, vocabulary_ranges
from farspan.statistics import AttentionStatistics, attention_statistics
from farspan.unembed import FLAG_EMPTY, FLAG_NAN, Sample, Score, Top, greedy, sample, score, top
from farspan.verify import Verified, verify

if TYPE_CHECKING:
    from farspan import positions, reference
    from farspan.embedded import load_embedded
    from farspan.inside import Lens, Translators, attribution, lens, train_lens
    from farspan.lab.measure import measure
    from farspan.loading import load
    from farspan.model import Cache, Completion, Config, Transformer
    from farspan.model.generation.conversation import Conversation
    from farspan.model.generation.text import TextCompletion, generate_text
    from farspan.reference import sampler as reference_sampler

try:
    __version__ = version("farspan")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

_LAZY = {
    "Cache": "farspan.model",
    "Completion": "farspan.model",
    "Config": "farspan.model",
    "Conversation": "farspan.model.generation.conversation",
    "Lens": "farspan.inside",
    "TextCompletion": "farspan.model.generation.text",
    "Transformer": "farspan.model",
    "Translators": "farspan.inside",
    "generate_text": "farspan.model.generation.text",
    "attribution": "farspan.inside",
    "lens": "farspan.inside",
    "load": "farspan.loading",
    "load_embedded": "farspan.embedded",
    "measure": "farspan.lab.measure",
    "positions": "farspan",
    "reference": "farspan",
    "reference_sampler": "farspan.reference",
    "train_lens": "farspan.inside",
}
"""Names that need torch, and the packages that have them."""
_MODULES = {"positions": "positions", "reference": "reference", "reference_sampler": "sampler"}
"""Those of them that are modules, and what these are called there."""

__all__ = [
    "FLAG_EMPTY", "FLAG_NAN", "ArgumentError", "AttentionStatistics", "BackendError", "Cache", "CheckpointError",
    "Completion", "Config", "Conversation", "DistanceBias", "DtypeError", "Error", "Lens", "Rotary", "Sample", "Score",
    "TextCompletion", "Top", "Transformer", "Translators", "Verified", "VocabularyShard", "attention",
    "attention_statistics", "attribution", "divergence", "generate_text",
    "get_num_threads", "greedy", "lens", "linear", "linear_cross_entropy", "load", "load_embedded", "measure",
    "positions", "reference", "reference_sampler", "sample", "score", "set_num_threads", "top", "train_lens",
    "verify", "vocabulary_ranges",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'farspan' has no attribute {name!r}")
    try:
        if name in _MODULES:
            value: Any = importlib.import_module(f"{_LAZY[name]}.{_MODULES[name]}")
        else:
            value = getattr(importlib.import_module(_LAZY[name]), name)
    except ModuleNotFoundError as missing:
        if (missing.name or "farspan").startswith("farspan"):
            raise
        raise missing_package(f"farspan.{name}", str(missing.name)) from missing
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
