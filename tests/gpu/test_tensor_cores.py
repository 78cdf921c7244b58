"""What the bitwise guarantees of attention rest on: a row's bits do not depend on its place in a tensor core's tile."""

from __future__ import annotations

import pytest
import torch

from farspan import _core
from farspan._backend.memory import GpuMemory

TILES, ROWS, COLUMNS, DEPTH = 64, 16, 8, 16


def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    c = torch.full((TILES, ROWS, COLUMNS), torch.nan, device=a.device)
    addresses = a.data_ptr(), b.data_ptr(), c.data_ptr()
    _core.cuda_probe(GpuMemory(a), str(a.dtype).removeprefix("torch."), TILES, addresses)
    return c


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("spread", [0.0, 4.0])
def test_a_row_has_the_same_bits_in_every_place(dtype: torch.dtype, spread: float) -> None:
    generator = torch.Generator("cuda").manual_seed(1)

    def numbers(*shape: int) -> torch.Tensor:
        """Of magnitudes that differ, so that the order and the width of the sums show."""
        x, scale = (torch.randn(shape, generator=generator, device="cuda") for _ in range(2))
        return (x * torch.exp2(spread * scale)).to(dtype)

    a, b = numbers(TILES, ROWS, DEPTH), numbers(TILES, COLUMNS, DEPTH)
    c = product(a, b)
    torch.testing.assert_close(c, (a.double() @ b.double().mT).float(), rtol=1e-2, atol=1e-2 * float(c.abs().max()))
    for shift in range(1, ROWS):
        assert torch.equal(product(a.roll(shift, 1).contiguous(), b), c.roll(shift, 1))
    neighbours = numbers(TILES, ROWS, DEPTH)
    for row in range(ROWS):  # and not on what its neighbours are
        other = neighbours.clone()
        other[:, row] = a[:, row]
        assert torch.equal(product(other, b)[:, row], c[:, row])
    for shift in range(1, COLUMNS):
        assert torch.equal(product(a, b.roll(shift, 1).contiguous()), c.roll(shift, 2))
