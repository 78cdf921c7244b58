"""What two texts, or two models, have in common if they are the same."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from farspan.model.transformer import Transformer


def digest(ids: Tensor) -> str:
    """Of a text."""
    return hashlib.sha256(ids.cpu().long().numpy().tobytes()).hexdigest()


def digest_of_model(model: Transformer) -> str:
    """Of every parameter."""
    seen = hashlib.sha256()
    for name, parameter in model.named_parameters():
        seen.update(f"{name} {list(parameter.shape)} {parameter.dtype}".encode())
        seen.update(parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return seen.hexdigest()
