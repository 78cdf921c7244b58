"""`farspan.Translators`: an affine map for each layer, from its residual stream to what the final norm expects."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from farspan._errors import ArgumentError, CheckpointError, DtypeError, message
from farspan._files import replaced
from farspan.linear import linear
from farspan.model import safetensors
from farspan.model.decoder import Decoder


class Translators:
    """Layer l's state h becomes `h + weight[l] @ h + bias[l]`. The last layer needs no translator.

    Args:
        weight: `[layers, dim, dim]`, kept as float32.
        bias: `[layers, dim]`, kept as float32.

    Raises:
        ArgumentError, DtypeError: other shapes, or no numbers.
    """

    def __init__(self, weight: Any, bias: Any) -> None:
        self.weight, self.bias = _numbers("weight", weight), _numbers("bias", bias)
        shape = list(self.weight.shape)
        if len(shape) != 3 or shape[1] != shape[2]:
            raise ArgumentError(message("weight", "shape [layers, dim, dim]", shape))
        if list(self.bias.shape) != shape[:2]:
            raise ArgumentError(message("bias", f"shape {shape[:2]}, as of weight", list(self.bias.shape)))

    def __repr__(self) -> str:
        layers, width = self.bias.shape
        return f"Translators(layers={layers}, dim={width})"

    def translate(self, depth: int, rows: Tensor) -> Tensor:
        """Rows `[rows, dim]` of the residual stream at a depth, which is that of a layer but the last."""
        return translated(rows, *(x[depth].to(rows.device) for x in (self.weight, self.bias)))

    def require_fit(self, model: Decoder) -> None:
        """ArgumentError: these are translators for a model of another depth or width."""
        expected = [model.config.num_hidden_layers, model.config.hidden_size]
        if list(self.bias.shape) != expected:
            layers, width = expected
            raise ArgumentError(message("translators", f"some for {layers} layers of width {width}", repr(self)))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a safetensors file, which replaces an older one as a whole."""
        with replaced(Path(path)) as beside:
            safetensors.write(beside, {"weight": self.weight, "bias": self.bias})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Translators:
        """What `save` wrote. CheckpointError: the file is missing or damaged, or holds something else."""
        stored = safetensors.open_file(Path(path))
        if stored.keys() != {"weight", "bias"}:
            given = ", ".join(sorted(stored)[:4]) or "nothing"
            raise CheckpointError(message(str(path), "the tensors weight and bias of translators", given))
        layers, width = (*stored["bias"].shape, 0, 0)[:2]
        stored["bias"].require((layers, width), "[layers, dim]")
        stored["weight"].require((layers, width, width), "[layers, dim, dim], as of bias")
        return cls(stored["weight"].read().clone(), stored["bias"].read().clone())


def translated(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """What one layer's translator makes of rows `[rows, dim]`, float32 and with gradients."""
    wide = rows.float()
    moved: Tensor = wide + linear(wide, weight, bias)
    return moved


def _numbers(name: str, x: Any) -> Tensor:
    found = torch.as_tensor(x)
    if not found.is_floating_point():
        raise DtypeError(message(name, "floating-point numbers", found.dtype))
    return found.detach().to(torch.float32).contiguous()


Translators.__module__ = "farspan"
