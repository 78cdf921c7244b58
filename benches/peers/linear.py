"""The products of a decoder beside torch's, which is MKL's or oneDNN's: the widths of SmolLM2-135M, and many rows."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F

import farspan
from timing import Case

ROWS = 1024
WIDTHS = {"queries, keys, values": (576, 960), "out": (576, 576), "gate, up": (576, 3072), "down": (1536, 576)}
GOAL = 0.95


def cases(full: bool) -> Iterator[Case]:
    random = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16):
        for name, (inputs, outputs) in WIDTHS.items() if full else [("gate, up", WIDTHS["gate, up"])]:
            x = torch.randn(ROWS, inputs, generator=random)
            weight = torch.randn(outputs, inputs, generator=random).to(dtype)
            yield Case(
                operation="linear",
                case=f"{'f32' if dtype == torch.float32 else 'bf16'} {ROWS} x {inputs} to {outputs}: {name}",
                peer="torch linear",
                farspan=partial(farspan.linear, x, weight),  # of float32 rows, as a model's are
                other=partial(F.linear, x.to(dtype), weight),
                goal=GOAL if dtype == torch.float32 else None,
            )
