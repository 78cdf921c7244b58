"""Operations on rows that autograd can record, with the bits that they have where nobody asks for a gradient.

The forward passes are those of the CPU backend. The backward passes are a few lines of torch, in float32.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from farspan._backend import cpu
from farspan.model.activations import Activation


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm of float32 rows on the CPU; the weight may be of any dtype."""
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        recorded: Tensor = _RmsNorm.apply(x, weight, eps)
        return recorded
    return _normed(x, weight, eps)


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


def _normed(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return torch.from_numpy(cpu.rms_norm(x.detach().numpy(), weight.detach().float().numpy(), eps))


def _activated(x: Tensor, activation: Activation) -> Tensor:
    return torch.from_numpy(activation.of_array(x.detach().numpy()))


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return _normed(x, weight, eps)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.eps = inputs[2]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        shrink = (x.square().mean(-1, keepdim=True) + ctx.eps).rsqrt_()
        normal = x * shrink
        of_x = of_weight = None
        if ctx.needs_input_grad[1]:
            of_weight = (gradient * normal).flatten(0, -2).sum(0).to(weight.dtype)
        if ctx.needs_input_grad[0]:
            pushed = gradient * weight.float()
            along = (pushed * normal).mean(-1, keepdim=True)
            of_x = pushed.sub_(normal.mul_(along)).mul_(shrink)
        return of_x, of_weight, None


class _Activation(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, activation: Activation) -> Tensor:
        return _activated(x, activation)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.activation = inputs[1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        parts = tuple(part.detach().requires_grad_() for part in ctx.activation.parts(x))
        with torch.enable_grad():
            output = ctx.activation.of_parts(parts)
        return torch.cat(torch.autograd.grad(output, parts, gradient), -1), None


class _WidenedRows(torch.autograd.Function):
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
