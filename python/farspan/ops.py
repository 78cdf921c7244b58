"""Every operation as `torch.ops.farspan.*`: schema, kernels for CPU and CUDA, a fake kernel, a refusal of gradients.

The operators are registered when this module is imported, which `farspan.attention` and its siblings do at their first
torch tensor. They take the arguments that the public functions have normalised; `define` and `impl` are used instead of
`torch.library.custom_op`, which costs 10 microseconds more per call, once per token and layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from farspan._backend import cpu, gpu
from farspan._backend.arrays import dtype_name
from farspan._backend.compiler import warn_of_cache
from farspan._backend.hooks import Hooks
from farspan._backend.memory import GpuMemory
from farspan._backend.schema import schema
from farspan._backend.settings import Settings
from farspan._errors import BackendError, DtypeError, message

_LIBRARY = torch.library.Library("farspan", "DEF")
_HALVES = (torch.bfloat16, torch.float16)
_RULES = "float scale=1.0, float? softcap=None, Tensor? bias=None, SymInt? valid_vocab=None"
_SAMPLE, _SCORE = (
    "(" + ", ".join(f"Tensor {name}" for name in kinds) + ")" for kinds in (cpu.SAMPLE_KINDS, cpu.SCORE_KINDS)
)
_SETTINGS = (
    "str order='hf', Tensor? reals=None, Tensor? counts=None, Tensor? history_ids=None, Tensor? history_offsets=None, "
    "Tensor? prompt_lengths=None, Tensor? bias_ids=None, Tensor? bias_values=None, Tensor? bias_offsets=None, "
    "Tensor? banned_ids=None, Tensor? banned_offsets=None, Tensor? allowed_ids=None, Tensor? allowed_offsets=None, "
    "Tensor? mask=None, int top=0, int samples=1"
)


def _large(tensor: Tensor) -> np.ndarray:
    """The memory of a tensor as an array, half types by their bits."""
    if tensor.requires_grad:  # without grad mode: nobody asks for the gradient
        tensor = tensor.detach()
    return (tensor.view(torch.uint16) if tensor.dtype in _HALVES else tensor).numpy()


def _small(name: str, tensor: Tensor | None) -> np.ndarray | None:
    """The memory of a table, positions or lengths."""
    if tensor is None:
        return None
    if tensor.dtype in _HALVES:
        raise DtypeError(message(name, "float32, or integers where they fit", dtype_name(tensor)))
    return (tensor.detach() if tensor.requires_grad else tensor).numpy()


def _tensor(array: np.ndarray, like: Tensor) -> Tensor:
    tensor = torch.from_numpy(array)
    return tensor.view(like.dtype) if like.dtype in _HALVES else tensor


def _telling(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """The same, and then what is to be known of the compiled kernels' cache."""

    def call(*arguments: Any) -> Any:
        result = kernel(*arguments)
        warn_of_cache()
        return result

    return call


def _register(
    schema: str, kernel: Callable[..., Any], cuda: Callable[..., Any], fake: Callable[..., Any]
) -> Callable[..., Any]:
    """Define `torch.ops.farspan.<name>`; gives the way into it that the public function takes."""
    name = schema.split("(")[0]
    _LIBRARY.define(schema)
    _LIBRARY.impl(name, kernel, "CPU")
    _LIBRARY.impl(name, _telling(cuda), "CUDA")
    torch.library.register_fake(f"farspan::{name}", fake, lib=_LIBRARY)
    operator = getattr(torch.ops.farspan, name).default

    def refuse_gradients(*arguments: Any) -> Any:
        if torch.is_grad_enabled():
            for i, given in enumerate(arguments):
                if given is not None and isinstance(given, Tensor) and given.requires_grad:
                    argument = operator._schema.arguments[i].name
                    expected = (
                        f"no gradient: farspan.{name} has no backward yet (torch.no_grad() or farspan.reference.{name})"
                    )
                    raise BackendError(message(argument, expected, "a tensor that requires one"))
        try:
            with torch._C._AutoDispatchBelowAutograd():
                return operator(*arguments)
        except NotImplementedError as error:  # of the dispatcher: sparse, quantised and other unusual tensors
            first = operator._schema.arguments[0].name
            raise BackendError(
                message(first, "dense tensors on the CPU or on a GPU", f"what torch says no to: {error}")
            ) from error

    def call(*arguments: Any) -> Any:
        # Outside of tracing the first step of the dispatch is taken here: the detour over it costs 5 microseconds.
        return (operator if torch.compiler.is_compiling() else refuse_gradients)(*arguments)

    _LIBRARY.impl(name, refuse_gradients, "Autograd")
    return call


# ------------------------------------------------------------------------------------------------------------ attention


def _attention_cpu(query: Tensor, key: Tensor, value: Tensor, *hooks: Any) -> tuple[Tensor, Tensor]:
    arrays = Hooks(*hooks).map_arrays(_small)
    output, lse = cpu.attention(dtype_name(query), _large(query), _large(key), _large(value), arrays)
    return _tensor(output, query), torch.from_numpy(lse)


def _attention_cuda(query: Tensor, key: Tensor, value: Tensor, *hooks: Any) -> tuple[Tensor, Tensor]:
    return gpu.attention(GpuMemory(query), dtype_name(query), query, key, value, Hooks(*hooks))


def _attention_fake(query: Tensor, key: Tensor, value: Tensor, *hooks: Any) -> tuple[Tensor, Tensor]:
    shape, lse_shape = cpu.attention_shapes(query, key, value, Hooks(*hooks))
    return query.new_empty(shape), query.new_empty(lse_shape, dtype=torch.float32)


attention = _register(
    f"attention(Tensor query, Tensor key, Tensor value, {schema(Hooks)}) -> (Tensor output, Tensor lse)",
    _attention_cpu,
    _attention_cuda,
    _attention_fake,
)


# --------------------------------------------------------------------------------------------------------------- linear


def _linear_cpu(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    names = dtype_name(x), dtype_name(weight)
    return _tensor(cpu.linear(*names, _large(x), _large(weight), _small("bias", bias)), x)


def _linear_cuda(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


def _linear_fake(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


linear = _register(
    "linear(Tensor x, Tensor weight, Tensor? bias=None) -> Tensor", _linear_cpu, _linear_cuda, _linear_fake
)


# ---------------------------------------------------------------------------------------------------------- unembedding


def _rules(
    scale: float = 1.0, softcap: float | None = None, bias: Tensor | None = None, valid_vocab: int | None = None
) -> Any:
    return scale, softcap, _small("bias", bias), valid_vocab


def _greedy_cpu(hidden: Tensor, weight: Tensor, *rules: Any) -> tuple[Tensor, ...]:
    fields = cpu.greedy(dtype_name(hidden), _large(hidden), _large(weight), _rules(*rules))
    return tuple(map(torch.from_numpy, fields))


def _greedy_cuda(hidden: Tensor, weight: Tensor, *rules: Any) -> tuple[Tensor, ...]:
    return gpu.greedy(GpuMemory(hidden), dtype_name(hidden), hidden, weight, _cuda_rules(rules))


def _cuda_rules(rules: tuple[Any, ...]) -> Any:
    return *rules, *(1.0, None, None, None)[len(rules) :]


def _rules_and_settings(given: tuple[Any, ...]) -> tuple[Any, Settings]:
    """Arguments behind the tensors that every call has; torch leaves out what equals the defaults at the end."""
    arrays: Any = (x.detach().numpy() if isinstance(x, Tensor) else x for x in given[_RULES_LENGTH:])
    return _rules(*given[:_RULES_LENGTH]), Settings(*arrays)


def _sample_cpu(
    hidden: Tensor, weight: Tensor, seed: Tensor, position: Tensor, stream: Tensor, temperature: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    draws: Any = (seed.numpy(), position.numpy(), stream.numpy(), _small("temperature", temperature))
    fields = cpu.sample(dtype_name(hidden), _large(hidden), _large(weight), draws, *_rules_and_settings(rest))
    return tuple(map(torch.from_numpy, fields))


def _sample_cuda(
    hidden: Tensor, weight: Tensor, seed: Tensor, position: Tensor, stream: Tensor, temperature: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    rules, settings = _cuda_rules(rest[:_RULES_LENGTH]), Settings(*rest[_RULES_LENGTH:])
    draws = (seed, position, stream, temperature)
    return gpu.sample(GpuMemory(hidden), dtype_name(hidden), hidden, weight, draws, rules, settings)


def _ranks_cuda(hidden: Tensor, weight: Tensor, token: Tensor, logit: Tensor, known: Tensor, *rest: Any) -> Any:
    rules, settings = _cuda_rules(rest[:_RULES_LENGTH]), Settings(*rest[_RULES_LENGTH:])
    drawn = (token, logit, known)
    return gpu.ranks(GpuMemory(hidden), dtype_name(hidden), hidden, weight, drawn, rules, settings)


def _ranks_cpu(hidden: Tensor, weight: Tensor, token: Tensor, logit: Tensor, known: Tensor, *rest: Any) -> Tensor:
    drawn = (token.numpy(), logit.numpy(), known.numpy())
    arrays = dtype_name(hidden), _large(hidden), _large(weight)
    return torch.from_numpy(cpu.ranks(*arrays, drawn, *_rules_and_settings(rest)))


def _score_cpu(hidden: Tensor, weight: Tensor, targets: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    rules, top = _rules(*rest[:_RULES_LENGTH]), _top_of(rest)
    fields = cpu.score(dtype_name(hidden), _large(hidden), _large(weight), targets.numpy(), rules, top)
    return tuple(map(torch.from_numpy, fields))


def _score_cuda(hidden: Tensor, weight: Tensor, targets: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    rules, top = _cuda_rules(rest[:_RULES_LENGTH]), _top_of(rest)
    return gpu.score(GpuMemory(hidden), dtype_name(hidden), hidden, weight, targets, rules, top)


def _top_cuda(hidden: Tensor, weight: Tensor, k: int, *rules: Any) -> tuple[Tensor, ...]:
    return gpu.top(GpuMemory(hidden), dtype_name(hidden), hidden, weight, k, _cuda_rules(rules))


def _top_cpu(hidden: Tensor, weight: Tensor, k: int, *rules: Any) -> tuple[Tensor, ...]:
    fields = cpu.top(dtype_name(hidden), _large(hidden), _large(weight), k, _rules(*rules))
    return tuple(map(torch.from_numpy, fields))


def _score_fake(hidden: Tensor, weight: Tensor, targets: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    shapes = cpu.score_shapes(tuple(hidden.shape[:-1]), _top_of(rest))
    return _new(hidden, shapes, cpu.SCORE_KINDS)


def _top_of(rest: tuple[Any, ...]) -> int:
    return rest[_RULES_LENGTH] if len(rest) > _RULES_LENGTH else 0


def _new(hidden: Tensor, shapes: list[tuple[int, ...]], kinds: dict[str, str]) -> tuple[Tensor, ...]:
    """Tensors of the kinds that `_kernels` lists."""
    types = (getattr(torch, kind) for kind in kinds.values())
    return tuple(hidden.new_empty(shape, dtype=kind) for shape, kind in zip(shapes, types, strict=True))


def _top_fake(hidden: Tensor, weight: Tensor, k: int, *rules: Any) -> tuple[Tensor, ...]:
    rows = hidden.shape[:-1]
    lists = (hidden.new_empty((*rows, k), dtype=kind) for kind in (torch.int64, torch.float32))
    return (*lists, hidden.new_empty(rows, dtype=torch.float32))


def _sample_fake(hidden: Tensor, weight: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    settings = Settings(*arguments[_DRAWS_LENGTH + _RULES_LENGTH :])
    shapes = cpu.sample_shapes(tuple(hidden.shape[:-1]), settings.samples, settings.top)
    return _new(hidden, shapes, cpu.SAMPLE_KINDS)


_DRAWS_LENGTH, _RULES_LENGTH = 4, 4
"""seed, position, stream, temperature; scale, softcap, bias, valid_vocab."""

greedy = _register(
    f"greedy(Tensor hidden, Tensor weight, {_RULES}) -> {_SAMPLE}", _greedy_cpu, _greedy_cuda, _sample_fake
)
sample = _register(
    "sample(Tensor hidden, Tensor weight, Tensor seed, Tensor position, Tensor stream, Tensor temperature, "
    f"{_RULES}, {_SETTINGS}) -> {_SAMPLE}",
    _sample_cpu,
    _sample_cuda,
    _sample_fake,
)
ranks = _register(
    f"ranks(Tensor hidden, Tensor weight, Tensor token, Tensor logit, Tensor known, {_RULES}, {_SETTINGS}) -> Tensor",
    _ranks_cpu,
    _ranks_cuda,
    lambda hidden, weight, token, logit, known, *rest: torch.empty_like(known),
)
score = _register(
    f"score(Tensor hidden, Tensor weight, Tensor targets, {_RULES}, int top=0) -> {_SCORE}",
    _score_cpu,
    _score_cuda,
    _score_fake,
)
top = _register(
    f"top(Tensor hidden, Tensor weight, SymInt k, {_RULES}) -> (Tensor token, Tensor logit, Tensor lse)",
    _top_cpu,
    _top_cuda,
    _top_fake,
)
