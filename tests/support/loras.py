"""An adapter as other libraries put it into a model: a module of their own in the place of a linear layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LowRank(nn.Module):
    """`base(x) + x @ down.T @ up.T`, whatever the base is."""

    def __init__(self, base: nn.Linear, rank: int, seed: int) -> None:
        super().__init__()
        noise = torch.Generator().manual_seed(seed)
        self.base_layer = base
        self.down = nn.Parameter(torch.randn(rank, base.in_features, generator=noise) / base.in_features**0.5)
        self.up = nn.Parameter(0.1 * torch.randn(base.out_features, rank, generator=noise))

    @property
    def weight(self) -> Tensor:
        """The base's alone, as such libraries have it."""
        return self.base_layer.weight

    @property
    def bias(self) -> Tensor | None:
        return self.base_layer.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + x @ self.down.T @ self.up.T


def adapt(model: nn.Module, rank: int = 3) -> list[LowRank]:
    """Every `nn.Linear` of the model gets one."""
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    made = []
    for seed, (name, module) in enumerate(found):
        above, _, own = name.rpartition(".")
        made.append(LowRank(module, rank, seed))
        setattr(model.get_submodule(above), own, made[-1])
    return made


@torch.no_grad()
def merge(model: nn.Module, adapters: list[LowRank]) -> None:
    """The linear layers of another copy of that model become what its adapters make of them."""
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    for layer, adapter in zip(layers, adapters, strict=True):
        layer.weight += adapter.up @ adapter.down
