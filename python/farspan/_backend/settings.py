"""The arguments of the unembedding's operations as the backends take them, beside hidden and weight.

Each class here is the one list of its arguments: the schemas of the torch operators and their defaults follow from it,
and `_core` reads it by name (`rust/py/src/settings.rs`; `tests/unit/test_settings.py` compares the names).
`farspan.unembed` makes them of the public arguments, whose documentation says what each of them does.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from farspan._backend import arrays
from farspan._backend.schema import Array, Size
from farspan._errors import ArgumentError, DtypeError, message

ORDERS = ("hf", "vllm", "sglang", "llamacpp")
"""Whose chain of cuts is followed."""

REALS = {
    "top_p": 1.0, "min_p": 0.0, "typical": 1.0, "epsilon": 0.0, "eta": 0.0, "top_h": 1.0, "top_n_sigma": 0.0,
    "xtc_probability": 0.0, "xtc_threshold": 0.1, "repetition_penalty": 1.0, "frequency_penalty": 0.0,
    "presence_penalty": 0.0, "dry_multiplier": 0.0, "dry_base": 1.75,
}  # fmt: skip
"""Real settings and what turns them off, in the order of the rows of `Settings.reals`."""

COUNTS = {"top_k": 0, "min_keep": 1, "no_repeat_ngram": 0, "dry_allowed_length": 2}
"""Whole-numbered settings, in the order of the rows of `Settings.counts`."""

NO_EFFECT = REALS | COUNTS
_PLAIN = frozenset((int, float))
_NONE = frozenset((type(None),))

MAX_TOP = 128
"""The longest list of most likely tokens."""


class Rules(NamedTuple):
    """How a product becomes a logit. Arrays here and below are of the kind of hidden, but for those of a GPU's rows."""

    scale: float = 1.0
    softcap: float | None = None
    bias: Array | None = None
    """float32 `[vocab]`"""
    valid_vocab: Size | None = None
    """How many tokens exist; None: as many as the weight has rows."""


def check_large(hidden: Any, weight: Any) -> str:
    """The two large inputs of an unembedding; gives their element type."""
    dtype = arrays.large("hidden", hidden)
    if hidden.ndim == 0:
        arrays.rank("hidden", hidden, "[..., dim]")
    arrays.large_like("weight", weight, "hidden", hidden)
    arrays.rank("weight", weight, "[vocab, dim]")
    return dtype


def rules_of(hidden: Any, scale: Any, softcap: Any, bias: Any, valid_vocab: Any) -> Rules:
    """The public arguments of the same names."""
    return Rules(
        arrays.number("scale", scale),
        None if softcap is None else arrays.number("softcap", softcap),
        arrays.small("bias", bias, hidden),
        None if valid_vocab is None else arrays.count("valid_vocab", valid_vocab),
    )


def tokens_of(weight: Any, rules: Rules) -> int:
    """How many tokens exist."""
    return weight.shape[0] if rules.valid_vocab is None else rules.valid_vocab


class Draws(NamedTuple):
    """Where the noise of each row comes from, and how much of it there is: one entry, or one per row. Of rows on a GPU
    an entry may be a plain number: a launch carries it."""

    seed: Array
    """This and the next two are int64."""
    position: Array
    stream: Array
    temperature: Array
    """float32"""


def draws_of(hidden: Any, seed: Any, position: Any, stream: Any, temperature: Any) -> Draws:
    """The public arguments of the same names."""
    rows, stays = hidden.shape[:-1], _on_gpu(hidden) and not sys.modules["torch"].compiler.is_compiling()

    def per_row(name: str, x: Any, *, integer: bool, low: int = 0, high: int = 0) -> Any:
        if stays and type(x) in _PLAIN:
            return arrays.of_all_rows(name, x, integer=integer, low=low, high=high)
        return arrays.per_row(name, x, hidden, rows, integer=integer, low=low, high=high)

    return Draws(
        per_row("seed", seed, integer=True, low=-(2**63), high=2**64),
        per_row("position", position, integer=True, high=2**32),
        per_row("stream", stream, integer=True, high=2**32),
        per_row("temperature", temperature, integer=False),
    )


class Drawn(NamedTuple):
    """Draws whose ranks are to be counted."""

    token: Array
    logit: Array
    known: Array
    """The ranks that `sample` knew."""


class Targets(NamedTuple):
    """The tokens that are scored: one, or one per row."""

    targets: Array


class Longest(NamedTuple):
    """How many of the largest logits are listed."""

    k: Size


class Bias(NamedTuple):
    """What a linear layer adds to each output."""

    bias: Array | None = None


NO_BIAS = Bias()


class Listed(NamedTuple):
    """What `farspan.score` lists beside the target."""

    top: int = 0


class Settings(NamedTuple):
    """What is drawn from; None where a list is not given."""

    order: str = "hf"
    reals: Array | None = None
    """float64 `[len(REALS), rows]`: a share means what is written, unrounded. None when no setting does anything."""
    counts: Array | None = None
    """int64 `[len(COUNTS), rows]`"""
    history_ids: Array | None = None
    """Lists of ids and offsets are int64: those of row r are `ids[offsets[r] : offsets[r + 1]]`."""
    history_offsets: Array | None = None
    prompt_lengths: Array | None = None
    bias_ids: Array | None = None
    bias_values: Array | None = None
    """float32"""
    bias_offsets: Array | None = None
    banned_ids: Array | None = None
    banned_offsets: Array | None = None
    allowed_ids: Array | None = None
    allowed_offsets: Array | None = None
    mask: Array | None = None
    """int32 `[rows, words]`"""
    top: int = 0
    samples: int = 1


class Shard(NamedTuple):
    """The part of a vocabulary that the weight is: a `farspan.VocabularyShard`."""

    first: int
    vocab: int
    gather: Callable[[bytes], list[bytes]]


NOTHING = Settings()
"""One draw of the whole distribution."""


def collect(
    hidden: Any, *, order: Any, history: Any, prompt_lengths: Any, logit_bias: Any, banned: Any, allowed: Any,
    mask: Any, top: Any, samples: Any, **per_row: Any,
) -> Settings:  # fmt: skip
    """The settings of a call, `NOTHING` when none of them does anything. They lie on the host, where those of rows on
    a GPU are decided, wherever they came from."""
    if order not in ORDERS:
        wrong = ArgumentError if isinstance(order, str) else DtypeError
        raise wrong(message("order", " or ".join(map(repr, ORDERS)), repr(order)))
    top, samples = arrays.count("top", top), arrays.count("samples", samples)
    if top > MAX_TOP:
        raise ArgumentError(message("top", f"0 to {MAX_TOP}", top))
    given = (history, prompt_lengths, logit_bias, banned, allowed, mask)
    off = _PLAIN.issuperset(map(type, per_row.values())) and per_row == NO_EFFECT
    if off and top == 0 and samples == 1 and _NONE.issuperset(map(type, given)):
        return NOTHING
    if _on_gpu(hidden):
        history, prompt_lengths, logit_bias, banned, allowed, mask = map(_to_host, given)
        per_row = {name: _to_host(x) for name, x in per_row.items()}
        hidden = hidden.new_empty((*hidden.shape[:-1], 0), device="cpu")  # of its kind and rows
    rows = hidden.shape[:-1]
    reals = [arrays.per_row(name, per_row[name], hidden, rows, integer=False, wide=True) for name in REALS]
    counts = [arrays.per_row(name, per_row[name], hidden, rows, integer=True, high=2**63) for name in COUNTS]
    history_ids, history_offsets = _lists("history", history, hidden)
    bias_ids, bias_values, bias_offsets = _biases(logit_bias, hidden)
    banned_ids, banned_offsets = _lists("banned", banned, hidden)
    allowed_ids, allowed_offsets = _lists("allowed", allowed, hidden)
    return Settings(
        order=order,
        reals=_table(hidden, reals),
        counts=_table(hidden, counts),
        history_ids=history_ids,
        history_offsets=history_offsets,
        prompt_lengths=_integers("prompt_lengths", prompt_lengths, hidden),
        bias_ids=bias_ids,
        bias_values=bias_values,
        bias_offsets=bias_offsets,
        banned_ids=banned_ids,
        banned_offsets=banned_offsets,
        allowed_ids=allowed_ids,
        allowed_offsets=allowed_offsets,
        mask=_mask(mask, hidden, math.prod(rows)),
        top=top,
        samples=samples,
    )


def _on_gpu(x: Any) -> bool:
    return arrays.is_tensor(x) and x.device.type == "cuda"


def _to_host(x: Any) -> Any:
    if isinstance(x, tuple):
        return tuple(map(_to_host, x))
    return x.cpu() if _on_gpu(x) else x


def _table(hidden: Any, settings: list[Any]) -> Any:
    """One row for each setting."""
    rows = math.prod(hidden.shape[:-1])
    if isinstance(hidden, np.ndarray):
        return np.stack([np.broadcast_to(x.reshape(-1), (rows,)) for x in settings])
    import torch

    return torch.stack([x.reshape(-1).expand(rows) for x in settings])


def _lists(name: str, lists: Any, hidden: Any) -> tuple[Any, Any]:
    if lists is None:
        return None, None
    if not (isinstance(lists, (tuple, list)) and len(lists) == 2):
        raise DtypeError(message(name, "(ids [total], offsets [rows + 1])", arrays.describe(lists)))
    ids, offsets = (_integers(name, x, hidden) for x in lists)
    return ids, offsets


def _biases(logit_bias: Any, hidden: Any) -> tuple[Any, Any, Any]:
    if logit_bias is None:
        return None, None, None
    if not (isinstance(logit_bias, (tuple, list)) and len(logit_bias) == 3):
        expected = "(ids [total], values [total], offsets [rows + 1])"
        raise DtypeError(message("logit_bias", expected, arrays.describe(logit_bias)))
    ids, values, offsets = logit_bias
    values = arrays.small("logit_bias", values, hidden)
    if arrays.dtype_name(values) not in ("float32", "float64", "int32", "int64") or values.ndim != 1:
        raise DtypeError(message("logit_bias", "float32 values [total]", arrays.describe(values)))
    if isinstance(values, np.ndarray):
        values = arrays.float32("logit_bias", values)
    else:
        if arrays.dtype_name(values) == "float64":
            arrays.float32("logit_bias", values.detach().numpy())
        values = values.detach().float().contiguous()
    return _integers("logit_bias", ids, hidden), values, _integers("logit_bias", offsets, hidden)


def _integers(name: str, x: Any, hidden: Any) -> Any:
    """int64 `[n]`."""
    if x is None:
        return None
    x = arrays.small(name, x, hidden)
    if arrays.dtype_name(x) not in ("int32", "int64") and 0 not in x.shape:
        raise DtypeError(message(name, "int32 or int64", arrays.describe(x)))
    x = x.reshape(-1) if x.ndim == 0 else x
    arrays.rank(name, x, "[n]")
    if isinstance(x, np.ndarray):
        return np.ascontiguousarray(x, np.int64)
    return x.long().contiguous()


def _mask(mask: Any, hidden: Any, rows: int) -> Any:
    if mask is None:
        return None
    mask = arrays.small("mask", mask, hidden)
    if arrays.dtype_name(mask) != "int32":
        raise DtypeError(message("mask", "packed int32 words", arrays.describe(mask)))
    if mask.ndim != 2 or mask.shape[0] != rows:
        raise ArgumentError(message("mask", f"shape [{rows}, words], one row of words per row", list(mask.shape)))
    return np.ascontiguousarray(mask) if isinstance(mask, np.ndarray) else mask.contiguous()
