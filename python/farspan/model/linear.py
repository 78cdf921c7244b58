"""A linear layer of a decoder."""

from __future__ import annotations

from torch import Tensor, nn

from farspan.model.operations import FUNCTIONS, activation_dtype


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
