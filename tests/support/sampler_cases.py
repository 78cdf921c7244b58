"""Random settings of `farspan.sample` over logits that no dtype and no order of summation rounds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from support.arrays import DTYPES

GRID = 2048
"""Logits are multiples of 1 / GRID."""

VOCABS = st.one_of(st.integers(1, 70), st.sampled_from([33, 128, 257, 600, 1024, 1025, 2049, 3000]))

CUTS: dict[str, list[float]] = {
    "top_k": [0, 1, 2, 7, 40, 200, 5000, 2**62],
    "top_p": [1.0, 0.0, 0.3, 0.9, 0.99, 0.9999],
    "min_p": [0.0, 1e-4, 0.05, 0.5, 1.0],
    "typical": [1.0, 0.2, 0.6, 0.95],
    "epsilon": [0.0, 1e-4, 0.01, 0.3, 0.97],
    "eta": [0.0, 1e-4, 0.01, 0.3, 0.97],
    "top_h": [1.0, 0.2, 0.7, 0.95],
    "top_n_sigma": [0.0, 0.5, 1.0, 2.5],
    "xtc_probability": [0.0, 0.5, 1.0],
    "xtc_threshold": [0.0, 0.01, 0.1, 0.3, 0.7],
    "min_keep": [1, 1, 3, 150],
}
PENALTIES: dict[str, list[float]] = {
    "repetition_penalty": [1.0, 0.5, 1.3, 2.0],
    "frequency_penalty": [0.0, 0.5, -0.25],
    "presence_penalty": [0.0, 0.75, -0.5],
    "no_repeat_ngram": [0, 1, 2, 3, 9],
    "dry_multiplier": [0.0, 0.5],
    "dry_base": [1.0, 1.75],
    "dry_allowed_length": [0, 1, 2, 4],
}


def exact(logits: np.ndarray, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """`hidden` and `weight` whose products are these logits, `[rows, vocab]`, multiples of 1 / GRID within 15.

    Each row picks two columns of weight, a coarse and a fine one; both are exact in eight bits.
    """
    steps = np.rint(logits * GRID).astype(np.int64)
    rows = len(logits)
    hidden, weight = np.zeros((rows, 2 * rows)), np.empty((logits.shape[1], 2 * rows))
    at = np.arange(rows)
    hidden[at, 2 * at], hidden[at, 2 * at + 1] = 1.0, 2.0**-8
    weight[:, 0::2], weight[:, 1::2] = (steps // 256).T / 8, (steps % 256).T / 8
    return torch.from_numpy(hidden).to(dtype), torch.from_numpy(weight).to(dtype)


def random_logits(make: np.random.Generator, rows: int, vocab: int, deviation: float, grid: int = GRID) -> np.ndarray:
    """Normal logits on a grid; a coarse one makes ties."""
    return np.clip(np.rint(make.standard_normal((rows, vocab)) * deviation * grid) / grid, -15, 15)


def ragged(lists: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """`(ids, offsets)` of one list per row."""
    ids = torch.tensor([token for one in lists for token in one], dtype=torch.int64)
    return ids, torch.tensor([0, *np.cumsum([len(one) for one in lists], dtype=np.int64).tolist()])


def packed(allowed: np.ndarray) -> torch.Tensor:
    """bool `[rows, tokens]`, a whole number of words, as int32 `[rows, words]`: bit v % 32 of word v / 32."""
    bits = allowed.reshape(len(allowed), -1, 32).astype(np.uint64) << np.arange(32, dtype=np.uint64)
    return torch.from_numpy(bits.sum(-1).astype(np.uint32).view(np.int32))


@dataclass
class Case:
    """A call of `farspan.sample`."""

    logits: np.ndarray
    hidden: torch.Tensor
    weight: torch.Tensor
    settings: dict[str, Any]
    """Everything behind hidden and weight."""


@st.composite
def sampler_cases(draw: st.DrawFn) -> Case:
    """A call whose numbers come from one drawn seed, so that hypothesis shrinks which settings there are."""
    make = np.random.default_rng(draw(st.integers(0, 2**32), label="numbers"))
    rows, vocab = draw(st.integers(1, 5), label="rows"), draw(VOCABS, label="vocab")
    grid = draw(st.sampled_from([GRID, GRID, 64, 1]), label="grid")
    logits = random_logits(make, rows, vocab, draw(st.sampled_from([0.3, 1.5, 3.0]), label="deviation"), grid)
    settings: dict[str, Any] = {
        "order": draw(st.sampled_from(["hf", "vllm", "sglang", "llamacpp"]), label="order"),
        "seed": torch.from_numpy(make.integers(-(2**63), 2**63 - 1, rows)),
        "position": torch.from_numpy(make.integers(0, 2**32, rows)),
        "stream": torch.from_numpy(make.integers(0, 2**32, rows)),
        "samples": draw(st.sampled_from([1, 1, 2, 5]), label="samples"),
        "top": draw(st.integers(0, min(vocab, 128)), label="top"),
    }

    def values(name: str, choices: list[float]) -> None:
        """One value for all rows, or one for each, half of which do nothing."""
        whole = isinstance(choices[0], int)
        if draw(st.booleans(), label=f"{name} per row"):
            chosen = [choices[0] if make.random() < 0.5 else choices[make.integers(len(choices))] for _ in range(rows)]
            settings[name] = torch.tensor(chosen, dtype=torch.int64 if whole else torch.float32)
        else:
            settings[name] = draw(st.sampled_from(choices), label=name)

    def lists(longest: int, kinds: int) -> list[list[int]]:
        return [make.integers(0, min(vocab, kinds), make.integers(0, longest + 1)).tolist() for _ in range(rows)]

    values("temperature", [1.0, 0.3, 0.7, 1.5, 4.0, 0.0])
    for name in draw(st.lists(st.sampled_from(sorted(CUTS)), max_size=5, unique=True), label="cuts"):
        values(name, CUTS[name])
    if draw(st.booleans(), label="history"):
        history = lists(30, 4)
        settings["history"] = ragged(history)
        if draw(st.booleans(), label="prompt_lengths"):
            settings["prompt_lengths"] = torch.tensor([int(make.integers(0, len(one) + 1)) for one in history])
        for name in draw(st.lists(st.sampled_from(sorted(PENALTIES)), max_size=4, unique=True), label="penalties"):
            values(name, PENALTIES[name])
    if draw(st.integers(0, 3), label="banned") == 3:
        settings["banned"] = ragged(lists(vocab, vocab))
    if draw(st.integers(0, 3), label="allowed") == 3:
        settings["allowed"] = ragged(lists(vocab, vocab))
    if draw(st.integers(0, 3), label="logit_bias") == 3:
        ids, offsets = ragged(lists(9, 6))
        amounts = make.integers(-3 * 4, 3 * 4, len(ids)) / 4
        amounts[make.random(len(ids)) < 0.1] = -math.inf
        settings["logit_bias"] = (ids, torch.from_numpy(amounts).float(), offsets)
    if draw(st.integers(0, 3), label="mask") == 3:
        words = draw(st.integers(0, math.ceil(vocab / 32)), label="words")  # missing words ban
        settings["mask"] = packed(make.random((rows, words * 32)) < draw(st.sampled_from([0.02, 0.5, 1.0])))
    dtype = DTYPES[draw(st.sampled_from(list(DTYPES)), label="dtype")]
    return Case(logits, *exact(logits, dtype), settings)
