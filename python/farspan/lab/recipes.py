"""Extrapolations by name: what a paper measured, at a size for a processor and at one for a GPU, with its figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Figures = Mapping[str, Mapping[str, float]]
"""Of each task, percent by scheme."""


@dataclass(frozen=True)
class Recipe:
    """One extrapolation or several, for one question."""

    what: str
    tasks: tuple[str, ...]
    common: Mapping[str, Any]
    """settings of `farspan.lab.extrapolation.Settings` that all of them have"""
    source: str
    """of the published figures, and how they were made"""
    published: Figures
    """mean accuracy beyond the trained length, in percent, where a table has it"""
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"": {}})
    """by name, what each extrapolation of a task has otherwise"""

    @property
    def runs(self) -> dict[str, tuple[str, Mapping[str, Any]]]:
        """By the name of its folder, the task of each extrapolation and its settings."""
        return {
            f"{task}-{variant}" if variant else task: (task, {**self.common, **changes})
            for task in self.tasks for variant, changes in self.variants.items()
        }  # fmt: skip


RUOSS = (
    "Ruoss et al. 2023, table 1: 2 million steps, mean accuracy over lengths 41 to 500, the best of 10 seeds and 3 "
    "learning rates"
)
RUOSS_TABLE: Figures = {
    "even_pairs": {"none": 50.4, "alibi": 67.3, "rope": 51.0, "random-relative": 100.0, "random-rope": 100.0},
    "stack_manipulation": {"none": 50.3, "alibi": 57.5, "rope": 51.2, "random-relative": 77.9, "random-rope": 68.2},
    "reverse_string": {"none": 52.8, "alibi": 62.3, "rope": 51.9, "random-relative": 95.1, "random-rope": 69.9},
    "missing_duplicate_string": {
        "none": 52.5, "alibi": 54.3, "rope": 56.5, "random-relative": 100.0, "random-rope": 88.7,
    },
    "odds_first": {"none": 52.8, "alibi": 51.4, "rope": 51.3, "random-relative": 69.3, "random-rope": 65.6},
    "bucket_sort": {"none": 23.7, "alibi": 38.8, "rope": 30.6, "random-relative": 100.0, "random-rope": 99.6},
}  # fmt: skip
SOFTMAX = (
    "Velickovic et al. 2024, one head and levels drawn evenly: 98.6 % at 16 items, 94.3 at 64, 81.3 at 256, 53.8 at "
    "1024, 22.6 at 4096, 12.4 at 16384"
)
DECODERS = (
    "Kazemnejad et al. 2023: NoPE before ALiBi before RoPE, by mean reciprocal rank over ten tasks. Jelassi et al. "
    "2024: Hard-ALiBi copies 95 % at twenty times the trained length. Both count whole outputs"
)

COUPLING = (
    "Cho et al. 2024: one layer of width 1024 with coupled positions, 50,000 steps of 1000 sums of up to 30 digits: "
    "more than 95 % of sums of 200 digits all right"
)


def _e1(**size: Any) -> Recipe:
    what = "six tasks of the Chomsky hierarchy, read by encoders"
    return Recipe(what, tuple(RUOSS_TABLE), size, RUOSS, RUOSS_TABLE)


def _e2(**size: Any) -> Recipe:
    what = "the class of the highest item among many, of ten levels and of a hundred: softmax loses its sharpness"
    schemes = ("none", "rope", "logn", "ssmax")
    common = {"schemes": schemes, "train_length": 16, "layers": 1, "heads": 1, "width": 128, "reading": "slots"}
    return Recipe(what, ("max_retrieval", "fine_max_retrieval"), {**common, **size}, SOFTMAX, {})


def _e3(**size: Any) -> Recipe:
    schemes = ("rope", "nope", "alibi", "hard-alibi", "kerple", "random-rope")
    common = {"schemes": schemes, "train_length": 20, "test_lengths": (20, 40, 100, 200)}
    return Recipe("copying and sorting, by decoders", ("copy", "sort_integers"), {**common, **size}, DECODERS, {})


def _e4(**size: Any) -> Recipe:
    common = {"schemes": ("coupled", "nope", "random-rope"), "train_length": 30, "layers": 1, "heads": 4}
    return Recipe("sums of long numbers, by decoders", ("addition",), {**common, **size}, COUPLING, {})


TOLD: Mapping[str, Mapping[str, Any]] = {
    "coupled": {"schemes": ("coupled", "coupled-alibi", "coupled-random", "coupled-random-ssmax"), "steps": 500},
}
"""The run whose models are told which tokens belong together; so many steps are all that they need."""


def _beyond(task: str, more: Mapping[str, Mapping[str, Any]] | None = None, **size: Any) -> Recipe:
    """What may go further than the paper did: sharper queries, a decoder without positions, forget gates, and other
    shapes with about as many parameters; and `more` runs."""
    what = f"{task} beyond the paper: learned scales, decoders, width against depth"
    sharper = ("random-relative", "random-relative-ssmax", "random-relative-logn", "random-rope-ssmax")
    shape: dict[str, Any] = {"schemes": ("random-relative", "random-relative-ssmax")}
    variants: dict[str, Mapping[str, Any]] = {
        "slots": {"schemes": sharper},
        "causal": {"schemes": ("nope", "nope-ssmax", "forgetting", "random-relative-ssmax"), "reading": "causal"},
        "wide": {**shape, "layers": 2, "width": 96},
        "deep": {**shape, "layers": 9, "width": 48},
    }
    variants |= more or {}
    return Recipe(what, (task,), {"train_length": 40, **size}, RUOSS, RUOSS_TABLE, variants)


def _sharp(**size: Any) -> Recipe:
    """Maxima among 64 times as many items."""
    common = {"train_length": 16, "layers": 1, "heads": 1, "width": 128, "test_lengths": (16, 64, 256, 1024)}
    variants: dict[str, dict[str, Any]] = {
        "slots": {"schemes": ("none", "nope-ssmax", "ssmax", "logn-learned"), "reading": "slots"},
        "causal": {"schemes": ("none", "nope-ssmax", "forgetting"), "reading": "causal"},
        "deep": {"schemes": ("nope-ssmax",), "reading": "slots", "layers": 3},
    }
    what = "fine_max_retrieval at 64 times the trained length: learned scales of queries"
    return Recipe(what, ("fine_max_retrieval",), {**common, **size}, SOFTMAX, {}, variants)


CPU_LENGTHS = (40, 64, 100, 200, 400)
GPU_LENGTHS = (40, 50, 64, 80, 100, 150, 200, 300, 400, 500)
RUOSS_GPU: Mapping[str, Any] = {
    "steps": 100_000, "batch": 128, "learning_rates": (1e-4, 3e-4, 5e-4), "examples": 512, "test_lengths": GPU_LENGTHS,
}  # fmt: skip
"""the size of the paper, in a twentieth of its steps"""
ITEMS = (16, 64, 256, 1024, 4096)

RECIPES: dict[str, Recipe] = {
    "sort": Recipe(
        "bucket_sort in ten minutes of a processor: RoPE fails, random relative positions generalise",
        ("bucket_sort",),
        {"schemes": ("rope", "random-relative"), "steps": 800, "seeds": 1, "examples": 64},
        RUOSS,
        RUOSS_TABLE,
    ),
    "e1": _e1(steps=10_000, test_lengths=CPU_LENGTHS),
    "e1-gpu": _e1(**RUOSS_GPU, seeds=10),
    "e2": _e2(steps=5000, test_lengths=ITEMS),
    "e2-gpu": _e2(steps=50_000, batch=128, seeds=10, examples=512, test_lengths=(*ITEMS, 16384)),
    "e3": _e3(steps=5000, layers=4, width=128),
    "e3-gpu": _e3(steps=50_000, layers=6, width=256, batch=128, seeds=5),
    "e4": _e4(steps=10_000, width=256, test_lengths=(30, 50, 100, 200)),
    "e4-gpu": _e4(
        steps=50_000, width=1024, batch=1000, seeds=4, learning_rates=(1e-4,), test_lengths=(30, 50, 100, 150, 200)
    ),
    "reverse": _beyond("reverse_string", TOLD, steps=10_000, test_lengths=CPU_LENGTHS),
    "reverse-gpu": _beyond("reverse_string", TOLD, **RUOSS_GPU, seeds=5),
    "stack": _beyond("stack_manipulation", steps=10_000, test_lengths=CPU_LENGTHS),
    "stack-gpu": _beyond("stack_manipulation", **RUOSS_GPU, seeds=5),
    "max": _sharp(steps=5000),
    "max-gpu": _sharp(steps=50_000, batch=128, seeds=10, examples=512),
}
