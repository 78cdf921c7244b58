"""A decoder written out in float64 torch, whose attention is given as a function of scores: what schemes mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from farspan.model import Transformer

Weights = dict[str, Tensor]
Scores = Callable[[Tensor, Tensor, Weights, Tensor], Tensor]
"""Of query and key `[batch, heads, time, dim]`, the parameters of the layer's scheme, and what its attention reads:
`[batch, heads, time, time]`, before any mask."""


def weights_of(model: Transformer) -> Weights:
    """The parameters in float64, which ask for gradients."""
    return {name: p.detach().double().requires_grad_() for name, p in model.named_parameters()}


def eager(model: Transformer, weights: Weights, ids: Tensor, scores: Scores) -> Tensor:
    """What the model gives for `[batch, time]` ids, by the definition."""
    c = model.config
    x = weights["embedding"][ids]
    batch, time, _ = x.shape
    visible = torch.ones(time, time, dtype=torch.bool)
    visible = visible.tril() if c.causal else visible
    for layer in range(c.num_hidden_layers):
        at = f"layers.{layer}."
        own = {name.removeprefix(at): p for name, p in weights.items() if name.startswith(at)}
        scheme = {n.removeprefix("attention.positions."): p for n, p in own.items() if ".positions." in n}
        h = _norm(x, own["attention_norm.weight"], c.norm_eps)
        heads = (h @ own["attention.qkv.weight"].T).view(batch, time, -1, c.dim_per_head).transpose(1, 2)
        query, key, value = heads.split([c.num_attention_heads, c.kv_heads, c.kv_heads], 1)
        group = c.num_attention_heads // c.kv_heads
        key, value = (part.repeat_interleave(group, 1) for part in (key, value))
        found = scores(query, key, scheme, h).masked_fill(~visible, -torch.inf)
        mixed = (found.softmax(-1) @ value).transpose(1, 2).reshape(batch, time, -1)
        x = x + mixed @ own["attention.out.weight"].T
        h = _norm(x, own["mlp_norm.weight"], c.norm_eps)
        gate, up = (h @ own["mlp.up.weight"].T).chunk(2, -1)
        x = x + (F.silu(gate) * up) @ own["mlp.down.weight"].T
    return _norm(x, weights["norm.weight"], c.norm_eps)


def products(query: Tensor, key: Tensor) -> Tensor:
    """Scores without any scheme."""
    found: Tensor = query @ key.mT / query.shape[-1] ** 0.5
    return found


def _norm(x: Tensor, weight: Tensor, eps: float) -> Any:
    return F.rms_norm(x, x.shape[-1:], weight, eps)
