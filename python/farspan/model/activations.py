"""What stands between the two products of an MLP: one function of the rows that the first product gives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from farspan._backend import cpu
from farspan.model.config import Config

CLAMPED = "clamped_swiglu"


@dataclass(frozen=True)
class Activation:
    """`act(x)`; of `[gate, up]` in one row, where gated, `act(gate) * up`. Of the clamped SwiGLU of GPT-OSS
    `gate * sigmoid(alpha * gate) * (up + 1)`, the gate at most `limit`, up within both its signs."""

    kind: str
    gated: bool
    alpha: float = 1.702
    limit: float = 7.0

    @classmethod
    def of(cls, config: Config) -> Activation:
        return cls(config.hidden_act, config.gated_mlp, config.swiglu_alpha, config.swiglu_limit)

    def of_array(self, x: np.ndarray) -> np.ndarray:
        """Of float32 rows; a row has the same bits whatever the other rows are."""
        if self.kind != CLAMPED:
            return cpu.activate(x, self.kind, self.gated)
        width = x.shape[1] // 2
        gate = np.minimum(x[:, :width], np.float32(self.limit))
        up = np.clip(x[:, width:], np.float32(-self.limit), np.float32(self.limit))
        decay = np.exp(np.minimum(gate * np.float32(-self.alpha), np.float32(88)))  # past 88 the quotient is 0 anyway
        quotient: np.ndarray = gate / (1 + decay) * (up + 1)
        return quotient

    @property
    def has_slopes_of_arrays(self) -> bool:
        return self.kind != CLAMPED

    def slopes_of_array(self, x: np.ndarray, slope: np.ndarray) -> np.ndarray:
        """The slope of a result by x, from that by what `of_array` makes of it."""
        return cpu.activate_gradient(x, self.kind, self.gated, slope)

    def parts(self, x: Tensor) -> tuple[Tensor, ...]:
        """`(gate, up)` or `(x,)`."""
        return x.chunk(2, dim=-1) if self.gated else (x,)

    def of_parts(self, parts: tuple[Tensor, ...]) -> Tensor:
        """The same in torch, in any dtype on any device, differentiable."""
        if self.kind == CLAMPED:
            gate, up = parts[0].clamp(max=self.limit), parts[1].clamp(-self.limit, self.limit)
            return gate * torch.sigmoid(self.alpha * gate) * (up + 1)
        if self.kind == "silu":
            found = F.silu(parts[0])
        elif self.kind == "relu":
            found = F.relu(parts[0])
        else:
            found = F.gelu(parts[0], approximate="tanh" if self.kind == "gelu_pytorch_tanh" else "none")
        return found if len(parts) == 1 else found * parts[1]
