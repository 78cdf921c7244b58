"""An MLP of many experts, of which a router picks a few for each token."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from farspan.model.activations import Activation
from farspan.model.config import Config
from farspan.model.linear import Linear
from farspan.model.operations import FUNCTIONS, Operations, small_dtype


class ExpertLinear(nn.Module):
    """A linear layer for each expert: `weight` `[experts, out, in]`, `bias` `[experts, out]`."""

    def __init__(self, experts: int, inputs: int, outputs: int, bias: bool, backend: str) -> None:
        super().__init__()
        self.backend = backend
        self.weight = nn.Parameter(torch.empty(experts, outputs, inputs))
        self.bias = nn.Parameter(torch.empty(experts, outputs)) if bias else None

    def forward(self, x: Tensor, expert: int) -> Tensor:
        """Of rows that one expert has."""
        bias = None if self.bias is None else self.bias[expert].to(small_dtype(x))
        out: Tensor = FUNCTIONS[self.backend].linear(x, self.weight[expert], bias)
        return out

    def extra_repr(self) -> str:
        experts, outputs, inputs = self.weight.shape
        return f"{experts} of in_features={inputs}, out_features={outputs}, bias={self.bias is not None}"


class MixtureOfExperts(nn.Module):
    """The sum of what a token's experts give, weighted by the softmax of the router's logits: over the chosen ones
    where the shares sum to one, else over all.

    Tokens are sorted by expert, and each expert's products are computed once over all rows of a pass that it has. A
    token's sum runs over its experts by their index, so its bits do not depend on the other tokens.
    """

    def __init__(self, config: Config, backend: str) -> None:
        super().__init__()
        self.chosen, self.sums_to_one = config.num_experts_per_tok, config.norm_topk_prob
        self.activation = Activation.of(config)
        inner = config.moe_intermediate_size or config.intermediate_size
        self.router = Linear(config.hidden_size, config.num_experts, config.expert_bias, backend)
        stacked = inner * (1 + self.activation.gated)
        self.expert_up = ExpertLinear(config.num_experts, config.hidden_size, stacked, config.expert_bias, backend)
        self.expert_down = ExpertLinear(config.num_experts, inner, config.hidden_size, config.expert_bias, backend)

    def forward(self, x: Any, operations: Operations) -> Any:
        shares, experts = operations.route(operations.linear(x, self.router), self.chosen, self.sums_to_one)
        order, counts = operations.sorted_by_expert(experts, len(self.expert_up.weight))
        tokens = order // self.chosen
        sorted_rows, shares = x[tokens], shares.reshape(-1)[order]
        outputs, start = [], 0
        for expert, count in enumerate(counts):
            if count:
                rows = sorted_rows[start : start + count]
                inner = operations.activate(operations.of_expert(rows, self.expert_up, expert), self.activation)
                outputs.append(operations.of_expert(inner, self.expert_down, expert))
                start += count
        return operations.summed(operations.concatenate(outputs, 0) * shares[:, None], tokens, len(x), self.chosen)
