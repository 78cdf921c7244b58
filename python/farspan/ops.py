"""Every operation of the table as `torch.ops.farspan.*`: a schema, kernels for CPU and CUDA, a fake kernel, and its
gradient (`farspan._gradients`) or a refusal of one.

The operators are registered when this module is imported, which `farspan.attention` and its siblings do at their first
torch tensor. They take the arguments that the public functions have normalised, one behind the other; `define` and
`impl` are used instead of `torch.library.custom_op`, which costs 10 microseconds more per call, once per token and
layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from farspan import _gradients as gradients
from farspan import _transforms as transforms
from farspan._backend import cpu, gpu, results
from farspan._backend.arrays import HALVES as HALF_NAMES
from farspan._backend.arrays import dtype_name, stays_on_host
from farspan._backend.compiler import warn_of_cache
from farspan._backend.memory import GpuMemory
from farspan._backend.operations import OPERATIONS, Operation
from farspan._backend.schema import given_arrays, map_arrays
from farspan._backend.settings import Shard
from farspan._errors import BackendError, DtypeError, message

_LIBRARY = torch.library.Library("farspan", "DEF")
HALVES = tuple(getattr(torch, name) for name in HALF_NAMES)


# ------------------------------------------------------------------------------------- the kernels of any operation


def on_cpu(operation: Operation, large: Sequence[Tensor], lists: Sequence[Any], *shard: Shard) -> Any:
    """The operation by `farspan._backend.cpu`, over the memory of the tensors."""
    return _on_arrays(operation, operation.dtype(large), large[0], (*_arrays(large, lists), *shard))


def _on_arrays(operation: Operation, dtype: Any, first: Tensor, arrays: Sequence[Any]) -> Any:
    """The same, of tensors whose memory `_arrays` gave."""
    found = getattr(cpu, operation.name)(dtype, *arrays)
    if not isinstance(found, tuple):
        return _tensor(found, first)
    if first.dtype in HALVES:
        return tuple([_tensor(x, first) for x in found])
    return tuple(map(torch.from_numpy, found))


def on_gpu(
    operation: Operation, large: Sequence[Tensor], lists: Sequence[Any], *shard: Shard, apart: bool = False
) -> Any:
    """The operation by `farspan._backend.gpu`, or by torch where that is as good. `apart`: of `GpuMemory`."""
    if operation.name in _BY_TORCH:
        return _BY_TORCH[operation.name](*large, *lists)
    kernel = getattr(gpu, operation.name)
    found = kernel(GpuMemory(large[0], apart=apart), operation.dtype(large), *large, *lists, *shard)
    warn_of_cache()
    return found


def _fake(operation: Operation, large: Sequence[Tensor], lists: Sequence[Any]) -> Any:
    """Tensors of the right shapes and element types with nothing in them, for tracing."""
    shapes = getattr(results, operation.name)(operation.dtype(large), *large, *lists)
    new = tuple(large[0].new_empty(shape, dtype=getattr(torch, kind)) for shape, kind in shapes.values())
    return new if len(new) > 1 else new[0]


def _linear(x: Tensor, weight: Tensor, given: Any) -> Tensor:
    return F.linear(x, weight.to(x.dtype), None if given.bias is None else given.bias.to(x.dtype))


def _linear_x_gradient(gradient: Tensor, weight: Tensor) -> Tensor:
    return gradient @ weight.to(gradient.dtype)


def _linear_weight_gradient(gradient: Tensor, x: Tensor) -> Tensor:
    return gradient.flatten(0, -2).t() @ x.flatten(0, -2).to(gradient.dtype)


_BY_TORCH: dict[str, Callable[..., Any]] = {
    "linear": _linear,
    "linear_x_gradient": _linear_x_gradient,
    "linear_weight_gradient": _linear_weight_gradient,
}
"""What torch computes on a GPU."""


def _arrays(large: Sequence[Tensor], lists: Sequence[Any]) -> list[Any]:
    """The arguments of the CPU's kernels."""
    return [*map(_large, large), *[map_arrays(_small, given) for given in lists]]


def _large(tensor: Tensor) -> np.ndarray:
    """The memory of a tensor as an array, half types by their bits."""
    if tensor.requires_grad:  # without grad mode: nobody asks for the gradient
        tensor = tensor.detach()
    return (tensor.view(torch.uint16) if tensor.dtype in HALVES else tensor).numpy()


def _small(name: str, tensor: Tensor) -> np.ndarray:
    """The memory of a table, positions or lengths."""
    if tensor.dtype in HALVES:
        raise DtypeError(message(name, "float32, or integers where they fit", dtype_name(tensor)))
    return (tensor.detach() if tensor.requires_grad else tensor).numpy()


def _tensor(array: np.ndarray, like: Tensor) -> Tensor:
    """A result; half types come as their bits."""
    tensor = torch.from_numpy(array)
    return tensor.view(like.dtype) if tensor.dtype == torch.uint16 else tensor


# ------------------------------------------------------------------------------------------------------ registration


def flat(operation: Operation, kernel: Callable[..., Any]) -> Callable[..., Any]:
    """A kernel as torch calls it: with all arguments one behind the other."""
    return lambda *given: kernel(operation, *operation.split(given))


def _register(operation: Operation) -> Callable[..., Any]:
    """Define `torch.ops.farspan.<name>`; gives the way into it that the public function takes."""
    name = operation.name
    _LIBRARY.define(operation.schema())
    _LIBRARY.impl(name, flat(operation, on_cpu), "CPU")
    _LIBRARY.impl(name, flat(operation, partial(on_gpu, apart=True)), "CUDA")
    torch.library.register_fake(f"farspan::{name}", flat(operation, _fake), lib=_LIBRARY)
    operator = getattr(torch.ops.farspan, name).default
    transformed = operator
    if name in gradients.GRADIENTS:
        gradients.register(operation, _LIBRARY)
        transformed = transforms.function(operation).apply
    else:
        _LIBRARY.impl(name, _without_gradient(operation, operator), "Autograd")

    def call(*arguments: Any) -> Any:
        if torch.compiler.is_compiling():
            return operator(*arguments)
        if transforms.at_work():
            transforms.refuse_tangents(operation, gradients.argument_names(operator), arguments)
            return transformed(*arguments)
        recorded = torch.is_grad_enabled() and gradients.asked(arguments)
        if recorded:
            gradients.refuse(operation, gradients.argument_names(operator), arguments)
        try:
            if recorded:
                return operator(*arguments)
            # The first step of torch's dispatch is taken here: the detour over autograd costs 5 microseconds.
            with torch._C._AutoDispatchBelowAutograd():
                return operator(*arguments)
        except NotImplementedError as error:  # of the dispatcher: sparse, quantised and other unusual tensors
            first = operation.large[0]
            raise BackendError(
                message(first, "dense tensors on the CPU or on a GPU", f"what torch says no to: {error}")
            ) from error

    return call


def _without_gradient(operation: Operation, operator: Any) -> Callable[..., Any]:
    """What autograd does with an operator that has no gradient."""

    def refuse_or_compute(*arguments: Any) -> Any:
        if torch.is_grad_enabled():
            gradients.refuse(operation, gradients.argument_names(operator), arguments)
        with torch._C._AutoDispatchBelowAutograd():
            return operator(*arguments)

    return refuse_or_compute


CALLS = {name: _register(operation) for name, operation in OPERATIONS.items()}
"""The way into each operator."""


# --------------------------------------------------------------------------------------- what the public functions call


def of_tensors(operation: Operation, dtype: Any, large: Sequence[Tensor], lists: Sequence[Any]) -> Any:
    """The operation by its torch operator, or at once where nobody would see a difference: torch's dispatcher takes
    longer than a small operation."""
    first = large[0]
    served = first.is_cpu or first.is_cuda
    if served and not torch.compiler.is_compiling() and _are_plain(large, lists) and not _is_watched():
        if first.is_cuda:
            return on_gpu(operation, large, lists)
        try:
            arrays = _arrays(large, lists)
        except (RuntimeError, TypeError):  # no ordinary memory, as of sparse tensors: the dispatcher knows what they do
            arrays = None
        if arrays is not None:
            return _on_arrays(operation, dtype, large[0], arrays)
    if first.is_cuda and not torch.compiler.is_compiling():
        lists = [map_arrays(lambda _, x: _of_dispatcher(x, first), given) for given in lists]
    return CALLS[operation.name](*large, *chain.from_iterable(lists))


def _of_dispatcher(x: Any, like: Tensor) -> Tensor:
    """A number that stayed on the host, as a tensor beside `like`; a tensor as it is."""
    if stays_on_host(x):
        return torch.full((), x, dtype=torch.int64 if type(x) is int else torch.float32, device=like.device)
    return x


def _are_plain(large: Sequence[Tensor], lists: Sequence[Any]) -> bool:
    """Whether no tensor is of a subclass or of a layout of its own, which may stand for something else, and none asks
    for a gradient."""
    gradients = torch.is_grad_enabled()
    for tensor in chain(large, *map(given_arrays, lists)):
        if type(tensor) not in _PLAIN:
            if stays_on_host(tensor):
                continue
            return False
        if tensor.layout is not torch.strided:
            return False
        if gradients and tensor.requires_grad:
            return False
    return True


_PLAIN = (Tensor, torch.nn.Parameter)


def _is_watched() -> bool:
    """Whether something wants to see every operator that is called: a mode, a transform, a tracer or a profiler."""
    return bool(
        torch._C._len_torch_dispatch_stack()
        or torch._C._is_torch_function_mode_enabled()
        or torch._C._get_tracing_state() is not None
        or transforms.at_work()
        or torch.autograd._profiler_enabled()
    )


# ------------------------------------------------------------------------------------------- parts of a vocabulary


def of_shard(operation: Operation, large: Sequence[Tensor], lists: Sequence[Any], shard: Shard) -> Any:
    """`sample` and `ranks` of a part of a vocabulary. They are no operators: torch's dispatcher takes no functions, and
    `gather` is one."""
    first = large[0]
    if not (first.is_cpu or first.is_cuda):
        expected = "a tensor on the CPU or on a CUDA device"
        raise BackendError(message(operation.large[0], expected, f"one on {first.device}"))
    if torch.is_grad_enabled():
        gradients.refuse(operation, operation.large, large)
        for given in lists:
            gradients.refuse(operation, given._fields, given)
    return (on_gpu if first.is_cuda else on_cpu)(operation, large, lists, shard)
