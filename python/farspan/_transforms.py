"""The operators under the transforms of `torch.func`: `grad`, `vjp`, `jacrev` and `vmap`.

These take no part in what `torch.library.register_autograd` registers. They know an `autograd.Function` whose context
is set up apart from its forward pass, so calls go to one of these while a transform is at work. A transform records the
backward pass too, whether or not anybody differentiates it. So that pass is a Function of its own, and a second
derivative is an error when it is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.autograd import forward_ad

from farspan import _gradients as gradients
from farspan._backend.operations import Operation
from farspan._errors import BackendError, message


def at_work() -> bool:
    """Whether tensors may be those of a transform, whose memory nobody may read."""
    in_forward_mode: bool = forward_ad._current_level >= 0
    return torch._C._functorch.peek_interpreter_stack() is not None or in_forward_mode


def refuse_tangents(operation: Operation, names: Sequence[str], arguments: Sequence[Any]) -> None:
    """Raise for the first argument with a tangent: no operation passes one on."""
    for name, given in zip(names, arguments, strict=False):
        if isinstance(given, Tensor) and forward_ad.unpack_dual(given).tangent is not None:
            public = operation.gradient_of or operation.name
            expected = f"no derivative in forward mode: farspan.{public} has none (farspan.reference.{public})"
            raise BackendError(message(name, expected, "a tensor with a tangent"))


def function(operation: Operation) -> type[torch.autograd.Function]:
    """An operation that has a gradient, as the transforms take it."""
    operator = getattr(torch.ops.farspan, operation.name).default
    names = gradients.argument_names(operator)
    backward_pass = _backward_pass(operation, names)

    class Function(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(*arguments: Any) -> Any:
            return operator(*arguments)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            gradients.refuse(operation, names, inputs)
            kept = gradients.kept(operation, names, inputs, output)
            ctx.plain = {name: x for name, x in kept.items() if not isinstance(x, Tensor)}
            ctx.names = [name for name in kept if name not in ctx.plain]
            ctx.save_for_backward(*[kept[name] for name in ctx.names])

        @staticmethod
        def backward(ctx: Any, *upstream: Any) -> tuple[Any, ...]:
            asking = [name for name, asks in zip(names, ctx.needs_input_grad, strict=True) if asks]
            above = [name for name, given in zip(operation.results, upstream, strict=True) if given is not None]
            given = [*ctx.saved_tensors, *[x for x in upstream if x is not None]]
            found = backward_pass.apply(ctx.plain, ctx.names, above, asking, *given)
            by_name = dict(zip(asking, found, strict=True))
            return tuple(by_name.get(name) for name in names)

    return Function


def _backward_pass(operation: Operation, names: Sequence[str]) -> type[torch.autograd.Function]:
    compute = gradients.GRADIENTS[operation.name].compute

    class BackwardPass(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(
            plain: dict[str, Any], kept: list[str], above: list[str], asking: list[str], *given: Tensor
        ) -> tuple[Tensor, ...]:
            call = plain | dict(zip(kept, given, strict=False))
            upstream = dict.fromkeys(operation.results) | dict(zip(above, given[len(kept) :], strict=True))
            found = compute(call, frozenset(asking), upstream)
            return tuple(found[name] for name in asking)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            """Nothing is kept."""

        @staticmethod
        def backward(ctx: Any, *upstream: Any) -> NoReturn:
            expected = f"no second derivative: farspan.{operation.name} has a first one only under torch.func"
            raise BackendError(message(names[0], f"{expected} (farspan.reference.{operation.name})", "one of it"))

    return BackwardPass
