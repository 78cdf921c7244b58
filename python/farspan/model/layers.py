"""The parts of a decoder layer. Tokens of all sequences lie packed, `[tokens, width]`; only attention knows sequences.

`forward` of a layer, of its attention and of its MLP takes the numbers as torch tensors or as NumPy arrays: what
differs between them is in `operations`. `Linear` and `Norm` are called on tensors alone, as modules of torch are;
on arrays `operations` reads their parameters instead.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from farspan.model.activations import Activation
from farspan.model.config import Config
from farspan.model.experts import ExpertLinear, MixtureOfExperts
from farspan.model.linear import Linear
from farspan.model.operations import Operations, norm, small_dtype
from farspan.model.passes import AttentionCall, PassPlan
from farspan.model.positions import LayerPositions, forgotten, positions_behind, positions_of
from farspan.model.recorded_operations import RecordedOperations
from farspan.model.rows import apart, attention_by_rows, combined


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


class Norm(nn.Module):
    """RMSNorm (`kind` "rms") or LayerNorm ("layer") over the last dim. `adds_one`: the weight is the gain less one."""

    def __init__(self, kind: str, width: int, eps: float, backend: str, adds_one: bool = False) -> None:
        super().__init__()
        self.kind, self.eps, self.backend, self.adds_one = kind, eps, backend, adds_one
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width)) if kind == "layer" else None

    @property
    def gain(self) -> Tensor:
        """What the norm multiplies with, float32 where that is not the weight itself: half precision has no 1.001."""
        return 1 + self.weight.to(small_dtype(self.weight)) if self.adds_one else self.weight

    def forward(self, x: Tensor) -> Tensor:
        if not self.adds_one:
            return norm(x, self.weight, self.bias, self.eps, self.backend)
        wide = small_dtype(x)  # half precision has no 1.001
        return norm(x.to(wide), 1 + self.weight.to(wide), self.bias, self.eps, self.backend).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.kind}, {len(self.weight)}, eps={self.eps}" + ", adds_one=True" * self.adds_one


class Attention(nn.Module):
    """Grouped causal self-attention; keys go to the cache un-rotated."""

    qkv, out = Part(), Part()

    def __init__(self, config: Config, layer: int, backend: str) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.num_attention_heads, config.kv_heads, config.dim_per_head
        self.backend = backend
        stacked = (self.heads + 2 * self.kv_heads) * self.head_dim
        self.qkv = Linear(config.hidden_size, stacked, config.attention_bias, backend)
        self.out = Linear(self.heads * self.head_dim, config.hidden_size, config.attention_output_bias, backend)
        self.whole_norm = config.qk_norm_width == "all"

        def own_norm(heads: int) -> Norm | None:
            width = self.head_dim * (heads if self.whole_norm else 1)
            return Norm("rms", width, config.norm_eps, backend, config.norm_adds_one) if config.qk_norm else None

        self.q_norm, self.k_norm = own_norm(self.heads), own_norm(self.kv_heads)
        self.sink = nn.Parameter(torch.empty(self.heads)) if config.attention_sinks else None
        self.positions = positions_of(config, layer, backend)

    def forward(self, x: Any, layer: int, plan: PassPlan, operations: Operations) -> Any:
        keys, values = self.heads, self.heads + self.kv_heads  # where they begin
        heads = operations.linear(x, self.qkv).reshape(len(x), -1, self.head_dim)
        if self.q_norm is not None:
            query = self._normed(heads[:, :keys], self.q_norm, operations)
            key = self._normed(heads[:, keys:values], self.k_norm, operations)
            heads = operations.concatenate([query, key, heads[:, values:]], 1)
        if plan.cache is not None:
            plan.cache.write(layer, heads[:, keys:], plan.slots)
        gates = None if self.positions is None else self.positions.log_gates(x, operations)
        if gates is not None and plan.cache is not None:
            plan.cache.write_gates(layer, gates, plan.slots)
        outputs = []
        for call in plan.calls:
            own, hooks = heads if len(plan.calls) == 1 else heads[call.tokens], call.hooks[layer]
            plain = self.sink is None and (self.positions is None or self.positions.only_widens)
            if plain and plan.cache is None and isinstance(operations, RecordedOperations):
                counts = (self.heads, self.kv_heads, self.kv_heads)
                outputs.append(operations.mix_heads(own, counts, call, layer, self.positions))
                continue
            if call.span is None:
                query, key, value = own[:, :keys], own[:, keys:values], own[:, values:]
            else:
                own = own.reshape(-1, call.span.time, *heads.shape[1:]).swapaxes(1, 2)
                query = own[:, :keys]
                if plan.cache is None:
                    key, value = own[:, keys:values], own[:, values:]
                else:
                    key, value = plan.cache.read(layer, call.rows, call.span.keys, like=own)
            learned: Any = None
            if self.positions is not None:
                features = call.features[layer]
                learned = operations.learned(self.positions, features)
                if gates is not None:
                    learned = learned | self._forgotten(gates, layer, call, plan)
                query, key = self.positions.widened(query, key, features, operations)
            if self.positions is not None and self.positions.by_rows:
                mixed = self._by_rows((query, key, value), layer, call, plan, learned, operations)
            else:
                mixed = operations.attention(query, key, value, hooks, self.sink, learned)
            if call.span is not None:
                mixed = mixed.swapaxes(1, 2)
                if self.head_dim == 1:  # a matrix transposed, which the next projection cannot read
                    mixed = operations.contiguous(mixed)
            outputs.append(mixed.reshape(-1, self.heads * self.head_dim))
        return operations.linear(outputs[0] if len(outputs) == 1 else operations.concatenate(outputs, 0), self.out)

    def _by_rows(
        self, large: tuple[Any, Any, Any], layer: int, call: AttentionCall, plan: PassPlan, learned: dict[str, Any],
        operations: Operations,
    ) -> Any:  # fmt: skip
        hooks, scale = operations.shared_by_rows(call.hooks[layer])
        scale = combined(scale, learned.get("query_scale"), large[0])
        ragged = call.span is None
        lengths = plan.lengths if call.span is None else call.span.lengths
        outputs = [
            attention_by_rows(self.positions, one, hooks, self.sink, operations)
            for one in apart(*large, call.features[layer], scale, lengths, ragged)
        ]
        if ragged:
            outputs = [output[0].swapaxes(0, 1) for output in outputs]
        return outputs[0] if len(outputs) == 1 else operations.concatenate(outputs, 0)

    def _forgotten(self, gates: Tensor, layer: int, call: AttentionCall, plan: PassPlan) -> dict[str, Any]:
        if call.span is None:
            return forgotten(gates[call.tokens], plan.lengths)
        if plan.cache is not None:
            return forgotten(plan.cache.read_gates(layer, call.rows, call.span.keys))
        return forgotten(gates[call.tokens].unflatten(0, (-1, call.span.time)))

    def _normed(self, heads: Any, own_norm: Norm | None, operations: Operations) -> Any:
        """`[tokens, heads, dim]`, normalised head by head or over all of a token's heads."""
        rows = heads.reshape(len(heads), -1) if self.whole_norm else heads
        return operations.norm(rows, own_norm).reshape(heads.shape)


class MLP(nn.Module):
    """`down(act(gate(x)) * up(x))`, or `down(act(up(x)))` where the config has no gate."""

    up, down = Part(), Part()

    def __init__(self, config: Config, backend: str) -> None:
        super().__init__()
        self.activation = Activation.of(config)
        stacked = config.intermediate_size * (1 + self.activation.gated)
        self.up = Linear(config.hidden_size, stacked, config.mlp_bias, backend)
        self.down = Linear(config.intermediate_size, config.hidden_size, config.mlp_bias, backend)

    def forward(self, x: Any, operations: Operations) -> Any:
        return operations.linear(operations.activate(operations.linear(x, self.up), self.activation), self.down)


class Block(nn.Module):
    """One decoder layer: `x + attention(norm(x))`, then `x + mlp(norm(x))`; or with norms behind the two as well, or
    there alone; or both of the same x."""

    attention_norm, attention, attention_post_norm = Part(), Part(), Part()
    mlp_norm, mlp, mlp_post_norm = Part(), Part(), Part()

    def __init__(self, config: Config, layer: int, backend: str) -> None:
        super().__init__()

        def own_norm(place: str) -> Norm | None:
            if config.norm_place not in (place, "both"):
                return None
            return Norm(config.norm, config.hidden_size, config.norm_eps, backend, config.norm_adds_one)

        self.parallel, self.multiplier = config.parallel_residual, config.residual_multiplier
        self.attention_norm, self.attention_post_norm = own_norm("before"), own_norm("after")
        self.attention = Attention(config, layer, backend)
        self.mlp_norm, self.mlp_post_norm = own_norm("before"), own_norm("after")
        has_experts = bool(config.expert_layers and config.expert_layers[layer])
        self.mlp = MixtureOfExperts(config, backend) if has_experts else MLP(config, backend)

    def forward(self, x: Any, layer: int, plan: PassPlan, operations: Operations) -> Any:
        call = operations.call
        seen = x
        if self.attention_norm is not None:
            x, seen = operations.norm_beside(x, self.attention_norm)
        mixed = call(self.attention, seen, layer, plan, operations)
        mixed = self._scaled(_normed(mixed, self.attention_post_norm, operations))
        if self.parallel or self.mlp_norm is None:
            after = operations.add(x, mixed)
            seen = _normed(x if self.parallel else after, self.mlp_norm, operations)
        else:
            after, seen = operations.norm_of_sum(x, mixed, self.mlp_norm)
        gathered = _normed(operations.rowwise(self.mlp, seen), self.mlp_post_norm, operations)
        return operations.add(after, self._scaled(gathered))

    def with_positions(self, config: Config, layer: int) -> Block:
        """This block with the parameters that the layer's position scheme has in `config`: itself where these are its
        own, else a copy that shares everything else."""
        own = self.attention.positions
        fitted = positions_behind(own, config, layer, self.attention.backend, self.attention.qkv.weight)
        if fitted is own:
            return self
        block, attention = shallow(self), shallow(self.attention)
        attention.positions = fitted
        block.attention = attention
        return block

    def _scaled(self, x: Any) -> Any:
        return x if self.multiplier == 1 else x * self.multiplier


def shallow(module: Any) -> Any:
    """A module with the same modules and parameters in it, which may be replaced without a change to the other."""
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    return twin


def _normed(x: Any, layer: Norm | None, operations: Operations) -> Any:
    return x if layer is None else operations.norm(x, layer)


OWN = {Linear, Norm, Attention, MLP, Block, ExpertLinear, MixtureOfExperts, LayerPositions, nn.ModuleList}
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
