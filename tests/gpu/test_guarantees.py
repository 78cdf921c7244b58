"""What holds on a GPU beyond the definitions: bits, streams, sizes, errors. No graph is captured here."""

from __future__ import annotations

import pytest
import torch
from support.emulated import HostMemory, emulator, library

import farspan
from farspan._backend import gpu
from farspan._backend.settings import NOTHING
from farspan.testing import assert_same_bits

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    make = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=make).to(dtype).cuda()


def same(found: torch.Tensor, expected: torch.Tensor, what: str) -> None:
    assert_same_bits(found.float().cpu(), expected.float().cpu(), what)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dim", [64, 128])
def test_a_row_does_not_depend_on_its_place_in_a_tile(dtype: torch.dtype, dim: int) -> None:
    """What prefill = decode rests on: a tensor core gives a row the same bits in all of its places."""
    row, key, value = normal(1, 1, 1, dim, dtype=dtype), *(normal(1, 1, 300, dim, dtype=dtype, seed=i) for i in (1, 2))
    expected = farspan.attention(row, key, value)
    for place in range(16):
        query = normal(1, 1, 16, dim, dtype=dtype, seed=3)
        query[:, :, place] = row[:, :, 0]
        same(farspan.attention(query, key, value)[:, :, place], expected[:, :, 0], f"place {place}")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("group", [1, 4, 8])
def test_decode_and_prefill_rows_have_the_same_bits(dtype: torch.dtype, group: int) -> None:
    keys, heads = 1100, 2
    query = normal(2, heads * group, keys, 128, dtype=dtype)
    key, value = (normal(2, heads, keys, 128, dtype=dtype, seed=seed) for seed in (1, 2))
    whole, lse = farspan.attention(query, key, value, causal=True, return_lse=True)
    statistics = farspan.attention_statistics(query, key, causal=True)
    same(statistics.lse, lse, "the LSE of the statistics")
    for row in (0, 1, 63, 64, 500, 1099):
        seen, its = slice(0, row + 1), query[:, :, row : row + 1]
        one = farspan.attention(its, key[:, :, seen], value[:, :, seen], causal=True)
        same(one, whole[:, :, row : row + 1], f"row {row}")
        for name, x in farspan.attention_statistics(its, key[:, :, seen], causal=True)._asdict().items():
            same(x, getattr(statistics, name)[:, :, row : row + 1], f"{name} of row {row}")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_draw_has_the_same_bits_in_any_batch(dtype: torch.dtype) -> None:
    hidden, weight = normal(256, 512, dtype=dtype), normal(32_000, 512, dtype=dtype, seed=1)
    together = farspan.sample(hidden, weight, seed=torch.arange(256).cuda(), position=3)
    for rows in (slice(0, 1), slice(7, 9), slice(100, 164)):
        some = farspan.sample(hidden[rows], weight, seed=torch.arange(256).cuda()[rows], position=3)
        for name in ("token", "logprob", "raw_logprob", "lse", "entropy"):
            same(getattr(some, name), getattr(together, name)[rows], f"{name} of rows {rows}")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_loss_and_its_gradient_have_the_same_bits_in_any_batch(dtype: torch.dtype) -> None:
    hidden, weight = normal(300, 512, dtype=dtype), normal(9000, 512, dtype=dtype, seed=1) / 20
    targets = (torch.arange(300) * 7).cuda()

    def run(rows: slice) -> list[torch.Tensor]:
        x = hidden[rows].clone().requires_grad_()
        loss = farspan.linear_cross_entropy(x, weight, targets[rows], reduction="none")
        apart = farspan.divergence(x, weight, hidden[rows].flip(-1))
        gradients = [torch.autograd.grad(result.sum(), x)[0] for result in (loss, apart)]
        return [loss.detach(), apart.detach(), *gradients]

    together = run(slice(0, 300))
    for rows in (slice(0, 1), slice(7, 9), slice(100, 264)):
        for found, expected in zip(run(rows), together, strict=True):
            same(found, expected[rows], f"rows {rows}")


def test_float32_draws_have_the_bits_of_the_emulator() -> None:
    if library() is None:
        pytest.skip("the emulator of the CUDA kernels is not built: cargo build -p farspan-cuda-emulator")
    hidden, weight = normal(5, 48), normal(3000, 48, seed=1)
    draws = (*(torch.tensor(x) for x in (7, 1, 2)), torch.tensor(0.7))
    found = torch.ops.farspan.sample(hidden, weight, *(x.cuda() for x in draws))
    arrays = (hidden.cpu().numpy(), weight.cpu().numpy(), tuple(x.numpy() for x in draws), (1.0, None, None, None))
    expected = gpu.sample(HostMemory(emulator()), "float32", *arrays, NOTHING)
    for one, other in zip(found, expected, strict=True):
        assert_same_bits(one.cpu(), other, "a field of the draw")


FAR = (1 << 31) + (1 << 14)
"""Elements of an array that 32 bits do not count."""


def room_for(elements: int) -> None:
    """Skips where a bfloat16 array of so many, and as much again to work with, has no room."""
    free, _ = torch.cuda.mem_get_info()
    if free < 4 * elements:
        pytest.skip(f"needs {4 * elements >> 30} GiB of free memory, this GPU has {free >> 30}")


def test_keys_beyond_two_to_the_31_elements() -> None:
    room_for(FAR)
    keys, dim, seen = FAR // 128, 128, 1000
    key = torch.zeros(1, 1, keys, dim, dtype=torch.bfloat16, device="cuda")
    last = key[:, :, keys - keys % 64 - 1024 :]  # from the start of a chunk
    last.copy_(normal(*last.shape, dtype=torch.bfloat16, seed=1))
    query = normal(1, 4, 3, dim, dtype=torch.bfloat16)
    found = farspan.attention(query, key, key, causal=True, window=seen)
    same(found, farspan.attention(query, last, last, causal=True, window=seen), "the last keys of many")


def test_weights_beyond_two_to_the_31_elements() -> None:
    room_for(FAR)
    dim = 4096
    weight = torch.zeros(FAR // dim, dim, dtype=torch.bfloat16, device="cuda")
    weight[-3:] = normal(3, dim, dtype=torch.bfloat16, seed=1)
    hidden = weight[-3:].clone()
    assert farspan.greedy(hidden, weight).token.tolist() == [len(weight) - 3 + row for row in range(3)]


def test_work_follows_the_current_stream() -> None:
    """Inputs that another stream is still writing when the call is made."""
    side = torch.cuda.Stream()
    key, value = (normal(1, 8, 4096, 128, seed=seed) for seed in (1, 2))
    query = torch.zeros(1, 8, 256, 128, device="cuda")
    given = normal(1, 8, 256, 128)
    expected = farspan.attention(given, key, value)
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        for _ in range(50):
            key.mul_(1.0)
        query.copy_(given)
        found = farspan.attention(query, key, value)
    side.synchronize()
    same(found, expected, "on a stream of its own")


def test_lengths_beyond_the_keys_touch_nothing() -> None:
    query, key, value = (normal(1, 1, 8, 32, seed=seed) for seed in range(3))
    too_long = farspan.attention(query, key, value, key_lengths=torch.tensor([10**9]).cuda())
    same(too_long, farspan.attention(query, key, value), "held to the keys that exist")
    none = farspan.attention(query, key, value, key_lengths=torch.tensor([-3]).cuda())
    assert not none.any()


def test_tensors_on_different_devices_are_refused() -> None:
    query = normal(1, 1, 2, 8)
    with pytest.raises(farspan.ArgumentError, match=r"^key: expected a tensor on cuda:0"):
        farspan.attention(query, query.cpu(), query)
    with pytest.raises(farspan.ArgumentError, match=r"^weight: expected a tensor on cuda:0"):
        farspan.greedy(query[0, 0], torch.zeros(4, 8))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_each_device_computes_on_its_own() -> None:
    query, key, value = (normal(1, 2, 30, 64, seed=seed) for seed in range(3))
    expected = farspan.attention(query, key, value)
    found = farspan.attention(*(x.to("cuda:1") for x in (query, key, value)))
    assert found.device.index == 1
    same(found, expected, "on the second GPU")
