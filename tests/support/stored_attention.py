"""Calls of `farspan.attention` whose bits are stored: every hook alone, in every layout, and with every other."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

import farspan
from support.stored_bits import DTYPES, Case, Numbers

Hooks = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """Sequences, query heads, key heads, queries, keys, dim of keys and of values."""

    queries: int
    keys: int
    dim: int
    value_dim: int
    heads: int = 4
    key_heads: int = 2
    batch: int = 2
    name: str = ""

    def __str__(self) -> str:
        return (
            self.name
            or f"{self.batch}x{self.heads}/{self.key_heads} {self.queries}x{self.keys} {self.dim}/{self.value_dim}"
        )

    @property
    def split(self) -> list[int]:
        """The queries of three sequences, of which the second has none."""
        return [self.queries - self.queries // 3, 0, self.queries // 3]


@dataclass
class Problem:
    """The large inputs, and what the hooks have to know of them."""

    large: list[np.ndarray]
    size: Size
    rows: tuple[int, ...]
    """Shape of a number per query head and query."""
    columns: tuple[int, ...]
    """Shape of a number per query head and key."""
    hooks: Hooks = field(default_factory=dict)
    """Offsets, lengths and tables of the layout."""


def _dense(make: Numbers, size: Size) -> Problem:
    large = [
        make.normal("query", size.batch, size.heads, size.queries, size.dim),
        make.normal("key", size.batch, size.key_heads, size.keys, size.dim),
        make.normal("value", size.batch, size.key_heads, size.keys, size.value_dim),
    ]
    leading = (size.batch, size.heads)
    return Problem(large, size, (*leading, size.queries), (*leading, size.keys))


def _ragged(make: Numbers, size: Size) -> Problem:
    size = replace(size, batch=3)
    keys = [size.keys // 4, size.keys // 8, size.keys - size.keys // 4 - size.keys // 8]
    large = [
        make.normal("query", size.queries, size.heads, size.dim),
        make.normal("key", size.keys, size.key_heads, size.dim),
        make.normal("value", size.keys, size.key_heads, size.value_dim),
    ]
    offsets = {"query_offsets": np.cumsum([0, *size.split]), "key_offsets": np.cumsum([0, *keys])}
    return Problem(large, size, (size.heads, size.queries), (size.heads, size.keys), offsets)


def _paged(make: Numbers, size: Size, page_size: int = 24) -> Problem:
    blocks = -(-size.keys // page_size)
    problem = _dense(make, replace(size, keys=blocks * page_size))
    pages = size.batch * blocks + 2
    shape = (pages, size.key_heads, page_size)
    problem.large[1:] = [make.normal("key", *shape, size.dim), make.normal("value", *shape, size.value_dim)]
    table = np.argsort(make.integers("pages", 0, 2**40, pages), kind="stable")[: size.batch * blocks]
    lengths = make.integers("lengths", size.keys // 2, size.keys + 1, size.batch)
    problem.hooks = {"block_table": table.reshape(size.batch, blocks), "key_lengths": lengths}
    return problem


def _ragged_paged(make: Numbers, size: Size) -> Problem:
    problem = _paged(make, replace(size, batch=3))
    problem.large[0] = make.normal("query", size.queries, size.heads, size.dim)
    problem.rows = (size.heads, size.queries)
    problem.hooks["query_offsets"] = np.cumsum([0, *size.split])
    return problem


LAYOUTS = {"dense": _dense, "ragged": _ragged, "paged": _paged, "ragged paged": _ragged_paged}


def _key_bias(make: Numbers, of: Problem, *shape: int) -> Hooks:
    bias = make.normal("key_bias", *shape)
    bias[make.some("hidden keys", 5, *shape)] = -np.inf
    return {"key_bias": bias}


def _distance(make: Numbers, of: Problem, heads: int, length: int, minimum: int) -> Hooks:
    return {"distance_bias": farspan.DistanceBias(make.normal("table", heads, length), minimum=minimum)}


def _inv_freq(make: Numbers, half: int, *leading: int) -> np.ndarray:
    return np.abs(make.normal("inv_freq", *leading, half)) / 8


def _rotary(make: Numbers, of: Problem, interleaved: bool = False, magnitude: float = 1.0, parts: int = 1) -> Hooks:
    inv_freq = _inv_freq(make, max(1, of.size.dim // 2 // parts))
    return {"rotary": farspan.Rotary(inv_freq, interleaved=interleaved, magnitude=magnitude)}


def _far(make: Numbers, of: Problem) -> Hooks:
    far = {f"far_{name}_positions": value for name, value in (("query", of.rows), ("key", of.columns))}
    far = {name: make.integers(name, 0, 500, shape[-1]) for name, shape in far.items()}
    return {"rotary": farspan.Rotary(_inv_freq(make, of.size.dim // 2), border=30.0, **far)}


def _positions(make: Numbers, of: Problem, name: str, dtype: Any) -> Hooks:
    shape = of.rows if name == "query_positions" else of.columns
    return {name: make.integers(name, 0, 700, shape[-1]).astype(dtype)}


def _lengths(make: Numbers, of: Problem) -> Hooks:
    if "key_offsets" in of.hooks:
        longest = np.diff(of.hooks["key_offsets"])
        return {"key_lengths": longest - make.integers("shorter", 0, 3, len(longest)).clip(0, longest)}
    return {"key_lengths": make.integers("key_lengths", 0, of.size.keys + 1, of.size.batch).astype(np.int32)}


HOOKS: dict[str, Callable[[Numbers, Problem], Hooks]] = {
    "causal": lambda make, of: {"causal": True},
    "window": lambda make, of: {"causal": True, "window": 37},
    "sides": lambda make, of: {"window": (20, 5)},
    "first": lambda make, of: {"causal": True, "window": 9, "keep_first": 3},
    "scale": lambda make, of: {"scale": 0.37},
    "softcap": lambda make, of: {"softcap": 2.5},
    "sink": lambda make, of: {"sink": make.normal("sink", of.size.heads)},
    "key bias": lambda make, of: _key_bias(make, of, *of.columns),
    "one key bias": lambda make, of: _key_bias(make, of, *(1 for _ in of.columns[:-1]), of.columns[-1]),
    "query scale": lambda make, of: {"query_scale": make.normal("query_scale", *of.rows)},
    "distance": lambda make, of: _distance(make, of, of.size.heads, 50, -10),
    "one distance": lambda make, of: _distance(make, of, 1, 300, 0),
    "rotary": _rotary,
    "interleaved": partial(_rotary, interleaved=True, magnitude=1.25, parts=2),
    "rotary each": lambda make, of: {"rotary": farspan.Rotary(_inv_freq(make, of.size.dim // 2, of.size.batch))},
    "far": _far,
    "query positions": partial(_positions, name="query_positions", dtype=np.int64),
    "key positions": partial(_positions, name="key_positions", dtype=np.float32),
    "lengths": _lengths,
}
"""Each gives the keywords that set it."""

DECODE = Size(1, 300, 16, 16, name="decode")
PREFILL = Size(33, 270, 24, 32, batch=1, name="prefill")
MIDDLE = Size(21, 90, 16, 24, name="middle")
SIZES = [
    Size(0, 5, 8, 8), Size(3, 0, 8, 8), Size(1, 1, 1, 1), Size(1, 63, 2, 3), Size(2, 64, 15, 16), Size(3, 65, 17, 15),
    Size(1, 257, 80, 80, 8, 1), Size(4, 513, 64, 64, 6, 2), Size(12, 255, 40, 8, 4, 1), Size(13, 256, 40, 40, 4, 1),
    Size(16, 129, 128, 128), Size(17, 127, 32, 256), Size(63, 63, 33, 64), Size(64, 64, 64, 64), Size(65, 128, 48, 47),
    Size(96, 200, 16, 16, 3, 3, 1), Size(97, 300, 256, 128, 2, 1, 1), Size(130, 130, 31, 31, 40, 1, 1),
    Size(150, 520, 64, 64, 1, 1, 1),
]  # fmt: skip
"""At and beyond the tiles of queries, keys and dims, the chunk of 256 keys and the change from few queries to many."""


def _run(make: Numbers, layout: str, size: Size, dtype: str, hooks: tuple[str, ...], times: float = 1.0) -> Any:
    problem = LAYOUTS[layout](make, size)
    keywords = dict(problem.hooks)
    for name in hooks:
        keywords |= HOOKS[name](make, problem)
    query, key, value = problem.large
    large = (x.astype(DTYPES[dtype]) for x in (query * np.float32(times), key, value))
    return farspan.attention(*large, **keywords, return_lse=True)


def _nothing_seen(make: Numbers) -> Any:
    """Rows that see no key, and NaN in keys and values that nobody sees."""
    query, key, value = _dense(make, MIDDLE).large
    key[:, :, 40:], value[:, :, 40:] = np.nan, np.nan
    bias = np.zeros((1, 4, MIDDLE.keys), np.float32)
    bias[:, 2] = -np.inf
    return farspan.attention(query, key, value, key_bias=bias, key_lengths=np.array([40, 0]), return_lse=True)


def cases() -> Iterator[Case]:
    """Every call."""

    def case(layout: str, size: Size, dtype: str, hooks: tuple[str, ...], **more: float) -> Case:
        extra = "".join(f" {name} {value:g}" for name, value in more.items())
        label = f"{layout} {size} {dtype} {' + '.join(hooks) or 'plain'}{extra}"
        share = dtype == "float32" and size.queries * size.keys < 20_000 and zlib.crc32(label.encode()) % 4 == 0
        return Case(
            "attention", label, partial(_run, layout=layout, size=size, dtype=dtype, hooks=hooks, **more), share
        )

    dtypes = itertools.cycle(DTYPES)
    for layout in LAYOUTS:
        for name in HOOKS:
            yield case(layout, MIDDLE, "float32", (name,))
    for at, (first, second) in enumerate(itertools.combinations(HOOKS, 2)):
        if {first, second} <= {"rotary", "interleaved", "rotary each", "far"}:
            continue  # one call has one rotary
        yield case("dense", (DECODE, PREFILL)[at % 2], next(dtypes), (first, second))
    for size in SIZES:
        for dtype in DTYPES:
            yield case("dense", size, dtype, ("causal", "rotary") if size.dim > 1 else ("causal",))
    most = ("causal", "softcap", "sink", "key bias", "query scale", "distance", "interleaved", "query positions")
    rest = ("first", "scale", "one key bias", "one distance", "far", "key positions")
    for layout, dtype, size in itertools.product(LAYOUTS, DTYPES, (DECODE, PREFILL)):
        for hooks in ((), most, rest):
            yield case(layout, size, dtype, hooks)
    for times, dtype, size in itertools.product((0.0, 0.125, 30.0), DTYPES, (DECODE, PREFILL)):
        yield case("dense", size, dtype, (), times=times)
    yield Case("attention", "rows that see nothing, NaN that nobody sees", _nothing_seen, True)
