"""A vocabulary in parts: every holder draws what one process with all of it draws, bit for bit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.emulated import TensorMemory, emulated_kernels, library
from support.holders import bits, run_holders
from support.sampler_cases import Case, exact, random_logits, sampler_cases

import farspan
from farspan import VocabularyShard, ops, vocabulary_ranges
from farspan._backend.operations import OPERATIONS
from farspan._backend.settings import Drawn, Draws, Rules, Settings
from farspan.parallel import vocabulary


def in_parts(shards: int, vocab: int, call: Callable[[VocabularyShard, slice], Any]) -> list[Any]:
    """Run `call` once for each part, all at the same time, each in a thread of its own."""
    ranges = vocabulary_ranges(vocab, shards)
    barrier = threading.Barrier(shards, timeout=60)
    sent: list[bytes] = [b""] * shards
    results: list[Any] = [None] * shards

    def run(rank: int) -> None:
        def gather(part: bytes) -> list[bytes]:
            sent[rank] = part
            barrier.wait()
            everything = list(sent)
            barrier.wait()
            return everything[rank:] + everything[:rank]  # each hears of the others in another order

        part = ranges[rank]
        try:
            results[rank] = call(VocabularyShard(part.start, vocab, gather), slice(part.start, part.stop))
        except Exception as error:
            results[rank] = error
            barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(shards)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, Exception) and not isinstance(result, threading.BrokenBarrierError):
            raise result
    return results


def assert_parts_draw_the_same(shards: int, hidden: Any, weight: Any, bias: Any = None, **options: Any) -> None:
    whole = bits(farspan.sample(hidden, weight, bias=bias, **options))

    def call(shard: VocabularyShard, part: slice) -> list[Any]:
        own = None if bias is None else bias[part]
        return bits(farspan.sample(hidden, weight[part], bias=own, shard=shard, **options))

    for drawn in in_parts(shards, len(weight), call):
        assert drawn == whole


@pytest.fixture(params=["cpu", "emulated"])
def device(request: pytest.FixtureRequest) -> Iterator[None]:
    """The test runs on the CPU, or on the emulated CUDA kernels."""
    with emulated_kernels() if request.param == "emulated" else nullcontext():
        yield


@settings(max_examples=40)
@given(case=sampler_cases(), shards=st.sampled_from([1, 2, 3, 8]))
def test_any_settings(case: Case, shards: int) -> None:
    assert_parts_draw_the_same(shards, case.hidden, case.weight, **case.settings)


@pytest.mark.parametrize("shards", [1, 2, 3, 8])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_large_vocabulary(shards: int, dtype: str) -> None:
    make = torch.Generator().manual_seed(3)
    hidden = torch.randn(5, 48, generator=make).to(getattr(torch, dtype))
    weight = torch.randn(20_000, 48, generator=make).to(hidden.dtype)
    bias = torch.randn(20_000, generator=make)
    rules: dict[str, Any] = {"scale": 0.5, "softcap": 20.0, "valid_vocab": 19_000}
    for cuts in ({}, {"top_k": 50, "top_p": 0.9}, {"typical": 0.8, "top_n_sigma": 3.0}):
        draws = {"seed": torch.arange(5), "position": 9, "stream": 2, "temperature": torch.tensor([1, 0.7, 0, 2, 1.0])}
        assert_parts_draw_the_same(shards, hidden, weight, bias, **draws, **rules, **cuts)


@settings(max_examples=6)
@given(case=sampler_cases(), shards=st.sampled_from([2, 3]))
def test_emulated_any_settings(case: Case, shards: int) -> None:
    with emulated_kernels():
        assert_parts_draw_the_same(shards, case.hidden, case.weight, **case.settings)


@pytest.mark.parametrize("padded", [5000, 4000], ids=["padding", "a part of padding alone"])
def test_emulated_parts_without_settings(padded: int) -> None:
    make = torch.Generator().manual_seed(6)
    hidden, weight = torch.randn(3, 24, generator=make), torch.randn(6000, 24, generator=make)
    draws: dict[str, Any] = {"seed": 2, "position": torch.arange(3), "temperature": torch.tensor([1.0, 0.0, 3.0])}
    with emulated_kernels():
        for options in ({}, {"samples": 2}, {"top": 5}):
            assert_parts_draw_the_same(3, hidden, weight, torch.randn(6000), valid_vocab=padded, **draws, **options)


def test_emulated_tensors_of_a_device_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    if library() is None:
        pytest.skip("the emulator of the CUDA kernels is not built: cargo build -p farspan-cuda-emulator")
    monkeypatch.setattr(ops, "GpuMemory", TensorMemory)
    make = torch.Generator().manual_seed(7)
    hidden, weight = torch.randn(2, 24, generator=make).half(), torch.randn(5000, 24, generator=make).half()
    draws = Draws(torch.tensor(3), torch.tensor([4, 5]), torch.tensor(0), torch.tensor(2.0))

    def drawn(weight: torch.Tensor, *shard: Any) -> list[torch.Tensor]:
        large, given = (hidden, weight), (Rules(), Settings())
        fields = ops.on_gpu(OPERATIONS["sample"], large, (draws, *given), *shard)
        asked = Drawn(fields[0], fields[6], fields[5])
        return [*fields, ops.on_gpu(OPERATIONS["ranks"], large, (asked, *given), *shard)]

    *whole, ranks = drawn(weight)
    for fields in in_parts(3, 5000, lambda shard, part: drawn(weight[part], vocabulary.place(shard))):
        assert torch.equal(fields[0], whole[0])
        assert torch.equal(fields[-1], ranks)


def test_undecided_rows_take_a_second_exchange() -> None:
    logits = random_logits(np.random.default_rng(1), 3, 6000, 0.01)
    hidden, weight = exact(logits, torch.float32)
    options: dict[str, Any] = {"seed": 5, "position": 0, "top_p": torch.tensor([0.99, 1.0, 0.5])}
    before = farspan._core.second_passes()
    farspan.sample(hidden, weight, **options)
    assert farspan._core.second_passes() == before + 2
    assert_parts_draw_the_same(3, hidden, weight, **options)


def test_greedy_and_verify(device: None) -> None:
    make = torch.Generator().manual_seed(4)
    hidden, weight = torch.randn(2, 4, 16, generator=make), torch.randn(5000, 16, generator=make)
    whole = bits(farspan.greedy(hidden, weight))
    for drawn in in_parts(2, 5000, lambda shard, part: bits(farspan.greedy(hidden, weight[part], shard=shard))):
        assert drawn == whole
    drawn = farspan.sample(hidden, weight, seed=1, position=torch.arange(7, 11).expand(2, 4), top_k=20).token
    drafts = drawn[:, :3].clone()
    drafts[1, 1] += 1

    def check(shard: VocabularyShard, part: slice) -> farspan.Verified:
        return farspan.verify(hidden, weight[part], drafts, seed=1, position=7, top_k=20, shard=shard)

    for checked in in_parts(3, 5000, check):
        assert checked.accepted.tolist() == [3, 1]
        assert checked.token.tolist() == [drawn[0, 3].item(), drawn[1, 1].item()]


@pytest.mark.parametrize("valid_vocab", [0, 1, 2047, 2048, 4000, 6143, 6144, 8190])
def test_parts_that_are_padding_alone(valid_vocab: int) -> None:
    make = torch.Generator().manual_seed(6)
    hidden, weight = torch.randn(2, 8, generator=make), torch.randn(8192, 8, generator=make)
    for cuts in ({}, {"top_p": 0.999, "typical": 0.9}):
        options: dict[str, Any] = {"seed": 1, "position": 2, "valid_vocab": valid_vocab, **cuts}
        assert_parts_draw_the_same(4, hidden, weight, **options)


@pytest.mark.parametrize(("vocab", "shards"), [(151_936, 8), (20_000, 3), (5, 4), (0, 2), (2048 * 7, 7), (100_000, 64)])
def test_ranges_cover_the_vocabulary(vocab: int, shards: int) -> None:
    ranges = vocabulary_ranges(vocab, shards)
    assert [x for part in ranges for x in part] == list(range(vocab))
    assert len(ranges) == shards
    assert all(part.start % 2048 == 0 for part in ranges if len(part))
    assert max(map(len, ranges)) - min(map(len, ranges)) < 2 * 2048


def _alone(parts: list[bytes]) -> Callable[[bytes], list[bytes]]:
    return lambda part: parts


WRONG: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "a cut elsewhere": (lambda: VocabularyShard(1000, 5000, _alone([])), farspan.ArgumentError, "first"),
    "behind the end": (lambda: VocabularyShard(8192, 5000, _alone([])), farspan.ArgumentError, "first"),
    "no function": (lambda: VocabularyShard(0, 5000, None), farspan.DtypeError, "gather"),  # type: ignore[arg-type]
    "no shards": (lambda: vocabulary_ranges(10, 0), farspan.ArgumentError, "shards"),
    "an end elsewhere": (lambda: _draw(rows=1000), farspan.ArgumentError, "shard"),
    "too many rows": (lambda: _draw(rows=6000), farspan.ArgumentError, "shard"),
    "nothing gathered": (lambda: _draw(gathered=[]), farspan.ArgumentError, "gather"),
    "no bytes": (lambda: _draw(gathered=["x"]), farspan.DtypeError, "gather"),
    "garbage": (lambda: _draw(gathered=[b"garbage"]), farspan.ArgumentError, "gather"),
    "its own part only": (lambda: _draw(own=True), farspan.ArgumentError, "gather"),
    "no list": (lambda: _draw(gathered=b"x"), farspan.DtypeError, "gather"),
    "no shard": (lambda: _draw(shard=(0, 5000)), farspan.DtypeError, "shard"),
    "a greedy one of no shard": (
        lambda: farspan.greedy(*_ones(), shard=3),  # type: ignore[arg-type]
        farspan.DtypeError,
        "shard",
    ),
}


def _draw(rows: int = 2048, gathered: Any = None, own: bool = False, shard: Any = None) -> farspan.Sample:
    gather = (lambda part: [part]) if own else _alone(gathered)
    shard = shard or VocabularyShard(0, 5000, gather)
    return farspan.sample(*_ones(rows), seed=0, position=0, shard=shard)


def _ones(rows: int = 2048) -> tuple[np.ndarray, np.ndarray]:
    return np.ones((1, 4), np.float32), np.ones((rows, 4), np.float32)


def test_a_failure_of_gather_is_the_callers() -> None:
    def gather(part: bytes) -> list[bytes]:
        raise KeyError("no network")

    with pytest.raises(KeyError, match="no network"):
        farspan.sample(*_ones(), seed=0, position=0, shard=VocabularyShard(0, 5000, gather))


def test_ranks_that_no_holder_counts_are_refused() -> None:
    replies = iter([None, [b"short"]])

    def gather(part: bytes) -> list[bytes]:
        return next(replies) or [part]

    hidden, weight = np.ones((1, 4), np.float32), np.zeros((3000, 4), np.float32)
    drawn = farspan.sample(hidden, weight, seed=1, position=0, shard=VocabularyShard(0, 3000, gather))
    with pytest.raises(farspan.ArgumentError, match=r"^gather\b"):
        drawn.rank  # noqa: B018


@pytest.mark.parametrize("name", WRONG)
def test_bad_input_is_named(name: str) -> None:
    call, error, argument = WRONG[name]
    with pytest.raises(error, match=rf"^{argument}\b"):
        call()


def test_processes_that_gather_with_torch_distributed(tmp_path: Any) -> None:
    run_holders(2, str(tmp_path / "store"))
