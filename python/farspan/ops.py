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
from farspan._backend.schema import map_arrays, schema
from farspan._backend.settings import Draws, Listed, Rules, Settings, Shard
from farspan._errors import BackendError, DtypeError, message

_LIBRARY = torch.library.Library("farspan", "DEF")
_HALVES = (torch.bfloat16, torch.float16)
_SAMPLE, _SCORE = (
    "(" + ", ".join(f"Tensor {name}" for name in kinds) + ")" for kinds in (cpu.SAMPLE_KINDS, cpu.SCORE_KINDS)
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


def _wants_gradient(name: str, argument: str) -> BackendError:
    expected = f"no gradient: farspan.{name} has no backward yet (torch.no_grad() or farspan.reference.{name})"
    return BackendError(message(argument, expected, "a tensor that requires one"))


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
                    raise _wants_gradient(name, operator._schema.arguments[i].name)
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
    arrays = map_arrays(_small, Hooks(*hooks))
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


_RULES, _DRAWS, _SETTINGS = map(schema, (Rules, Draws, Settings))


def _lists(given: tuple[Any, ...], *kinds: Any) -> list[Any]:
    """The lists of arguments that stand behind the large tensors. torch leaves out what equals the defaults at the
    end."""
    lists, start = [], 0
    for kind in kinds:
        end = start + len(kind._fields)
        lists.append(kind(*given[start:end]))
        start = end
    return lists


def _host_rules(rules: Rules) -> Rules:
    return rules if rules.bias is None else rules._replace(bias=_small("bias", rules.bias))


def _host_settings(settings: Settings) -> Settings:
    return map_arrays(lambda _, x: x.detach().numpy(), settings) if settings.reals is not None else settings


def _greedy_cpu(hidden: Tensor, weight: Tensor, *rules: Any) -> tuple[Tensor, ...]:
    fields = cpu.greedy(dtype_name(hidden), _large(hidden), _large(weight), _host_rules(Rules(*rules)))
    return tuple(map(torch.from_numpy, fields))


def _greedy_cuda(hidden: Tensor, weight: Tensor, *rules: Any) -> tuple[Tensor, ...]:
    return gpu.greedy(GpuMemory(hidden), dtype_name(hidden), hidden, weight, Rules(*rules))


def _draw_cpu(hidden: Tensor, weight: Tensor, draws: Draws, *given: Any) -> tuple[Tensor, ...]:
    rules, settings, *shard = given
    seed, position, stream, temperature = draws
    on_host = Draws(seed.numpy(), position.numpy(), stream.numpy(), _small("temperature", temperature))
    arrays = dtype_name(hidden), _large(hidden), _large(weight)
    fields = cpu.sample(*arrays, on_host, _host_rules(rules), _host_settings(settings), *shard)
    return tuple(map(torch.from_numpy, fields))


def _draw_cuda(hidden: Tensor, weight: Tensor, draws: Draws, *given: Any) -> tuple[Tensor, ...]:
    return gpu.sample(GpuMemory(hidden), dtype_name(hidden), hidden, weight, draws, *given)


def _count_cpu(hidden: Tensor, weight: Tensor, drawn: tuple[Tensor, ...], *given: Any) -> Tensor:
    rules, settings, *shard = given
    on_host = tuple(x.numpy() for x in drawn)
    arrays = dtype_name(hidden), _large(hidden), _large(weight)
    return torch.from_numpy(cpu.ranks(*arrays, on_host, _host_rules(rules), _host_settings(settings), *shard))


def _count_cuda(hidden: Tensor, weight: Tensor, drawn: tuple[Tensor, ...], *given: Any) -> Any:
    return gpu.ranks(GpuMemory(hidden), dtype_name(hidden), hidden, weight, drawn, *given)


def _sample_cpu(hidden: Tensor, weight: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return _draw_cpu(hidden, weight, *_lists(rest, Draws, Rules, Settings))


def _sample_cuda(hidden: Tensor, weight: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return _draw_cuda(hidden, weight, *_lists(rest, Draws, Rules, Settings))


def _ranks_cpu(hidden: Tensor, weight: Tensor, token: Tensor, logit: Tensor, known: Tensor, *rest: Any) -> Tensor:
    return _count_cpu(hidden, weight, (token, logit, known), *_lists(rest, Rules, Settings))


def _ranks_cuda(hidden: Tensor, weight: Tensor, token: Tensor, logit: Tensor, known: Tensor, *rest: Any) -> Any:
    return _count_cuda(hidden, weight, (token, logit, known), *_lists(rest, Rules, Settings))


class OfShard:
    """`sample` and `ranks` of a part of a vocabulary. They are no operators: torch's dispatcher takes no functions, and
    `gather` is one."""

    def __init__(self, hidden: Tensor, weight: Tensor, rules: Rules, settings: Settings, shard: Shard) -> None:
        if not (hidden.is_cpu or hidden.is_cuda):
            raise BackendError(message("hidden", "a tensor on the CPU or on a CUDA device", f"one on {hidden.device}"))
        self._hidden, self._weight, self._given = hidden, weight, (rules, settings, shard)
        self._refuse_gradients({"hidden": hidden, "weight": weight, "bias": rules.bias})

    def sample(self, draws: Draws) -> tuple[Tensor, ...]:
        self._refuse_gradients(draws._asdict())
        draw = _telling(_draw_cuda) if self._hidden.is_cuda else _draw_cpu
        fields: tuple[Tensor, ...] = draw(self._hidden, self._weight, draws, *self._given)
        return fields

    def ranks(self, *drawn: Tensor) -> Tensor:
        count = _telling(_count_cuda) if self._hidden.is_cuda else _count_cpu
        ranks: Tensor = count(self._hidden, self._weight, drawn, *self._given)
        return ranks

    def _refuse_gradients(self, arguments: dict[str, Any]) -> None:
        for name, x in arguments.items():
            if torch.is_grad_enabled() and isinstance(x, Tensor) and x.requires_grad:
                raise _wants_gradient("sample", name)


def _score_cpu(hidden: Tensor, weight: Tensor, targets: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    rules, listed = _lists(rest, Rules, Listed)
    arrays = dtype_name(hidden), _large(hidden), _large(weight)
    return tuple(map(torch.from_numpy, cpu.score(*arrays, targets.numpy(), _host_rules(rules), listed.top)))


def _score_cuda(hidden: Tensor, weight: Tensor, targets: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    rules, listed = _lists(rest, Rules, Listed)
    return gpu.score(GpuMemory(hidden), dtype_name(hidden), hidden, weight, targets, rules, listed.top)


def _top_cpu(hidden: Tensor, weight: Tensor, k: int, *rules: Any) -> tuple[Tensor, ...]:
    fields = cpu.top(dtype_name(hidden), _large(hidden), _large(weight), k, _host_rules(Rules(*rules)))
    return tuple(map(torch.from_numpy, fields))


def _top_cuda(hidden: Tensor, weight: Tensor, k: int, *rules: Any) -> tuple[Tensor, ...]:
    return gpu.top(GpuMemory(hidden), dtype_name(hidden), hidden, weight, k, Rules(*rules))


def _score_fake(hidden: Tensor, weight: Tensor, targets: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    _, listed = _lists(rest, Rules, Listed)
    return _new(hidden, cpu.score_shapes(tuple(hidden.shape[:-1]), listed.top), cpu.SCORE_KINDS)


def _new(hidden: Tensor, shapes: list[tuple[int, ...]], kinds: dict[str, str]) -> tuple[Tensor, ...]:
    """Tensors of the kinds that `_kernels` lists."""
    types = (getattr(torch, kind) for kind in kinds.values())
    return tuple(hidden.new_empty(shape, dtype=kind) for shape, kind in zip(shapes, types, strict=True))


def _top_fake(hidden: Tensor, weight: Tensor, k: int, *rules: Any) -> tuple[Tensor, ...]:
    rows = hidden.shape[:-1]
    lists = (hidden.new_empty((*rows, k), dtype=kind) for kind in (torch.int64, torch.float32))
    return (*lists, hidden.new_empty(rows, dtype=torch.float32))


def _greedy_fake(hidden: Tensor, weight: Tensor, *rules: Any) -> tuple[Tensor, ...]:
    return _new(hidden, cpu.sample_shapes(tuple(hidden.shape[:-1]), 1, 0), cpu.SAMPLE_KINDS)


def _sample_fake(hidden: Tensor, weight: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    _, _, settings = _lists(arguments, Draws, Rules, Settings)
    shapes = cpu.sample_shapes(tuple(hidden.shape[:-1]), settings.samples, settings.top)
    return _new(hidden, shapes, cpu.SAMPLE_KINDS)


greedy = _register(
    f"greedy(Tensor hidden, Tensor weight, {_RULES}) -> {_SAMPLE}", _greedy_cpu, _greedy_cuda, _greedy_fake
)
sample = _register(
    f"sample(Tensor hidden, Tensor weight, {_DRAWS}, {_RULES}, {_SETTINGS}) -> {_SAMPLE}",
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
    f"score(Tensor hidden, Tensor weight, Tensor targets, {_RULES}, {schema(Listed)}) -> {_SCORE}",
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
