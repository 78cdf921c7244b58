"""The parts of a decoder layer. Tokens of all sequences lie packed, `[tokens, width]`; only attention knows sequences.

`forward` takes the numbers as torch tensors or as NumPy arrays: what differs between them is in `operations`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from farspan.model.config import Config
    from farspan.model.operations import Operations
    from farspan.model.passes import PassPlan


class Linear(nn.Module):
    """`x @ weight.T + bias`; several projections of the same input are stacked into one weight."""

    def __init__(self, inputs: int, outputs: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None


class Norm(nn.Module):
    """RMSNorm (`kind` "rms") or LayerNorm ("layer") over the last dim."""

    def __init__(self, kind: str, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width)) if kind == "layer" else None


class Attention(nn.Module):
    """Grouped causal self-attention; keys go to the cache un-rotated."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.num_attention_heads, config.kv_heads, config.dim_per_head
        stacked = (self.heads + 2 * self.kv_heads) * self.head_dim
        self.qkv = Linear(config.hidden_size, stacked, config.attention_bias)
        self.out = Linear(self.heads * self.head_dim, config.hidden_size, config.attention_output_bias)
        self.q_norm = Norm("rms", self.head_dim, config.norm_eps) if config.qk_norm else None
        self.k_norm = Norm("rms", self.head_dim, config.norm_eps) if config.qk_norm else None

    def forward(self, x: Any, layer: int, plan: PassPlan, operations: Operations) -> Any:
        keys, values = self.heads, self.heads + self.kv_heads  # where they begin
        heads = operations.linear(x, self.qkv).reshape(len(x), -1, self.head_dim)
        if self.q_norm is not None:
            query = operations.norm(heads[:, :keys], self.q_norm)
            key = operations.norm(heads[:, keys:values], self.k_norm)
            heads = operations.concatenate([query, key, heads[:, values:]], 1)
        if plan.cache is not None:
            plan.cache.write(layer, heads[:, keys:], plan.slots)
        outputs = []
        for call in plan.calls:
            own = heads[call.tokens].reshape(-1, call.span.time, *heads.shape[1:]).swapaxes(1, 2)
            if plan.cache is None:
                key, value = own[:, keys:values], own[:, values:]
            else:
                key, value = plan.cache.read(layer, call.rows, call.span.keys, like=own)
            mixed = operations.attention(own[:, :keys], key, value, call.hooks[layer])
            outputs.append(mixed.swapaxes(1, 2).reshape(-1, self.heads * self.head_dim))
        return operations.linear(outputs[0] if len(outputs) == 1 else operations.concatenate(outputs, 0), self.out)


class MLP(nn.Module):
    """`down(act(gate(x)) * up(x))`, or `down(act(up(x)))` where the config has no gate."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.gated, self.activation = config.gated_mlp, config.hidden_act
        self.up = Linear(config.hidden_size, config.intermediate_size * (1 + self.gated), config.mlp_bias)
        self.down = Linear(config.intermediate_size, config.hidden_size, config.mlp_bias)

    def forward(self, x: Any, operations: Operations) -> Any:
        inner = operations.activate(operations.linear(x, self.up), self.activation, self.gated)
        return operations.linear(inner, self.down)


class Block(nn.Module):
    """One decoder layer: `x + attention(norm(x))`, then `x + mlp(norm(x))`."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention_norm = Norm(config.norm, config.hidden_size, config.norm_eps)
        self.attention = Attention(config)
        self.mlp_norm = Norm(config.norm, config.hidden_size, config.norm_eps)
        self.mlp = MLP(config)

    def forward(self, x: Any, layer: int, plan: PassPlan, operations: Operations) -> Any:
        x = x + self.attention(operations.norm(x, self.attention_norm), layer, plan, operations)
        return x + self.mlp(operations.norm(x, self.mlp_norm), operations)
