"""Gradients of the operations of the table, as torch's autograd asks for them.

An operation has gradients when it has a line in `GRADIENTS`; the others refuse. A gradient is a function of the call's
arguments and results; what it needs fast is an operation of the table itself, such as the backward pass of attention.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from farspan._backend.hooks import Above, Gradients, Hooks
from farspan._backend.operations import Operation
from farspan._errors import BackendError, message

Named = Mapping[str, Any]


@dataclass(frozen=True)
class Gradient:
    """The gradient of one operation."""

    of: tuple[str, ...]
    """The arguments that may ask for one."""
    compute: Callable[[Named, frozenset[str], Named], Named]
    """From the call (arguments and kept results), the arguments that ask, and the gradients of the results (None where
    nothing depends on a result): the gradient of each argument that asks. All by name."""
    results: tuple[str, ...] = ()
    """The results that `compute` reads."""
    unless: str = ""
    """An argument beside which no other has a gradient."""
    unread: Callable[[frozenset[str]], tuple[str, ...]] = lambda asking: ()
    """The arguments that `compute` does not read, given those that ask; they are not kept until the backward pass."""


def _linear(call: Named, asking: frozenset[str], upstream: Named) -> Named:
    gradient = upstream["output"].contiguous()
    found = {}
    if "x" in asking:
        found["x"] = torch.ops.farspan.linear_x_gradient(gradient, call["weight"])
    if "weight" in asking:
        found["weight"] = _of_weight(gradient, call["x"], call["weight"])
    if "bias" in asking:
        rows = _rows(gradient).float()
        ones = torch.ones(len(rows), 1, dtype=torch.float32, device=rows.device)
        found["bias"] = torch.ops.farspan.linear_weight_gradient(rows, ones).reshape(-1)
    return found


def _rows(x: Tensor) -> Tensor:
    return x.reshape(x.shape[:-1].numel(), x.shape[-1])


def _of_weight(gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """`gradient.T @ x`, rounded once to the dtype of weight."""
    gradient = gradient if gradient.dtype == weight.dtype else gradient.float()
    return torch.ops.farspan.linear_weight_gradient(_rows(gradient), _rows(x)).to(weight.dtype)


def _linear_x_gradient(call: Named, asking: frozenset[str], upstream: Named) -> Named:
    above, found = upstream["x_gradient"].contiguous(), {}
    if "gradient" in asking:
        found["gradient"] = torch.ops.farspan.linear(above, call["weight"])
    if "weight" in asking:
        found["weight"] = _of_weight(call["gradient"], above, call["weight"])
    return found


def _linear_weight_gradient(call: Named, asking: frozenset[str], upstream: Named) -> Named:
    gradient, x, above, found = call["gradient"], call["x"], upstream["weight_gradient"].contiguous(), {}
    if "gradient" in asking:
        found["gradient"] = torch.ops.farspan.linear(x.to(gradient.dtype), above)
    if "x" in asking:
        found["x"] = torch.ops.farspan.linear_x_gradient(gradient, above).to(x.dtype)
    return found


def _attention(call: Named, asking: frozenset[str], upstream: Named) -> Named:
    """The backward pass, which computes the weights again from the LSE."""
    gradient, of_lse = upstream["output"], upstream["lse"]
    if gradient is None:
        gradient = torch.zeros_like(call["output"])
    elif gradient.stride(-1) != 1:
        gradient = gradient.contiguous()
    large = (call["query"], call["key"], call["value"], call["output"], gradient)
    asked = ",".join(name for name in Gradients._fields if name in asking)
    above = Above(call["lse"], None if of_lse is None else of_lse.contiguous(), asked)
    hooks = [call[name] for name in Hooks._fields]
    found = torch.ops.farspan.attention_backward(*large, *above, *hooks)
    return dict(zip(Gradients._fields, found, strict=True))


def _backward(operation: str, call: Named, asking: frozenset[str], **read: Any) -> Named:
    """The gradients of hidden, weight and bias that another operation of the table computes."""
    asked = {f"of_{name}": name in asking for name in _OF_UNEMBEDDING}
    operator = getattr(torch.ops.farspan, operation).default
    given = {**call, **read, **asked}
    found = operator(*[given[name] for name in argument_names(operator)])
    return {name: x for name, x in zip(_OF_UNEMBEDDING, found, strict=True) if name in asking}


def _cross_entropy(call: Named, asking: frozenset[str], upstream: Named) -> Named:
    return _backward("linear_cross_entropy_gradient", call, asking, by_loss=upstream["loss"])


def _score(call: Named, asking: frozenset[str], upstream: Named) -> Named:
    like = {"logprob": "lse", "entropy": "lse", "lse": "lse", "top_logprob": "top_token"}
    slopes = {f"by_{name}": upstream[name] for name in like}
    for name, other in like.items():
        if upstream[name] is None:
            slopes[f"by_{name}"] = torch.zeros_like(call[other], dtype=torch.float32)
    return _backward("score_gradient", call, asking, **slopes)


def _divergence(call: Named, asking: frozenset[str], upstream: Named) -> Named:
    return _backward("divergence_gradient", call, asking, by_divergence=upstream["divergence"])


_OF_UNEMBEDDING = ("hidden", "weight", "bias")

GRADIENTS = {
    "attention": Gradient(
        of=Gradients._fields,
        compute=_attention,
        results=("output", "lse"),
        unless="block_table",
    ),
    "linear": Gradient(
        of=("x", "weight", "bias"),
        compute=_linear,
        unread=lambda asking: () if "weight" in asking else ("x",),
    ),
    "linear_x_gradient": Gradient(
        of=("gradient", "weight"),
        compute=_linear_x_gradient,
        unread=lambda asking: () if "weight" in asking else ("gradient",),
    ),
    "linear_weight_gradient": Gradient(of=("gradient", "x"), compute=_linear_weight_gradient),
    "linear_cross_entropy": Gradient(of=_OF_UNEMBEDDING, compute=_cross_entropy, results=("max", "log_sum")),
    "score": Gradient(of=_OF_UNEMBEDDING, compute=_score, results=("entropy", "lse", "top_token")),
    "divergence": Gradient(
        of=_OF_UNEMBEDDING, compute=_divergence, results=("max", "log_sum", "target_max", "target_log_sum")
    ),
}


def asked(arguments: Sequence[Any]) -> bool:
    """Whether one of the arguments of a call asks for a gradient."""
    return bool(torch._C._any_requires_grad(*arguments))


def is_inference(x: Tensor) -> bool:
    """Whether a tensor was made in inference mode. torch's compiler cannot ask, and takes none of these."""
    return not torch.compiler.is_compiling() and x.is_inference()


def argument_names(operator: Any) -> list[str]:
    return [argument.name for argument in operator._schema.arguments]


def refuse(operation: Operation, names: Sequence[str], arguments: Sequence[Any]) -> None:
    """Raise for the first argument that asks for a gradient which the operation does not have."""
    gradient = GRADIENTS.get(operation.name)
    call = dict(zip(names, arguments, strict=False))
    of = gradient.of if gradient and call.get(gradient.unless) is None else ()
    for name, given in call.items():
        if not (isinstance(given, Tensor) and given.requires_grad):
            continue
        if name not in of:
            if operation.gradient_of:
                expected = f"no second derivative: farspan.{operation.gradient_of} has a first one only"
                instead = f"farspan.reference.{operation.gradient_of}"
            else:
                why = "yet" if gradient is None else "for it" if of else f"beside a {gradient.unless}"
                expected = f"no gradient: farspan.{operation.name} has none {why}"
                instead = f"torch.no_grad() or farspan.reference.{operation.name}"
            raise BackendError(message(name, f"{expected} ({instead})", "a tensor that requires one"))


def kept(
    operation: Operation, names: Sequence[str], inputs: Sequence[Any], output: Any, unread: tuple[str, ...] = ()
) -> dict[str, Any]:
    """What the backward pass of a call reads, by name."""
    call = {name: x for name, x in zip(names, inputs, strict=True) if name not in unread}
    results = output if isinstance(output, tuple) else (output,)
    found = dict(zip(operation.results, results, strict=True))
    return call | {name: found[name] for name in GRADIENTS[operation.name].results}


def _is_saved(x: Any) -> bool:
    """Whether autograd keeps an argument. It takes no constants that were made in inference mode."""
    return isinstance(x, Tensor) and (x.requires_grad or not is_inference(x))


def register(operation: Operation, library: torch.library.Library) -> None:
    """Give the operator its gradient."""
    gradient = GRADIENTS[operation.name]
    operator = getattr(torch.ops.farspan, operation.name).default
    names = argument_names(operator)

    def asking(ctx: Any) -> frozenset[str]:
        return frozenset(name for name, needs in zip(names, ctx.needs_input_grad, strict=False) if needs)

    def remember(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        refuse(operation, names, inputs)  # of a call to the operator itself
        call = kept(operation, names, inputs, output, gradient.unread(asking(ctx)))
        ctx.tensors = [name for name, x in call.items() if _is_saved(x)]
        ctx.plain = {name: x for name, x in call.items() if not _is_saved(x)}
        ctx.save_for_backward(*[call[name] for name in ctx.tensors])
        ctx.set_materialize_grads(False)

    def backward(ctx: Any, *upstream: Any) -> tuple[Any, ...]:
        call = ctx.plain | dict(zip(ctx.tensors, ctx.saved_tensors, strict=True))
        asks = asking(ctx)
        found = gradient.compute(call, asks, dict(zip(operation.results, upstream, strict=True)))
        return tuple(found[name] if name in asks else None for name in names)

    torch.library.register_autograd(operator._schema.name, backward, setup_context=remember, lib=library)
