"""The parts of a decoder layer. Tokens of all sequences lie packed, `[tokens, width]`; only attention knows sequences.

`forward` of a layer, of its attention and of its MLP takes the numbers as torch tensors or as NumPy arrays: what
differs between them is in `operations`. `Linear` and `Norm` are called on tensors alone, as modules of torch are;
on arrays `operations` reads their parameters instead.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from farspan.model.config import Config
from farspan.model.operations import FUNCTIONS, Operations, activation_dtype, norm
from farspan.model.passes import PassPlan


class Part:
    """A module or parameter as an attribute of its module, found at once. `nn.Module` searches for it: in a small model
    these searches were a tenth of a token's time. Setting, replacing and deleting it are torch's."""

    def __set_name__(self, owner: type[nn.Module], name: str) -> None:
        self._name = name

    def __get__(self, module: nn.Module | None, owner: type[nn.Module]) -> Any:
        if module is None:
            return self
        state, name = module.__dict__, self._name
        if name in state["_modules"]:
            return state["_modules"][name]
        if name in state["_parameters"]:
            return state["_parameters"][name]
        raise AttributeError(f"{owner.__name__} has no {name}")


class Linear(nn.Linear):
    """`x @ weight.T + bias` in the dtype of x, whatever that of the weight; several projections of the same input are
    stacked into one weight. An `nn.Linear`, so that adapters and hooks of other libraries find it."""

    def __init__(self, inputs: int, outputs: int, bias: bool, backend: str) -> None:
        super().__init__(inputs, outputs, bias)
        self.backend = backend

    def reset_parameters(self) -> None:
        """Nothing: the model fills all its parameters, or loads them."""

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(activation_dtype(x.dtype))
        out: Tensor = FUNCTIONS[self.backend].linear(x, self.weight, bias)
        return out


class Norm(nn.Module):
    """RMSNorm (`kind` "rms") or LayerNorm ("layer") over the last dim."""

    def __init__(self, kind: str, width: int, eps: float, backend: str) -> None:
        super().__init__()
        self.kind, self.eps, self.backend = kind, eps, backend
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width)) if kind == "layer" else None

    def forward(self, x: Tensor) -> Tensor:
        return norm(x, self.weight, self.bias, self.eps, self.backend)

    def extra_repr(self) -> str:
        return f"{self.kind}, {len(self.weight)}, eps={self.eps}"


class Attention(nn.Module):
    """Grouped causal self-attention; keys go to the cache un-rotated."""

    qkv, out = Part(), Part()

    def __init__(self, config: Config, backend: str) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.num_attention_heads, config.kv_heads, config.dim_per_head
        stacked = (self.heads + 2 * self.kv_heads) * self.head_dim
        self.qkv = Linear(config.hidden_size, stacked, config.attention_bias, backend)
        self.out = Linear(self.heads * self.head_dim, config.hidden_size, config.attention_output_bias, backend)
        per_head = ("rms", self.head_dim, config.norm_eps, backend)
        self.q_norm = Norm(*per_head) if config.qk_norm else None
        self.k_norm = Norm(*per_head) if config.qk_norm else None

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
            own = heads[call.tokens]
            if call.span is None:
                mixed = operations.attention(own[:, :keys], own[:, keys:values], own[:, values:], call.hooks[layer])
            else:
                own = own.reshape(-1, call.span.time, *heads.shape[1:]).swapaxes(1, 2)
                if plan.cache is None:
                    key, value = own[:, keys:values], own[:, values:]
                else:
                    key, value = plan.cache.read(layer, call.rows, call.span.keys, like=own)
                mixed = operations.attention(own[:, :keys], key, value, call.hooks[layer]).swapaxes(1, 2)
                if self.head_dim == 1:  # a matrix transposed, which the next projection cannot read
                    mixed = operations.contiguous(mixed)
            outputs.append(mixed.reshape(-1, self.heads * self.head_dim))
        return operations.linear(outputs[0] if len(outputs) == 1 else operations.concatenate(outputs, 0), self.out)


class MLP(nn.Module):
    """`down(act(gate(x)) * up(x))`, or `down(act(up(x)))` where the config has no gate."""

    up, down = Part(), Part()

    def __init__(self, config: Config, backend: str) -> None:
        super().__init__()
        self.gated, self.activation = config.gated_mlp, config.hidden_act
        stacked = config.intermediate_size * (1 + self.gated)
        self.up = Linear(config.hidden_size, stacked, config.mlp_bias, backend)
        self.down = Linear(config.intermediate_size, config.hidden_size, config.mlp_bias, backend)

    def forward(self, x: Any, operations: Operations) -> Any:
        inner = operations.activate(operations.linear(x, self.up), self.activation, self.gated)
        return operations.linear(inner, self.down)


class Block(nn.Module):
    """One decoder layer: `x + attention(norm(x))`, then `x + mlp(norm(x))`."""

    attention_norm, attention, mlp_norm, mlp = Part(), Part(), Part(), Part()

    def __init__(self, config: Config, backend: str) -> None:
        super().__init__()
        self.attention_norm = Norm(config.norm, config.hidden_size, config.norm_eps, backend)
        self.attention = Attention(config, backend)
        self.mlp_norm = Norm(config.norm, config.hidden_size, config.norm_eps, backend)
        self.mlp = MLP(config, backend)

    def forward(self, x: Any, layer: int, plan: PassPlan, operations: Operations) -> Any:
        call, norm = operations.call, operations.norm
        x = x + call(self.attention, norm(x, self.attention_norm), layer, plan, operations)
        return x + call(self.mlp, norm(x, self.mlp_norm), operations)


OWN = {Linear, Norm, Attention, MLP, Block, nn.ModuleList}
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def is_instrumented(layer: nn.Module) -> bool:
    """Whether somebody has hooked a module in here, or put another one or another `forward` in its place, as adapters
    do. Then modules have to be called as torch calls them."""
    state = layer.__dict__
    if type(layer) not in OWN or "forward" in state:
        return True
    before, behind, backward_before, backward = HOOKS  # no loop, as every call of a model asks this of every module
    if state[before] or state[behind] or state[backward_before] or state[backward]:
        return True
    for inner in state["_modules"].values():  # noqa: SIM110
        if inner is not None and is_instrumented(inner):
            return True
    return False


def hooks_everywhere() -> bool:
    """Whether somebody has hooked all modules of the process."""
    return any(getattr(torch.nn.modules.module, f"_global{name}") for name in HOOKS)
