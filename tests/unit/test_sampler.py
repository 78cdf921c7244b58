"""Sampler settings: what needs a second pass, verification against drawing one by one, and bits that never change."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from support.arrays import fields_of
from support.sampler_cases import packed

import farspan
from farspan import _core, reference_sampler
from farspan.testing import assert_same_bits

f32 = np.float32


def normal_row(vocab: int, rows: int, deviation: float, dim: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """`hidden` and `weight` whose logits are normal with this deviation."""
    make = np.random.default_rng(vocab)
    hidden, weight = make.standard_normal((rows, dim)), make.standard_normal((vocab, dim))
    hidden *= deviation / np.linalg.norm(hidden, axis=1, keepdims=True)
    return hidden.astype(f32), weight.astype(f32)


def second_passes(run: Callable[[], Any]) -> tuple[int, Any]:
    """How many rows a call read a second time, and its result."""
    before = _core.second_passes()
    result = run()
    return _core.second_passes() - before, result


def ragged(lists: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    """`(ids, offsets)` of one list per row."""
    return np.concatenate([np.zeros(0, np.int64), *lists]).astype(np.int64), np.cumsum([0, *map(len, lists)])


# -------------------------------------------------------------------------------------------------------------- passes

USUAL = {
    "nothing": {},
    "generate's defaults": {"top_k": 50},
    "chat": {"top_k": 50, "top_p": 0.9, "temperature": 0.7, "repetition_penalty": 1.1},
    "vllm": {"order": "vllm", "top_k": 20, "top_p": 0.8, "temperature": 0.7, "presence_penalty": 1.5},
    "sglang": {"order": "sglang", "top_k": 40, "top_p": 0.95, "min_p": 0.05},
    "llamacpp": {"order": "llamacpp", "top_k": 40, "top_p": 0.95, "min_p": 0.05, "temperature": 0.8},
    "typical behind top-k": {"top_k": 100, "typical": 0.9},
    "min-p": {"min_p": 0.05},
    "top-n-sigma": {"top_n_sigma": 1.0, "order": "llamacpp"},
    "top-h": {"top_h": 0.4},
    "xtc behind top-k": {"order": "llamacpp", "top_k": 60, "xtc_probability": 1.0, "xtc_threshold": 0.05},
}


@pytest.mark.parametrize("name", USUAL)
def test_usual_settings_need_one_pass(name: str) -> None:
    rows = 16
    hidden, weight = normal_row(50_000, rows, 3.0)
    lists = ragged([np.arange(row, row + 200) * 7 for row in range(rows)])
    settings: dict[str, Any] = {"seed": 3, "position": np.arange(rows), "history": lists, "top": 20, **USUAL[name]}
    again, result = second_passes(lambda: farspan.sample(hidden, weight, **settings))
    assert again == 0
    assert (result.flag == 0).all()


def flat(rows: int, vocab: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((rows, 4), f32), np.ones((vocab, 4), f32)


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"top_p": 0.5}, 4000),
        ({"order": "sglang", "top_p": 0.5}, 4001),
        ({"top_k": 5000, "order": "llamacpp"}, 5000),
        ({"order": "llamacpp", "typical": 0.25}, 2001),
        ({"min_p": 0.5}, 8000),
        ({"epsilon": 1e-5}, 8000),
    ],
    ids=str,
)
def test_a_flat_row_is_read_twice_and_right(settings: dict[str, Any], kept: int) -> None:
    """8000 equal logits: more are kept than a pass remembers. Sums of equal shares of a power of two are exact."""
    vocab = 8192 if kept < 8000 else 8000
    kept = {4000: 4096, 4001: 4097, 2001: 2049}.get(kept, kept)
    rows = 3
    again, result = second_passes(
        lambda: farspan.sample(*flat(rows, vocab), seed=1, position=np.arange(rows), **settings)
    )
    assert again == rows
    assert result.kept.tolist() == [kept] * rows
    np.testing.assert_allclose(result.kept_mass, kept / vocab, rtol=1e-6)
    np.testing.assert_allclose(result.logprob, -np.log(kept), rtol=1e-6)
    assert (result.rank == result.token).all()
    assert (result.token < kept).all(), "of equal tokens the lowest ids stay"


def test_a_rank_behind_the_largest_is_counted_when_it_is_asked_for() -> None:
    again, result = second_passes(lambda: farspan.sample(*flat(1, 8192), seed=1, position=0, samples=50))
    assert again == 0
    again, rank = second_passes(lambda: result.rank)
    assert again == (rank >= 128).sum() > 40
    assert (rank == result.token).all()
    assert second_passes(lambda: result.rank)[0] == 0


def test_flat_normal_rows_behind_top_p() -> None:
    """Against a sort of the logits that the product itself gives."""
    rows, vocab = 6, 20_000
    hidden, weight = normal_row(vocab, rows, 0.7)
    settings: dict[str, Any] = {"seed": 9, "position": np.arange(rows), "samples": 40}
    again, result = second_passes(lambda: farspan.sample(hidden, weight, top_p=0.7, **settings))
    listed = farspan.top(hidden, weight, vocab)
    share = np.exp(listed.logit.astype(np.float64) - listed.lse[:, None].astype(np.float64))
    share /= share.sum(1, keepdims=True)
    inside = share.cumsum(1) - share < f32(0.7)
    assert again == rows
    assert np.abs(result.kept - inside.sum(1)).max() <= 1
    np.testing.assert_allclose(result.kept_mass, (share * inside).sum(1), atol=1e-5)
    assert (result.rank < result.kept[:, None]).all()
    assert (np.take_along_axis(listed.token, result.rank, 1) == result.token).all()


# -------------------------------------------------------------------------------------------------------- verification


@pytest.mark.parametrize("order", ["hf", "vllm", "sglang", "llamacpp"])
@pytest.mark.parametrize("drafter", ["right", "random", "half"])
def test_verify_is_drawing_one_by_one(order: str, drafter: str) -> None:
    """Histories grow with the drafts; masks, bans, allowed tokens and biases are the sequence's in every place."""
    rows, places, vocab = 12, 6, 97
    make = np.random.default_rng(7)
    hidden = make.standard_normal((rows, places, 16)).astype(f32)
    weight = make.standard_normal((vocab, 16)).astype(f32) * f32(0.7)
    histories = [make.integers(0, vocab, n).tolist() for n in make.integers(0, 12, rows)]
    keys = {"seed": make.integers(0, 2**63, rows), "stream": np.arange(rows)}
    position = make.integers(0, 2**20, rows)
    bias_ids, bias_offsets = ragged([make.integers(0, vocab, 3) for _ in range(rows)])
    settings: dict[str, Any] = {
        "order": order,
        "temperature": np.where(np.arange(rows) % 4 == 3, 0.0, 0.8).astype(f32),
        "top_k": np.arange(rows) * 3,
        "top_p": 0.95,
        "repetition_penalty": 1.4,
        "frequency_penalty": 0.3,
        "no_repeat_ngram": 2,
        "dry_multiplier": 0.4,
        "dry_allowed_length": 1,
        "prompt_lengths": np.array([len(one) // 2 for one in histories]),
        "banned": ragged([make.integers(0, vocab, 9) for _ in range(rows)]),
        "allowed": ragged([make.permutation(vocab)[: 0 if row % 3 else 60] for row in range(rows)]),
        "logit_bias": (bias_ids, make.standard_normal(len(bias_ids)).astype(f32), bias_offsets),
        "mask": packed(make.random((rows, 128)) < 0.8).numpy(),
    }

    def draw(place: int, seen: list[list[int]]) -> np.ndarray:
        return farspan.sample(
            hidden[:, place], weight, position=position + place, history=ragged(seen), **keys, **settings
        ).token

    one_by_one, seen = [], histories
    for place in range(places):
        one_by_one.append(draw(place, seen))
        seen = [[*one, int(token)] for one, token in zip(seen, one_by_one[-1], strict=True)]
    truth = np.stack(one_by_one, 1)

    draft = make.integers(0, vocab, (rows, places - 1)) if drafter == "random" else truth[:, :-1].copy()
    if drafter == "half":  # wrong from place row % places on, right again behind it
        wrong = np.arange(rows) % places
        at = np.flatnonzero(wrong < places - 1)
        draft[at, wrong[at]] = (draft[at, wrong[at]] + 1) % vocab
    result = farspan.verify(hidden, weight, draft, position=position, history=ragged(histories), **keys, **settings)
    expected = (draft == truth[:, :-1]).cumprod(1).sum(1)
    assert result.accepted.tolist() == expected.tolist()
    assert result.token.tolist() == truth[np.arange(rows), expected].tolist()
    assert drafter != "right" or (result.accepted == places - 1).all()
    assert drafter != "half" or set(result.accepted.tolist()) == set(range(places))


@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_a_draft_that_is_no_token_is_never_accepted(kind: str) -> None:
    """-1 where a row has fewer drafts than others, also where nothing can be drawn and sample gives -1 too."""
    make = np.random.default_rng(2)
    hidden, weight = make.standard_normal((4, 3, 8)).astype(f32), make.standard_normal((50, 8)).astype(f32)
    history = ragged([[1, 2], [], [3], [4, 4]])
    settings: dict[str, Any] = {"seed": 1, "position": 5, "history": history, "repetition_penalty": 1.5}
    own = farspan.verify(hidden, weight, np.full((4, 2), -1), **settings).token
    drafts = np.array([[-1, -1], [own[1], -1], [own[2], 50], [own[3], -(2**40)]])
    hidden[0, 1] = np.nan  # a place that no right draft leads to
    if kind == "torch":
        hidden, weight, drafts = map(torch.from_numpy, (hidden, weight, drafts))
    assert farspan.verify(hidden, weight, drafts, **settings).accepted.tolist() == [0, 1, 1, 1]
    second = ragged([[1, 2], [own[1]], [3, own[2]], [4, 4, own[3]]])
    after = farspan.sample(hidden[:, 1], weight, **settings | {"position": 6, "history": second}).token
    assert farspan.verify(hidden, weight, drafts, **settings).token.tolist() == [own[0], *after[1:].tolist()]

    hidden[1] = math.nan
    banned = ragged([[], [], range(50), []])
    flagged = farspan.verify(hidden, weight, drafts * 0 - 1, seed=1, position=5, banned=banned)
    assert flagged.accepted.tolist() == [0, 0, 0, 0]
    assert flagged.token.tolist()[1:3] == [-1, -1]


def test_verify_takes_lists_of_rows_as_sample_does() -> None:
    make = np.random.default_rng(2)
    hidden, weight = make.standard_normal((2, 3, 8)).astype(f32), make.standard_normal((50, 8)).astype(f32)
    drafts = [[1, 2], [3, 4]]
    rows: dict[str, Any] = {
        "seed": [3, 4], "position": [5, 6], "stream": [7, 8], "temperature": [0.5, 2.0], "top_k": [0, 9],
        "top_p": [0.5, 0.75], "frequency_penalty": [0.5, 0.0], "history": ([], [0, 0, 0]), "prompt_lengths": [0, 0],
        "banned": ([], [0, 0, 0]), "logit_bias": ([], [], [0, 0, 0]), "allowed": ([7, 8], [0, 2, 2]),
    }  # fmt: skip
    flat = {name: x if isinstance(x, tuple) else np.array(x) for name, x in rows.items()}
    listed, arrays = farspan.verify(hidden, weight, drafts, **rows), farspan.verify(hidden, weight, drafts, **flat)
    assert [x.tolist() for x in listed] == [x.tolist() for x in arrays]
    first = {name: x for name, x in rows.items() if name not in ("history", "frequency_penalty", "prompt_lengths")}
    assert listed.token.tolist() == farspan.sample(hidden[:, 0], weight, **first).token.tolist()
    for name in ("seed", "stream", "temperature", "top_k"):
        with pytest.raises(farspan.ArgumentError, match=rf"{name}: expected a scalar or shape \[2\]"):
            farspan.verify(hidden, weight, drafts, **rows | {name: [1, 2, 3]})


# ------------------------------------------------------------------------------------------- borders and large numbers


def kept(logits: np.ndarray, **settings: Any) -> int:
    """How many tokens of one row are left."""
    drawn = farspan.sample(np.ones((1, 1), f32), logits.astype(f32)[:, None], seed=0, position=0, **settings)
    return int(drawn.kept[0])


def test_shares_are_compared_as_they_are_written() -> None:
    """A setting is not rounded to float32, nor a sum of equal shares by their division."""
    tenths = np.log(np.array([0.5, 0.3, 0.1, 0.1]))
    for share in (0.8, [0.8], np.array([0.8]), torch.tensor([0.8], dtype=torch.float64)):
        assert kept(tenths, top_p=share) == 2
    for n in (2, 4, 10, 14, 20, 56, 64, 256):
        wanted = {"hf": n // 2, "vllm": n // 2, "llamacpp": n // 2, "sglang": n // 2 + 1}
        assert {order: kept(np.zeros(n), top_p=0.5, order=order) for order in wanted} == wanted
        assert kept(np.zeros(n), typical=0.5, order="llamacpp") == n // 2 + 1
        assert kept(np.zeros(n), xtc_probability=1.0, xtc_threshold=1 / n) == 1
        assert kept(np.zeros(n), epsilon=1 / n) == n


@pytest.mark.parametrize("repeats", [80, 82, 1000])
def test_a_penalty_beyond_float32_is_no_ban(repeats: int) -> None:
    history = ragged([[1, 2] * repeats])
    weight = np.array([[1], [2], [3]], f32)
    call: dict[str, Any] = {"seed": 0, "position": 0, "history": history, "allowed": ragged([[1]])}
    for penalties in ({"dry_multiplier": 0.8}, {"frequency_penalty": 3e38}, {"repetition_penalty": 1e-38}):
        drawn = farspan.sample(np.ones((1, 1), f32), weight, **call, **penalties)
        assert (drawn.token.tolist(), drawn.flag.tolist()) == ([1], [0])
        row = reference_sampler.RowSettings(history=[1, 2] * repeats, **penalties)
        changed = reference_sampler.changed(torch.tensor([1.0, 2.0, 3.0]), row)
        np.testing.assert_allclose(drawn.logit[0], changed[1], rtol=1e-6)
        assert changed.isfinite().all()
    twice = (np.array([2, 2]), np.array([-3e38, -3e38]), np.array([0, 2]))
    assert kept(weight[:, 0], logit_bias=twice) == 3
    assert kept(weight[:, 0], logit_bias=twice, top_n_sigma=1.0) == 2


@pytest.mark.parametrize("name", ["temperature", "repetition_penalty", "frequency_penalty", "dry_base", "logit_bias"])
def test_a_number_that_float32_cannot_hold_is_named(name: str) -> None:
    for given in (1e39, np.array([1e39]), torch.tensor([1e39], dtype=torch.float64)):
        value: Any = given
        if name == "logit_bias":
            value = (np.array([0]), np.reshape(np.asarray(given), 1) * -1, np.array([0, 1]))
        with pytest.raises(farspan.ArgumentError, match=rf"{name}: expected numbers that float32 can hold, .*1e\+?39"):
            kept(np.zeros(3), **{name: value, "history": ragged([[0]])})
    assert kept(np.zeros(3), top_n_sigma=1e39, typical=1e-50, top_p=1e-50) == 1


# ---------------------------------------------------------------------------------------------------------------- bits

ROWS, VOCAB, DIM = 256, 1500, 40


def mixed() -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """256 rows of settings of their own; lists as lists of rows."""
    make = np.random.default_rng(11)

    def some(*choices: float, dtype: Any = f32) -> np.ndarray:
        return make.choice(np.array(choices, dtype), ROWS)

    settings = {
        "seed": make.integers(0, 2**63, ROWS),
        "position": make.integers(0, 2**32, ROWS),
        "stream": make.integers(0, 2**32, ROWS),
        "temperature": some(1, 0.7, 1.5, 0),
        "top_k": some(0, 0, 7, 50, 700, dtype=np.int64),
        "top_p": some(1, 1, 0.8, 0.99),
        "min_p": some(0, 0, 0.02),
        "typical": some(1, 1, 1, 0.8),
        "eta": some(0, 0, 1e-3),
        "top_h": some(1, 1, 0.6),
        "top_n_sigma": some(0, 0, 1.5),
        "xtc_probability": some(0, 0.5),
        "min_keep": some(1, 1, 5, dtype=np.int64),
        "repetition_penalty": some(1, 1.3),
        "presence_penalty": some(0, 0.5),
        "dry_multiplier": some(0, 0.8),
        "no_repeat_ngram": some(0, 2, dtype=np.int64),
        "history": [make.integers(0, 40, n) for n in make.integers(0, 60, ROWS)],
        "banned": [make.integers(0, VOCAB, n) for n in make.integers(0, 50, ROWS)],
        "allowed": [make.integers(0, VOCAB, n) for n in some(0, 0, 0, 90, dtype=np.int64)],
        "mask": packed(make.random((ROWS, 1504)) < some(0.5, 1)[:, None]).numpy(),
    }
    hidden, weight = make.standard_normal((ROWS, DIM)), make.standard_normal((VOCAB, DIM))
    return hidden.astype(f32), weight.astype(f32) * f32(0.4), settings


def draw_rows(rows: np.ndarray, order: str) -> list[np.ndarray]:
    """Every field of these rows of `mixed`, drawn as one batch."""
    hidden, weight, settings = mixed()
    own: dict[str, Any] = {}
    for name, value in settings.items():
        own[name] = ragged([value[row] for row in rows]) if isinstance(value, list) else value[rows]
    return list(fields_of(farspan.sample(hidden[rows], weight, order=order, samples=2, top=3, **own)).values())


@pytest.mark.parametrize("order", ["hf", "vllm", "sglang", "llamacpp"])
def test_settings_have_the_same_bits_in_every_batch(order: str, threads: Callable[[int], None]) -> None:
    threads(2)
    whole = draw_rows(np.arange(ROWS), order)
    assert len({tuple(pair) for pair in whole[0].tolist()}) > ROWS / 2
    make = np.random.default_rng(2)
    for batch in (1, 2, 3, 7, 8, 9, 31, 64, 128, 255, 256):
        rows = make.permutation(ROWS)[:batch]
        for field, expected in zip(draw_rows(rows, order), whole, strict=True):
            assert_same_bits(field, expected[rows], f"{batch} rows of {ROWS}, {order}")
    for count in (1, 3):
        threads(count)
        for field, expected in zip(draw_rows(np.arange(ROWS), order), whole, strict=True):
            assert_same_bits(field, expected, f"{count} threads, {order}")


def test_settings_have_the_same_bits_on_every_machine() -> None:
    available = [machine for machine, there in _core.cpu_info()[1] if there]
    results = []
    for machine in available:
        _core.force_cpu(machine)
        results.append([draw_rows(np.arange(ROWS), order) for order in ("hf", "llamacpp")])
    _core.force_cpu(None)
    for one, other in pairwise(results):
        for fields, expected in zip(one, other, strict=True):
            for field, same in zip(fields, expected, strict=True):
                assert_same_bits(field, same, f"{available}")
