"""The compiled module. Arguments are positional; half-precision arrays come as their bits, in uint16."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from farspan._backend.hooks import Above, Gradients, Hooks
from farspan._backend.losses import CrossEntropy, ScoreRead
from farspan._backend.settings import Draws, Rules, Settings, Shard
from farspan._results import AttentionStatistics

_Array = np.ndarray
_Problem: TypeAlias = tuple[str, _Array, _Array, Rules]
"""dtype, hidden [rows, dim], weight [vocab, dim], rules"""

def attention(
    dtype: str,
    output: _Array,
    lse: _Array,
    query: _Array,
    key: _Array,
    value: _Array,
    hooks: Hooks,
    /,
) -> None: ...
def attention_backward(
    dtype: str,
    gradients: Gradients,
    query: _Array,
    key: _Array,
    value: _Array,
    output: _Array,
    output_gradient: _Array,
    above: Above,
    hooks: Hooks,
    /,
) -> None: ...
def attention_backward_of_heads(
    dtype: str,
    gradient: _Array,
    query: _Array,
    key: _Array,
    value: _Array,
    output: _Array,
    output_gradient: _Array,
    above: Above,
    hooks: Hooks,
    /,
) -> None: ...
def attention_statistics(
    dtype: str, statistics: AttentionStatistics, query: _Array, key: _Array, hooks: Hooks, /
) -> None: ...

HOOKS: tuple[str, ...]
ABOVE: tuple[str, ...]
GRADIENTS: tuple[str, ...]
STATISTICS: tuple[str, ...]
"""The fields of Hooks, Above and Gradients that are read."""

def linear(dtype: str, weight_dtype: str, out: _Array, x: _Array, weight: _Array, bias: _Array | None, /) -> None: ...
def linear_x_gradient(dtype: str, weight_dtype: str, out: _Array, gradient: _Array, weight: _Array, /) -> None: ...
def linear_weight_gradient(dtype: str, x_dtype: str, out: _Array, gradient: _Array, x: _Array, /) -> None: ...
def rms_norm(out: _Array, x: _Array, weight: _Array, eps: float, /) -> None: ...
def add_rms_norm(sum: _Array, out: _Array, x: _Array, y: _Array, weight: _Array, eps: float, /) -> None: ...
def rms_norm_gradient(
    out: _Array, of_weight: _Array, x: _Array, weight: _Array, eps: float, slope: _Array, beside: _Array | None, /
) -> None: ...
def activate_gradient(out: _Array, x: _Array, activation: str, gated: bool, slope: _Array, /) -> None: ...
def activate(out: _Array, x: _Array, activation: str, gated: bool, /) -> None: ...

RULES: tuple[str, ...]
DRAWS: tuple[str, ...]
SETTINGS: tuple[str, ...]
SHARD: tuple[str, ...]
"""The fields of these that are read."""
REALS: tuple[str, ...]
COUNTS: tuple[str, ...]
"""The rows of the tables of settings."""
SAMPLE: tuple[str, ...]
SCORE: tuple[str, ...]
"""What is written, in this order."""
ORDERS: tuple[str, ...]
CROSSENTROPY: tuple[str, ...]
SCOREREAD: tuple[str, ...]

def greedy(problem: _Problem, out: Sequence[_Array], /) -> None: ...
def sample(
    problem: _Problem, draws: Draws, settings: Settings | None, shard: Shard | None, out: Sequence[_Array], /
) -> None: ...
def rank(
    problem: _Problem, settings: Settings | None, shard: Shard | None, drawn: Sequence[_Array], rank: _Array, /
) -> None: ...
def sum_ranks(shard: Shard, counted: _Array, rank: _Array, /) -> None: ...
def second_passes() -> int: ...

SHARD_UNIT: int

def score(problem: _Problem, targets: _Array, top: int, out: Sequence[_Array], /) -> None: ...
def top(problem: _Problem, k: int, out: Sequence[_Array], /) -> None: ...

_Asked: TypeAlias = Sequence[_Array | None]
"""The gradients of hidden, weight and bias, None where one is not asked for."""

def linear_cross_entropy(problem: _Problem, settings: CrossEntropy, out: Sequence[_Array], /) -> None: ...
def linear_cross_entropy_gradient(
    problem: _Problem, settings: CrossEntropy, read: Sequence[_Array], out: _Asked, /
) -> None: ...
def score_gradient(problem: _Problem, targets: _Array, read: ScoreRead, out: _Asked, /) -> None: ...
def divergence(model: _Problem, target: _Problem, temperature: float, out: Sequence[_Array], /) -> None: ...
def divergence_gradient(
    model: _Problem, target: _Problem, temperature: float, read: Sequence[_Array], out: _Asked, /
) -> None: ...
def set_num_threads(count: int) -> None: ...
def num_threads() -> int: ...
def force_cpu(name: str | None) -> None: ...
def cpu_info() -> tuple[str, list[tuple[str, bool]]]: ...
def cuda_status(
    nvrtc: str | None, searched: str, /
) -> tuple[str | None, tuple[int, int] | None, tuple[int, int] | None, list[tuple[int, str, int, int, int]]]: ...
def cuda_open(nvrtc: str | None, searched: str, /) -> None: ...
def cuda_warning() -> str | None: ...
def cuda_cache() -> tuple[str, int, int]: ...
def cuda_clear_cache() -> int: ...
def cuda_warm(architecture: int, threads: int, /) -> tuple[int, int]: ...
def cuda_kernels() -> list[tuple[str, int, int, int]]: ...
def cuda_compile(name: str, architecture: int, /) -> tuple[bytes, list[int]]: ...

_Described: TypeAlias = tuple[int, tuple[int, ...], tuple[int, ...]]
"""address, shape, strides in elements"""
_DeviceProblem: TypeAlias = tuple[str, _Described, _Described, Rules]
"""dtype, hidden, weight, rules"""

class Emulator:
    def __new__(cls, path: str, seed: int = 0, /) -> Emulator: ...
    def launched(self) -> list[str]: ...

def cuda_attention(
    memory: Any,
    dtype: str,
    output: _Described,
    lse: _Described,
    query: _Described,
    key: _Described,
    value: _Described,
    hooks: Hooks,
    /,
) -> None: ...
def cuda_attention_backward(
    memory: Any,
    dtype: str,
    gradients: Gradients,
    query: _Described,
    key: _Described,
    value: _Described,
    output: _Described,
    output_gradient: _Described,
    above: Above,
    hooks: Hooks,
    /,
) -> None: ...
def cuda_attention_statistics(
    memory: Any,
    dtype: str,
    statistics: AttentionStatistics,
    query: _Described,
    key: _Described,
    hooks: Hooks,
    /,
) -> None: ...
def cuda_probe(memory: Any, name: str, tiles: int, addresses: tuple[int, int, int], /) -> None: ...
def cuda_sample(memory: Any, problem: _DeviceProblem, drawn: Draws | None, out: Sequence[int], /) -> None: ...
def cuda_sample_on_host(
    memory: Any,
    problem: _DeviceProblem,
    drawn: Draws,
    draws: Draws,
    settings: Settings | None,
    shard: Shard | None,
    out: Sequence[_Array],
    /,
) -> None: ...
def cuda_rank(
    memory: Any, problem: _DeviceProblem, settings: Settings | None, shard: Shard | None, drawn: Sequence[int], /
) -> None: ...
def cuda_score(memory: Any, problem: _DeviceProblem, targets: _Described, top: int, out: Sequence[int], /) -> None: ...
def cuda_top(memory: Any, problem: _DeviceProblem, k: int, out: Sequence[int], /) -> None: ...
def cuda_linear_cross_entropy(
    memory: Any, problem: _DeviceProblem, settings: CrossEntropy, out: Sequence[int], /
) -> None: ...
def cuda_linear_cross_entropy_gradient(
    memory: Any,
    problem: _DeviceProblem,
    settings: CrossEntropy,
    read: Sequence[_Described],
    out: Sequence[int],
    /,
) -> None: ...
def cuda_score_gradient(
    memory: Any, problem: _DeviceProblem, targets: _Described, read: ScoreRead, out: Sequence[int], /
) -> None: ...
def cuda_divergence(
    memory: Any, model: _DeviceProblem, target: _DeviceProblem, temperature: float, out: Sequence[int], /
) -> None: ...
def cuda_divergence_gradient(
    memory: Any,
    model: _DeviceProblem,
    target: _DeviceProblem,
    temperature: float,
    read: Sequence[_Described],
    out: Sequence[int],
    /,
) -> None: ...
