"""Experts of GPT-OSS in MXFP4: blocks of 32 numbers of four bits that share a power of two, widened when read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from farspan._errors import CheckpointError, message
from farspan.model.safetensors import StoredTensor

METHOD = "mxfp4"
NUMBERS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""Of the codes 0 to 7; those from 8 on are the same below zero."""
BLOCK_BYTES = 16
EXPONENT_OF_ONE = 127
BLOCKS, SCALES = "_blocks", "_scales"


@dataclasses.dataclass(frozen=True)
class Mxfp4Tensor:
    """A stack of experts' matrices `[experts, in, out]`, in a file as `[experts, out, in / 32]` blocks."""

    blocks: StoredTensor
    scales: StoredTensor

    @property
    def name(self) -> str:
        return self.blocks.name.removesuffix(BLOCKS)

    @property
    def path(self) -> Path:
        return self.blocks.path

    def require(self, shape: tuple[int, ...], why: str) -> None:
        """CheckpointError unless this has `shape`, which `why` gives a reason for."""
        if len(shape) != 3 or shape[1] % (2 * BLOCK_BYTES):
            where = f"{self.name} in {self.path}"
            raise CheckpointError(message(where, f"shape {list(shape)}, {why}", "blocks of 32 numbers"))
        experts, inner, outer = shape
        scales = (experts, outer, inner // (2 * BLOCK_BYTES))
        for stored, wanted in ((self.blocks, (*scales, BLOCK_BYTES)), (self.scales, scales)):
            where = f"{stored.name} in {stored.path}"
            if stored.dtype != "U8":
                raise CheckpointError(message(where, "dtype U8", stored.dtype))
            if stored.shape != wanted:
                raise CheckpointError(message(where, f"shape {list(wanted)}, {why}", f"shape {list(stored.shape)}"))

    def copy_into(self, view: Tensor) -> None:
        """Writes the numbers into a view that has them in this order, one expert after the other."""
        blocks, scales = self.blocks.read(), self.scales.read()
        for place, codes, exponents in zip(view, blocks, scales, strict=True):
            place.copy_(_widened(codes, exponents).T.reshape(place.shape))


def _widened(codes: Tensor, exponents: Tensor) -> Tensor:
    """`[out, groups, 16]` bytes, the lower half of each first -> `[out, in]` float32."""
    table = torch.tensor([*NUMBERS, *(-number for number in NUMBERS)])
    pairs = torch.stack([table[(codes & 15).long()], table[(codes >> 4).long()]], dim=-1)
    numbers = pairs.flatten(-2)
    return torch.ldexp(numbers, exponents.to(torch.int32)[..., None] - EXPONENT_OF_ONE).flatten(-2)


def is_mxfp4(settings: Mapping[str, Any]) -> bool:
    """Whether a `config.json` says that experts are stored so."""
    quantized = settings.get("quantization_config")
    return isinstance(quantized, dict) and quantized.get("quant_method") == METHOD


def joined(stored: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors, with one in place of each pair of blocks and scales. CheckpointError: there are no such pairs."""
    pairs = [name.removesuffix(BLOCKS) for name in stored if name.endswith(BLOCKS)]
    halves = {name + half for name in pairs for half in (BLOCKS, SCALES)}
    found = {name: tensor for name, tensor in stored.items() if name not in halves}
    if not pairs:
        expected = f"tensors named *{BLOCKS} and *{SCALES}, as its {METHOD} says"
        raise CheckpointError(message("quantization_config", expected, "none"))
    for name in pairs:
        if name + SCALES not in stored:
            raise CheckpointError(message("weights", f"a tensor {name}{SCALES}", "none"))
        found[name] = Mxfp4Tensor(stored[name + BLOCKS], stored[name + SCALES])
    return found
