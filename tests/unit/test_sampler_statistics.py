"""Draws over whole vocabularies follow their distribution: in the bulk, in the tail, and independently of each other.

Limits are passed once in a million runs, but keys are fixed, so a test that passes once always does. Many draws of one
row are its samples: one pass over the vocabulary serves them all.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import farspan
from farspan import reference

DRAWS = 1_000_000
AT_ONCE = 50_000


def one_row(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`hidden [1, 1]` and `weight [vocab, 1]` of these logits."""
    return np.ones((1, 1), np.float32), logits.astype(np.float32)[:, None]


def counts_of(logits: np.ndarray, draws: int, **settings: Any) -> np.ndarray:
    """How often each token was drawn: samples of neighbouring streams, at neighbouring positions."""
    counts = np.zeros(len(logits), np.int64)
    for position in range(draws // AT_ONCE):
        token = farspan.sample(*one_row(logits), seed=2026, position=position, samples=AT_ONCE, **settings).token
        counts += np.bincount(token[0], minlength=len(logits))
    return counts


def chi_square(counts: np.ndarray, expected: np.ndarray, least: float = 8.0) -> tuple[float, int]:
    """The statistic and its degrees of freedom. Tokens of which fewer than `least` draws are expected share bins with
    their neighbours, so every token counts."""
    rare = expected < least
    pools = np.floor(np.cumsum(expected[rare]) / (2 * least)).astype(np.int64)
    pools = np.minimum(pools, max(pools.max(initial=0) - 1, 0))  # the last one may not be full
    observed, wanted = (np.concatenate([x[~rare], np.bincount(pools, weights=x[rare])]) for x in (counts, expected))
    assert wanted.min() >= least
    return float(((observed - wanted) ** 2 / wanted).sum()), len(wanted) - 1


def limit(degrees: int) -> float:
    """Passed once in a million by chi-square on this many degrees of freedom (Wilson and Hilferty)."""
    return degrees * (1 - 2 / (9 * degrees) + 4.753 * (2 / (9 * degrees)) ** 0.5) ** 3


def test_a_million_plain_draws() -> None:
    logits = (np.random.default_rng(0).standard_normal(100_000) * 6).astype(np.float32)
    probability = np.exp(logits.astype(np.float64) - logits.max())
    expected = DRAWS * probability / probability.sum()
    statistic, degrees = chi_square(counts_of(logits, DRAWS), expected)
    assert degrees > 300
    assert statistic < limit(degrees), f"chi-square {statistic:.0f} on {degrees} degrees of freedom"


@pytest.mark.parametrize("temperature", [1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-9, 1e-30, 1e-45])
def test_equal_logits_are_drawn_equally_at_any_temperature(temperature: float) -> None:
    """Where `logit / temperature` is too large to hold the noise as well, the noise still decides. What it decides is
    what the definition says in float64, but for scores below 2**16, which are multiples of 2**-8."""
    draws = 3000
    call: dict[str, Any] = {"seed": 3, "temperature": float(np.float32(temperature))}
    for logit in map(np.float32, (20.0, -20.0, 3.0, 1000.0)):
        next_lower = np.nextafter(logit, np.float32(-np.inf))
        weight = np.array([[logit], [logit - 500], [logit], [logit], [next_lower]], np.float32)
        hidden, position = np.ones((draws, 1), np.float32), np.arange(draws)
        drawn = farspan.sample(hidden, weight, position=position, **call)
        counts = np.bincount(drawn.token, minlength=5)
        gaps = np.array([0, 500, 0, 0, float(logit) - float(next_lower)])
        expected = np.exp(-gaps / call["temperature"])
        expected *= draws / expected.sum()
        assert (np.abs(counts - expected) <= 5 * np.sqrt(expected)).all(), counts
        np.testing.assert_allclose(np.exp(drawn.logprob), (expected / draws)[drawn.token], atol=2e-3)
        truth = reference.sample(
            torch.tensor(hidden).double(), torch.tensor(weight).double(), position=torch.arange(draws), **call
        )
        assert (drawn.token != truth.token.numpy()).mean() < 0.005
        for cuts in ({"top_k": 4}, {"order": "llamacpp", "top_n_sigma": 1.0}):
            assert (farspan.sample(hidden, weight, position=position, **call, **cuts).token == drawn.token).all()


def test_a_million_draws_behind_top_p() -> None:
    logits = (np.random.default_rng(1).standard_normal(131_072) * 3).astype(np.float32)
    scaled = logits.astype(np.float64) / np.float32(0.9)
    probability = np.exp(scaled - scaled.max())
    probability /= probability.sum()
    order = np.argsort(-logits, kind="stable")
    before = np.cumsum(probability[order]) - probability[order]
    kept = order[before < np.float32(0.6)]
    counts = counts_of(logits, DRAWS, top_p=0.6, temperature=0.9)
    assert counts[kept].sum() == DRAWS, "draws outside of what top-p keeps"
    statistic, degrees = chi_square(counts[kept], DRAWS * probability[kept] / probability[kept].sum())
    assert degrees > 60
    assert statistic < limit(degrees), f"chi-square {statistic:.0f} on {degrees} degrees of freedom"


TAIL = 131_072


def tail_row(gap: float) -> np.ndarray:
    """Token 0, and TAIL tokens that far below it."""
    return np.concatenate([[0.0], np.full(TAIL, -gap)])


@pytest.mark.parametrize("gap", [14.0, 16.0, 18.0, 20.0])
def test_the_tail_is_drawn_as_often_as_it_should(gap: float) -> None:
    """With uniforms of 24 bits noise ends at 17.3: a third of the draws at gap 16 would be missing, all at gap 20."""
    share = TAIL * np.exp(-gap) / (1 + TAIL * np.exp(-gap))
    counts = counts_of(tail_row(gap), AT_ONCE)
    expected = AT_ONCE * share
    drawn = int(counts[1:].sum())
    assert abs(drawn - expected) < 4.9 * (expected * (1 - share)) ** 0.5, f"{drawn} of {expected:.1f} expected"
    halves = counts[1 : 1 + TAIL // 2].sum(), counts[1 + TAIL // 2 :].sum()
    assert abs(halves[0] - halves[1]) < 4.9 * max(drawn, 1) ** 0.5, f"{halves} draws of the halves of the tail"


@pytest.mark.parametrize(
    ("seed", "stream", "token"), [(1, 8126, 72026), (3, 3099, 51139), (11, 9042, 108238), (13, 5710, 37747)]
)
def test_a_tail_that_32_bits_never_reach(seed: int, stream: int, token: int) -> None:
    """Found by search, one draw in 32000. With uniforms of 32 bits noise ends at 22.9: no tail token would be drawn."""
    head, own = reference.noise(seed, 0, stream, np.array([0, token]))
    assert own - head > 23
    drawn = farspan.sample(*one_row(tail_row(23.0)), seed=seed, position=0, stream=stream)
    assert drawn.token[0] == token
    assert drawn.rank[0] == token


@pytest.mark.parametrize("vary", ["row", "position", "seed", "stream", "sample"])
def test_neighbours_are_independent(vary: str) -> None:
    """Pairs of neighbouring draws in a table of 12 x 12, over tokens of one and of many chunks."""
    draws = 200_000 if vary != "row" else 20_000
    for stride in (1, 191):  # 12 tokens side by side, then spread over the chunks of a vocabulary of 2101
        vocab = 11 * stride + 1 if stride > 1 else 12
        logits = np.full(vocab, -np.inf)
        logits[::stride] = 0.0
        draws = min(draws, 200_000 // (1 if stride == 1 else 10))
        keys: dict[str, Any] = {"seed": 5, "position": 6, "stream": 7}
        rows = draws + 1
        if vary == "sample":
            result = farspan.sample(*one_row(logits), samples=rows, **keys)
            token = result.token[0]
        else:
            if vary == "row":  # rows of one batch differ in whatever callers vary
                keys = {"seed": 5, "position": np.arange(rows) // 3, "stream": np.arange(rows) % 3}
            else:
                keys[vary] = np.arange(rows) + 10
            hidden, weight = one_row(logits)
            token = farspan.sample(np.repeat(hidden, rows, 0), weight, top_k=12, **keys).token
        token = token // stride
        pairs = np.bincount(token[:-1] * 12 + token[1:], minlength=144)
        statistic = float(((pairs - draws / 144) ** 2 / (draws / 144)).sum())
        assert statistic < limit(143), f"stride {stride}: chi-square {statistic:.0f} on 143 degrees of freedom"
