"""The compiled module. Arguments are positional; half-precision arrays come as their bits, in uint16."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

_Array = np.ndarray
_Problem: TypeAlias = tuple[str, _Array, _Array, float, float | None, _Array | None, int | None]
"""dtype, hidden [rows, dim], weight [vocab, dim], scale, softcap, bias, valid_vocab"""

def attention(
    dtype: str,
    output: _Array,
    lse: _Array,
    query: _Array,
    key: _Array,
    value: _Array,
    causal: bool,
    left: int | None,
    right: int | None,
    keep_first: int,
    scale: float | None,
    softcap: float | None,
    sink: _Array | None,
    key_bias: _Array | None,
    query_scale: _Array | None,
    distance_table: _Array | None,
    distance_minimum: int,
    inv_freq: _Array | None,
    magnitude: float,
    interleaved: bool,
    border: float | None,
    far_query_positions: _Array | None,
    far_key_positions: _Array | None,
    query_positions: _Array | None,
    key_positions: _Array | None,
    key_lengths: _Array | None,
    query_offsets: _Array | None,
    key_offsets: _Array | None,
    /,
) -> None: ...
def linear(dtype: str, weight_dtype: str, out: _Array, x: _Array, weight: _Array, bias: _Array | None, /) -> None: ...
def rms_norm(out: _Array, x: _Array, weight: _Array, eps: float, /) -> None: ...
def activate(out: _Array, x: _Array, activation: str, gated: bool, /) -> None: ...
def greedy(problem: _Problem, out: Sequence[_Array], /) -> None: ...
def sample(
    problem: _Problem, draws: Sequence[_Array], settings: tuple[Any, ...] | None, out: Sequence[_Array], /
) -> None: ...
def rank(
    problem: _Problem,
    settings: tuple[Any, ...] | None,
    shard: tuple[int, int] | None,
    drawn: Sequence[_Array],
    rank: _Array,
    /,
) -> None: ...
def second_passes() -> int: ...

SHARD_UNIT: int

def sample_part(
    problem: _Problem,
    draws: Sequence[_Array],
    settings: tuple[Any, ...] | None,
    shard: tuple[int, int],
    undecided: Sequence[int] | None,
    /,
) -> bytes: ...
def sample_merge(
    parts: Sequence[bytes],
    draws: Sequence[_Array],
    settings: tuple[Any, ...] | None,
    exist: int,
    undecided: Sequence[int] | None,
    out: Sequence[_Array],
    /,
) -> list[int]: ...
def score(problem: _Problem, targets: _Array, top: int, out: Sequence[_Array], /) -> None: ...
def top(problem: _Problem, k: int, out: Sequence[_Array], /) -> None: ...
def set_num_threads(count: int) -> None: ...
def num_threads() -> int: ...
def force_cpu(name: str | None) -> None: ...
def cpu_info() -> tuple[str, list[tuple[str, bool]]]: ...
