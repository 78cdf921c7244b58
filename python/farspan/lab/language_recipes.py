"""Extrapolations on language by name: what papers measured, at a size for a processor and at one for a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Figures = Mapping[float, float]
"""Perplexity by the factor of the trained length."""


@dataclass(frozen=True)
class LanguageRecipe:
    """One extrapolation on language, for one question."""

    what: str
    common: Mapping[str, Any]
    """settings of `farspan.lab.language.Settings`"""
    source: str
    """of the published figures, and how they were made"""
    growth: Mapping[str, Figures]
    """of each name, the perplexities of a paper"""
    needles: Mapping[str, float] = field(default_factory=dict)
    """of each name, the percent of needles that a paper found at twice the trained length"""


CURVES = (
    "Zheng et al. 2024 (DAPE V2): 125M parameters, trained on 512 tokens, the last 256 scored, for rope, nope and "
    "kerple. Press et al. 2022 (ALiBi): 247M, 512 tokens of WikiText-103, windows that do not overlap, which alone "
    "makes a curve fall, at 1012 and 8512 tokens, for alibi"
)
CURVE_FIGURES: Mapping[str, Figures] = {
    "rope": {1: 4.57, 2: 86.2, 4: 237.7, 8: 256.1},
    "nope": {1: 5.10, 2: 42.3},
    "kerple": {1: 4.57, 2: 4.37, 4: 5.09, 8: 6.80, 16: 9.08},
    "alibi": {1: 19.73, 2: 18.73, 16: 18.34},
}
EXTENDED = (
    "Zhu et al. 2024 (PoSE), table 6: Llama 7B on GovReport at 2k, 4k, 8k and 16k tokens, 1000 steps on 2k (pose) or "
    "on the whole length (yarn)"
)
EXTENDED_FIGURES: Mapping[str, Figures] = {
    "linear, zero-shot": {1: 43.8, 2: 43.4, 4: 45.9, 8: 54.3},
    "ntk, zero-shot": {1: 5.62, 2: 5.61, 4: 5.80, 8: 550.0},
    "yarn, zero-shot": {1: 5.57, 2: 5.51, 4: 5.57, 8: 5.83},
    "yarn, tuned": {1: 4.78, 2: 4.62, 4: 4.54, 8: 4.53},
    "pose, tuned": {1: 4.79, 2: 4.63, 4: 4.55, 8: 4.55},
}
DROPPED = (
    "DroPE (arXiv 2512.12167): 494M parameters, 16.8 billion tokens, trained on 1024; the mean of three kinds of "
    "needles at 2048. At 1024 its perplexity is 21.73, that of RoPE 21.72, that of NoPE 23.77"
)
DROPPED_NEEDLES = {
    "rope": 0.0, "linear, zero-shot": 0.0, "ntk, zero-shot": 19.0, "yarn, zero-shot": 11.0, "nope": 22.3, "drope": 31.0,
}  # fmt: skip


def _e5(**size: Any) -> LanguageRecipe:
    schemes = ("rope", "p-rope", "alibi", "nope", "kerple", "forgetting", "ssmax")
    what = "a byte model under seven schemes, read to 16 times its trained length"
    return LanguageRecipe(what, {"schemes": schemes, **size}, CURVES, CURVE_FIGURES)


def _e6(**size: Any) -> LanguageRecipe:
    common = {
        "schemes": ("rope",), "zero_shot": ("linear", "ntk", "dynamic-ntk", "yarn", "self-extend", "rerope"),
        "tuned": ("linear", "yarn", "pose"),
    }  # fmt: skip
    what = "a RoPE model taken to 2, 4 and 8 times its length, as it is and after 1000 steps"
    return LanguageRecipe(what, {**common, **size}, EXTENDED, EXTENDED_FIGURES)


def _e7(**size: Any) -> LanguageRecipe:
    common = {"schemes": ("rope", "nope", "drope"), "zero_shot": ("linear", "ntk", "yarn")}
    what = "RoPE dropped for the last eighth of a training: perplexity, and needles at twice the length"
    return LanguageRecipe(what, {**common, **size}, DROPPED, {}, DROPPED_NEEDLES)


GPU = {"layers": 8, "width": 512, "heads": 8, "train_length": 512, "batch": 64, "steps": 16_000, "learning_rate": 1e-3}
"""25 million parameters, half a billion bytes."""

LANGUAGE_RECIPES: dict[str, LanguageRecipe] = {
    "e5": _e5(test_lengths=(256, 512, 1024, 2048, 4096)),
    "e5-gpu": _e5(**GPU, seeds=3, test_lengths=(512, 1024, 2048, 4096, 8192)),
    "e6": _e6(test_lengths=(256, 512, 1024, 2048)),
    "e6-gpu": _e6(**GPU, seeds=3, test_lengths=(512, 1024, 2048, 4096)),
    "e7": _e7(test_lengths=(256, 512, 1024)),
    "e7-gpu": _e7(**GPU, seeds=3, test_lengths=(512, 1024, 2048)),
}
