"""Operations on rows that autograd can record, with the bits that they have where nobody asks for a gradient.

Forward and backward passes are those of the CPU backend, which go over their rows once. Rows that are used beside their
norm, as those of a residual stream are, share one backward pass with it. A function's `forward` takes `ctx` itself:
torch looks at the signature of one that does not in every call, which costs more than a small operation.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from farspan._backend import cpu, packed, threads
from farspan._backend.arrays import dtype_name
from farspan.model.activations import Activation
from farspan.ops import HALVES


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`x @ weight.T + bias` of float32 rows `[rows, in]` on the CPU; weight and bias may be of any dtype. As
    `farspan.linear`, without the way through torch's dispatcher, which costs several times a small product."""
    out: Tensor = _Linear.apply(x, weight, bias)
    return out


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm of float32 rows on the CPU; the weight may be of any dtype."""
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        recorded: Tensor = _RmsNorm.apply(x, weight, eps)
        return recorded
    return _normed(x, weight, eps)


def norm_beside(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x for its other use, and its `rms_norm`."""
    found: tuple[Tensor, Tensor] = _NormBeside.apply(x, weight, eps)
    return found


def norm_of_sum(x: Tensor, y: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """`x + y`, and its `rms_norm`."""
    found: tuple[Tensor, Tensor] = _NormOfSum.apply(x, y, weight, eps)
    return found


def add(x: Tensor, y: Tensor) -> Tensor:
    """`x + y`. torch's own threads would spin for milliseconds after it, and take a core from the next operation."""
    total: Tensor = _Sum.apply(x, y)
    return total


def mix_heads(heads: Tensor, call: packed.Call) -> Tensor:
    """`[tokens, heads, dim]` of queries, keys and values -> `[tokens, query heads * dim]`, by attention: see
    `farspan._backend.packed.mix_heads`. The gradients of the three come as one array, as they lie."""
    mixed: Tensor = _MixedHeads.apply(heads, call)[0]
    return mixed.flatten(1)


class Widening(NamedTuple):
    """The parameters, of any dtype, and the array of `farspan._backend.packed.Widening`."""

    weight: Tensor
    bias: Tensor
    content_bias: Tensor
    ahead: np.ndarray


def mix_wide_heads(heads: Tensor, widening: Widening, call: packed.Call) -> Tensor:
    """As `mix_heads`, with widened queries and keys."""
    mixed: Tensor = _MixedWideHeads.apply(heads, *widening, call)[0]
    return mixed.flatten(1)


def activate(x: Tensor, activation: Activation) -> Tensor:
    """What an activation makes of float32 rows on the CPU."""
    if torch.is_grad_enabled() and x.requires_grad:
        recorded: Tensor = _Activation.apply(x, activation)
        return recorded
    return _activated(x, activation)


def widened_rows(tokens: Tensor, embedding: Tensor) -> Tensor:
    """Rows of a half-precision embedding in float32. Their gradients are added up in float32, as a byte or a comma has
    many in a batch, and rounded once."""
    if torch.is_grad_enabled() and embedding.requires_grad:
        recorded: Tensor = _WidenedRows.apply(tokens, embedding)
        return recorded
    return F.embedding(tokens, embedding).float()


def memory(parameter: Any) -> tuple[str, np.ndarray]:
    """A parameter's dtype and its memory as an array, half types by their bits."""
    tensor = parameter.detach()
    bits = tensor.view(torch.uint16) if tensor.dtype in HALVES else tensor
    return dtype_name(tensor), bits.numpy()


def _normed(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return torch.from_numpy(cpu.rms_norm(x.detach().numpy(), weight.detach().float().numpy(), eps))


def _activated(x: Tensor, activation: Activation) -> Tensor:
    return torch.from_numpy(activation.of_array(x.detach().numpy()))


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        ctx.bias_dtype = None if bias is None else bias.dtype
        threads.follow_torch()
        shift = None if bias is None else bias.detach().float().numpy()
        return torch.from_numpy(cpu.linear_rows(x.detach().numpy(), *memory(weight), shift))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        asks_x, asks_weight, asks_bias = ctx.needs_input_grad
        above = gradient.contiguous().numpy()
        of_x = of_weight = of_bias = None
        if asks_x:
            dtype, numbers = memory(weight)
            of_x = torch.from_numpy(cpu.linear_x_gradient(("float32", dtype), above, numbers))
        if asks_weight:
            found = cpu.linear_weight_gradient(FLOATS, above, x.detach().numpy())
            of_weight = torch.from_numpy(found).to(weight.dtype)
        if asks_bias:
            found = cpu.linear_weight_gradient(FLOATS, above, np.ones((len(above), 1), np.float32))
            of_bias = torch.from_numpy(found).reshape(-1).to(ctx.bias_dtype)
        return of_x, of_weight, of_bias


FLOATS = "float32", "float32"


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        return _normed(x, weight, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return (*_slopes(ctx, gradient, None), None)


class _NormBeside(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        ctx.set_materialize_grads(False)
        return x.view_as(x), _normed(x, weight, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, beside: Tensor | None, gradient: Tensor | None) -> tuple[Tensor | None, ...]:
        return (*_slopes(ctx, gradient, beside), None)


class _NormOfSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        gain = weight.detach().float().numpy()
        sums, normed = cpu.add_rms_norm(x.detach().numpy(), y.detach().numpy(), gain, eps)
        total = torch.from_numpy(sums)
        ctx.save_for_backward(total, weight)
        ctx.eps = eps
        ctx.set_materialize_grads(False)
        return total, torch.from_numpy(normed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, beside: Tensor | None, gradient: Tensor | None) -> tuple[Tensor | None, ...]:
        of_sum, of_weight = _slopes(ctx, gradient, beside)
        return of_sum, of_sum, of_weight, None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        return torch.from_numpy(x.detach().numpy() + y.detach().numpy())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return gradient, gradient


class _MixedHeads(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, heads: Tensor, call: packed.Call) -> tuple[Tensor, Tensor]:
        mixed, lse = map(torch.from_numpy, packed.mix_heads(heads.detach().numpy(), call))
        ctx.save_for_backward(heads, mixed, lse)
        ctx.call = call
        ctx.mark_non_differentiable(lse)
        ctx.set_materialize_grads(False)
        return mixed, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, of_lse: None) -> tuple[Tensor | None, ...]:
        heads, mixed, lse = (part.detach().numpy() for part in ctx.saved_tensors)
        found = packed.mix_heads_gradient(heads, ctx.call, mixed, lse, gradient.contiguous().numpy())
        return torch.from_numpy(found), None


class _MixedWideHeads(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, heads: Tensor, weight: Tensor, bias: Tensor, content_bias: Tensor, ahead: np.ndarray,
        call: packed.Call,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        widening = _arrays(Widening(weight, bias, content_bias, ahead))
        found = tuple(map(torch.from_numpy, packed.mix_wide_heads(heads.detach().numpy(), widening, call)))
        ctx.save_for_backward(heads, weight, bias, content_bias, *found)
        ctx.ahead, ctx.call = ahead, call
        ctx.mark_non_differentiable(*found[1:])
        ctx.set_materialize_grads(False)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *of_others: None) -> tuple[Tensor | None, ...]:
        heads, weight, bias, content_bias, *output = ctx.saved_tensors
        parameters = Widening(weight, bias, content_bias, ctx.ahead)
        found = packed.Mixed(*[part.numpy() for part in output])
        slope, asked = gradient.contiguous().numpy(), packed.Asked(*ctx.needs_input_grad[:4])
        slopes = packed.mix_wide_heads_gradient(
            heads.detach().numpy(), _arrays(parameters), ctx.call, found, slope, asked
        )
        like = (heads, *parameters[:3])
        given = [None if x is None else torch.from_numpy(x).to(y.dtype) for x, y in zip(slopes, like, strict=True)]
        return (*given, None, None)


def _arrays(parameters: Widening) -> packed.Widening:
    bias, content_bias = (x.detach().float().numpy() for x in (parameters.bias, parameters.content_bias))
    return packed.Widening(*memory(parameters.weight), bias, content_bias, parameters.ahead)


def _slopes(ctx: Any, gradient: Tensor | None, beside: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Of the rows that were normalised, and of the weight."""
    x, weight = ctx.saved_tensors
    if gradient is None:
        return beside, None
    of_x, of_weight = cpu.rms_norm_gradient(
        _rows(x), weight.detach().float().numpy(), ctx.eps, _rows(gradient), None if beside is None else _rows(beside)
    )
    return torch.from_numpy(of_x).view(x.shape), torch.from_numpy(of_weight).to(weight.dtype)


def _rows(x: Tensor) -> np.ndarray:
    """`[rows, width]`, contiguous."""
    rows: np.ndarray = x.detach().reshape(-1, x.shape[-1]).contiguous().numpy()
    return rows


class _Activation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, activation: Activation) -> Tensor:
        ctx.save_for_backward(x)
        ctx.activation = activation
        return _activated(x, activation)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        if not ctx.activation.has_slopes_of_arrays:
            return _differentiated(x, ctx.activation, gradient), None
        slope = ctx.activation.slopes_of_array(x.numpy(), gradient.contiguous().numpy())
        return torch.from_numpy(slope), None


def _differentiated(x: Tensor, activation: Activation, gradient: Tensor) -> Tensor:
    """By torch."""
    parts = tuple(part.detach().requires_grad_() for part in activation.parts(x))
    with torch.enable_grad():
        output = activation.of_parts(parts)
    return torch.cat(torch.autograd.grad(output, parts, gradient), -1)


class _WidenedRows(torch.autograd.Function):
    """Serves `torch.func` too, which asks for this form."""

    @staticmethod
    def forward(tokens: Tensor, embedding: Tensor) -> Tensor:
        return F.embedding(tokens, embedding).float()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        tokens, embedding = inputs
        ctx.save_for_backward(tokens)
        ctx.shape, ctx.dtype = embedding.shape, embedding.dtype

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (tokens,) = ctx.saved_tensors
        found = gradient.new_zeros(ctx.shape).index_add_(0, tokens, gradient)
        return None, found.to(ctx.dtype)
