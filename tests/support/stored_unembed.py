"""Calls of `greedy`, `sample`, `score`, `top` and `verify` whose bits are stored, and of the noise behind the draws."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

import farspan
from farspan import reference
from support.stored_bits import DTYPES, Case, Numbers

SIZES = [
    (1, 1, 1), (1, 70, 7), (2, 127, 16), (7, 128, 17), (8, 129, 15), (9, 257, 33), (17, 511, 64), (40, 1025, 100),
    (3, 3000, 128), (1, 2049, 300), (65, 4097, 48),
]  # fmt: skip
"""Rows, vocabulary and dim, at and beyond the blocks of rows and the segments of the vocabulary."""

ROWS, VOCAB, DIM = 6, 700, 24


def _states(make: Numbers, rows: int, vocab: int, dim: int, step: float = 2.0**-15) -> list[np.ndarray]:
    """Hidden states and weights."""
    return [make.normal("hidden", rows, dim, step=step), make.normal("weight", vocab, dim, step=step) / 4]


def _draws(make: Numbers, *rows: int) -> dict[str, np.ndarray]:
    return {
        "seed": make.integers("seed", -(2**62), 2**62, *rows),
        "position": make.integers("position", 0, 2**32, *rows),
        "stream": make.integers("stream", 0, 2**32, *rows),
    }


def _greedy(make: Numbers, hidden: Any, weight: Any, **rules: Any) -> Any:
    return farspan.greedy(hidden, weight, **rules)


def _sample(make: Numbers, hidden: Any, weight: Any, **rules: Any) -> Any:
    hot = np.array([1.0, 0.0, 0.3, 2.0, 1e-6, 1e6], np.float32)
    temperature = hot[make.integers("temperature", 0, len(hot), len(hidden))]
    return farspan.sample(hidden, weight, **_draws(make, len(hidden)), temperature=temperature, **rules)


def _score(make: Numbers, hidden: Any, weight: Any, **rules: Any) -> Any:
    exist = rules.get("valid_vocab", len(weight))
    targets = make.integers("targets", 0, exist, len(hidden))
    return farspan.score(hidden, weight, targets, top=min(exist, 20), **rules)


def _top(make: Numbers, hidden: Any, weight: Any, **rules: Any) -> Any:
    return farspan.top(hidden, weight, min(rules.get("valid_vocab", len(weight)), 150), **rules)


OPERATIONS: dict[str, Callable[..., Any]] = {"greedy": _greedy, "sample": _sample, "score": _score, "top": _top}


def _bias(make: Numbers, vocab: int) -> np.ndarray:
    bias = make.normal("bias", vocab)
    bias[make.some("banned", 5, vocab)] = -np.inf
    return bias


RULES: dict[str, Callable[[Numbers], dict[str, Any]]] = {
    "scale": lambda make: {"scale": -0.3},
    "softcap": lambda make: {"softcap": 3.0},
    "bias": lambda make: {"bias": _bias(make, VOCAB)},
    "valid vocab": lambda make: {"valid_vocab": VOCAB - 77},
    "all banned": lambda make: {"bias": np.full(VOCAB, -np.inf, np.float32)},
    "every rule": lambda make: {
        "scale": 1.7, "softcap": 8.0, "bias": _bias(make, VOCAB), "valid_vocab": VOCAB - 1,
    },
}  # fmt: skip


def _plain(make: Numbers, operation: str, size: tuple[int, int, int], dtype: str, step: float = 2.0**-15) -> Any:
    hidden, weight = (x.astype(DTYPES[dtype]) for x in _states(make, *size, step))
    return OPERATIONS[operation](make, hidden, weight)


def _ruled(make: Numbers, operation: str, rule: str, dtype: str) -> Any:
    hidden, weight = (x.astype(DTYPES[dtype]) for x in _states(make, ROWS, VOCAB, DIM))
    return OPERATIONS[operation](make, hidden, weight, **RULES[rule](make))


def _spoiled(make: Numbers, operation: str) -> Any:
    """A row whose logits are infinite, both ways or all the same."""
    hidden, weight = _states(make, ROWS, VOCAB, DIM)
    hidden[1, 3] = np.inf
    hidden[4] = 0
    weight[:, 3] = np.abs(weight[:, 3]) + 1
    return OPERATIONS[operation](make, hidden, weight)


def _ragged(make: Numbers, name: str, longest: int, below: int, rows: int = ROWS) -> tuple[np.ndarray, np.ndarray]:
    """One list of ids per row."""
    lengths = make.integers(f"{name} lengths", 0, longest + 1, rows)
    offsets = np.cumsum([0, *lengths])
    return make.integers(name, 0, below, int(offsets[-1])), offsets


def _history(make: Numbers, rows: int = ROWS) -> dict[str, Any]:
    return {"history": _ragged(make, "history", 30, 5, rows)}


def _logit_bias(make: Numbers) -> tuple[np.ndarray, ...]:
    ids, offsets = _ragged(make, "biased", 9, VOCAB)
    values = make.normal("values", len(ids))
    values[make.some("bans", 6, len(ids))] = -np.inf
    return ids, values, offsets


SETTINGS: dict[str, Callable[[Numbers], dict[str, Any]]] = {
    "plain": lambda make: {},
    "temperature": lambda make: {"temperature": np.array([0.0, 0.5, 1.0, 1.5, 4.0, 1e-3], np.float32)},
    "top_k": lambda make: {"top_k": np.array([0, 1, 2, 40, 200, 2**40])},
    "top_p": lambda make: {"top_p": np.array([1.0, 0.0, 0.3, 0.9, 0.99, 0.9999], np.float32)},
    "min_p": lambda make: {"min_p": np.array([0.0, 1e-4, 0.05, 0.5, 1.0, 0.2], np.float32)},
    "typical": lambda make: {"typical": np.array([1.0, 0.2, 0.6, 0.95, 0.01, 0.5], np.float32)},
    "epsilon": lambda make: {"epsilon": np.array([0.0, 1e-4, 0.01, 0.3, 0.97, 0.002], np.float32)},
    "eta": lambda make: {"eta": np.array([0.0, 1e-4, 0.01, 0.3, 0.97, 0.002], np.float32)},
    "top_h": lambda make: {"top_h": np.array([1.0, 0.2, 0.7, 0.95, 0.01, 0.5], np.float32)},
    "top_n_sigma": lambda make: {"top_n_sigma": np.array([0.0, 0.5, 1.0, 2.5, 0.1, 3.0], np.float32)},
    "xtc": lambda make: {"xtc_probability": np.float32(0.7), "xtc_threshold": np.float32(0.003)},
    "min_keep": lambda make: {"top_k": 2, "min_keep": np.array([1, 3, 150, 1, 2, 7])},
    "repetition": lambda make: {"repetition_penalty": 1.3, **_history(make)},
    "frequency": lambda make: {"frequency_penalty": 0.5, **_history(make)},
    "presence": lambda make: {"presence_penalty": -0.75, "prompt_lengths": np.zeros(ROWS, np.int64), **_history(make)},
    "ngram": lambda make: {"no_repeat_ngram": np.array([0, 1, 2, 3, 9, 2]), **_history(make)},
    "dry": lambda make: {"dry_multiplier": 0.5, "dry_base": 1.5, "dry_allowed_length": 1, **_history(make)},
    "logit_bias": lambda make: {"logit_bias": _logit_bias(make)},
    "banned": lambda make: {"banned": _ragged(make, "banned", 300, VOCAB)},
    "allowed": lambda make: {"allowed": _ragged(make, "allowed", 300, VOCAB)},
    "mask": lambda make: {"mask": make.integers("mask", -(2**31), 2**31, ROWS, 20).astype(np.int32)},
    "top": lambda make: {"top": 128},
    "samples": lambda make: {"samples": 5},
    "cuts": lambda make: {"top_k": 90, "top_p": 0.9, "min_p": 0.001, "typical": 0.97, "temperature": 1.3},
    "more cuts": lambda make: {"epsilon": 1e-4, "eta": 2e-4, "top_h": 0.9, "top_n_sigma": 2.0, "samples": 3, "top": 9},
    "penalties": lambda make: {
        "repetition_penalty": 1.2, "frequency_penalty": 0.25, "presence_penalty": 0.5, "no_repeat_ngram": 3,
        "dry_multiplier": 0.4, **_history(make), "logit_bias": _logit_bias(make), "top": 5,
    },
}  # fmt: skip
ORDERS = ("hf", "vllm", "sglang", "llamacpp")


def _set(make: Numbers, name: str, order: str, dtype: str, **rules: Any) -> Any:
    hidden, weight = (x.astype(DTYPES[dtype]) for x in _states(make, ROWS, VOCAB, DIM))
    return farspan.sample(hidden, weight, **_draws(make, ROWS), order=order, **SETTINGS[name](make), **rules)


def _everything(make: Numbers, order: str, dtype: str) -> Any:
    settings: dict[str, Any] = {}
    for name in SETTINGS:
        settings |= SETTINGS[name](make)
    settings |= {"allowed": None, "top_k": 100, "min_keep": 2}
    rules = {"scale": 1.5, "softcap": 9.0, "bias": _bias(make, VOCAB), "valid_vocab": VOCAB}
    hidden, weight = (x.astype(DTYPES[dtype]) for x in _states(make, ROWS, VOCAB, DIM))
    return farspan.sample(hidden, weight, **_draws(make, ROWS), order=order, **settings, **rules)


def _large_vocabulary(make: Numbers, dtype: str, **settings: Any) -> Any:
    """Cuts behind the largest logits of a row, which has to be read again."""
    hidden, weight = (x.astype(DTYPES[dtype]) for x in _states(make, 4, 9001, 20))
    return farspan.sample(hidden / 8, weight, **_draws(make, 4), **settings)


def _verify(make: Numbers, dtype: str, drafts: int, **settings: Any) -> Any:
    rows = 3
    hidden, weight = _states(make, rows * (drafts + 1), 60, DIM)
    hidden = hidden.reshape(rows, drafts + 1, DIM).astype(DTYPES[dtype])
    weight = weight.astype(DTYPES[dtype])
    draws = {name: x if name != "position" else x // 2 for name, x in _draws(make, rows).items()}
    if settings.get("repetition_penalty"):
        settings = {**settings, **_history(make, rows)}
    at = (draws["position"][:, None] + np.arange(drafts + 1)).reshape(rows, drafts + 1)
    each = {name: np.repeat(draws[name][:, None], drafts + 1, 1) for name in ("seed", "stream")}
    own = farspan.sample(hidden, weight, position=at, **each).token[:, :drafts]
    wrong = make.some("wrong", 3, rows, drafts)
    return farspan.verify(hidden, weight, np.where(wrong, 0, own), **draws, **settings)


def _one_part(make: Numbers, name: str) -> Any:
    """The whole vocabulary as the only part of it."""
    shard = farspan.VocabularyShard(first=0, vocab=VOCAB, gather=lambda part: [part])
    return _set(make, name, "hf", "float32", shard=shard)


def _philox(make: Numbers) -> Any:
    """The words behind the noise, which are integers."""
    words = [make.integers(f"word {i}", 0, 2**32, 100).astype(np.uint64) for i in range(6)]
    return reference.philox(tuple(words[:4]), tuple(words[4:]))


def _noise(make: Numbers, temperature: float) -> Any:
    """Draws from logits that are all the same: the token is where the noise is largest."""
    hidden, weight = np.zeros((100, 1), np.float32), np.zeros((997, 1), np.float32)
    return farspan.sample(hidden, weight, **_draws(make, 100), temperature=temperature).token


def cases() -> Iterator[Case]:
    """Every call."""
    for operation in OPERATIONS:
        for size, dtype in itertools.product(SIZES, DTYPES):
            label = f"{'x'.join(map(str, size))} {dtype}"
            small = dtype == "float32" and size[0] * size[1] * size[2] < 400_000
            yield Case(operation, label, partial(_plain, operation=operation, size=size, dtype=dtype), small)
        for dtype in DTYPES:
            run = partial(_plain, operation=operation, size=(ROWS, VOCAB, DIM), dtype=dtype, step=0.5)
            yield Case(operation, f"ties {dtype}", run, dtype == "float32")
        for rule, dtype in itertools.product(RULES, DTYPES):
            run = partial(_ruled, operation=operation, rule=rule, dtype=dtype)
            yield Case(operation, f"{rule} {dtype}", run, dtype == "float32")
        yield Case(operation, "infinite logits", partial(_spoiled, operation=operation), True)
    dtypes = itertools.cycle(DTYPES)
    for name, order in itertools.product(SETTINGS, ORDERS):
        for dtype in dict.fromkeys(("float32", next(dtypes))):
            run = partial(_set, name=name, order=order, dtype=dtype)
            yield Case("settings", f"{name} {order} {dtype}", run, (order, dtype) == ("hf", "float32"))
    for order, dtype in itertools.product(ORDERS, DTYPES):
        run = partial(_everything, order=order, dtype=dtype)
        yield Case("settings", f"everything {order} {dtype}", run, dtype == "float32")
        run = partial(_large_vocabulary, order=order, dtype=dtype, top_p=0.999, samples=2)
        yield Case("settings", f"read again {order} {dtype}", run)
    for name in SETTINGS:
        yield Case("settings", f"one part {name}", partial(_one_part, name=name))
    for drafts, dtype in itertools.product((0, 1, 4, 9), DTYPES):
        run = partial(_verify, dtype=dtype, drafts=drafts)
        yield Case("verify", f"{drafts} drafts {dtype}", run, dtype == "float32")
        run = partial(_verify, dtype=dtype, drafts=drafts, repetition_penalty=1.2, top_p=0.9, temperature=0.8)
        yield Case("verify", f"{drafts} drafts, settings {dtype}", run, dtype == "float32")
    for place in range(12):
        yield Case("noise", f"words {place}", _philox)
        yield Case("noise", f"draws {place}", partial(_noise, temperature=(1.0, 0.25, 3.0)[place % 3]), True)
