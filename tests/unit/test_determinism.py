"""A row has the same bits whatever the batch, the slot, the chunk, the number of threads and who else is calling."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.arrays import fields_of

import farspan
from farspan.testing import assert_same_bits


def problem(seed: int = 0, batch: int = 3, queries: int = 140, keys: int = 200, dim: int = 40) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = {"query": (batch, 4, queries, dim), "key": (batch, 2, keys, dim), "value": (batch, 2, keys, dim)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


ROTARY = farspan.Rotary((50.0 ** -(np.arange(20) / 20)).astype(np.float32))


@given(row=st.integers(0, 139), sequence=st.integers(0, 2), window=st.sampled_from([None, 30]))
def test_a_prefill_row_is_the_decode_step(backend: str, row: int, sequence: int, window: int | None) -> None:
    given = problem()
    whole = farspan.attention(**given, causal=True, window=window, keep_first=2, rotary=ROTARY)
    seen = slice(0, 200 - 140 + row + 1)
    one = farspan.attention(
        given["query"][sequence : sequence + 1, :, row : row + 1],
        given["key"][sequence : sequence + 1, :, seen],
        given["value"][sequence : sequence + 1, :, seen],
        causal=True,
        window=window,
        keep_first=2,
        rotary=ROTARY,
    )
    assert_same_bits(one, whole[sequence : sequence + 1, :, row : row + 1], f"row {row}")


@given(first=st.integers(1, 139))
def test_a_prefill_in_two_chunks_is_one_prefill(first: int) -> None:
    given = problem()
    whole = farspan.attention(**given, causal=True, rotary=ROTARY)
    early = {"query": given["query"][:, :, :first], **{n: given[n][:, :, : 60 + first] for n in ("key", "value")}}
    late = {**given, "query": given["query"][:, :, first:]}
    chunks = [farspan.attention(**part, causal=True, rotary=ROTARY) for part in (early, late)]
    assert_same_bits(np.concatenate(chunks, axis=2), whole, f"cut at {first}")


@given(page_size=st.one_of(st.integers(1, 70), st.just(128)), data=st.data())
def test_keys_in_pages_change_no_bit(backend: str, page_size: int, data: st.DataObject) -> None:
    given = problem(queries=data.draw(st.sampled_from([1, 70]), label="queries"))
    blocks = -(-200 // page_size)
    table = np.random.default_rng(page_size).permutation(3 * blocks).reshape(3, blocks)
    table[2] = table[0]  # two sequences may share their pages
    lengths = np.array([200, 130, 77])
    pages = {}
    for name in ("key", "value"):
        given[name][2] = given[name][0]
        padded = np.pad(given[name], ((0, 0), (0, 0), (0, blocks * page_size - 200), (0, 0)))
        pages[name] = np.full((3 * blocks, 2, page_size, 40), np.nan, np.float32)
        pages[name][table] = padded.reshape(3, 2, blocks, page_size, 40).swapaxes(1, 2)
    whole = farspan.attention(**given, causal=True, rotary=ROTARY, key_lengths=lengths)
    found = farspan.attention(
        given["query"], **pages, causal=True, rotary=ROTARY, key_lengths=lengths, block_table=table
    )
    assert_same_bits(found, whole, "in pages")


def unembedding(seed: int, rows: int) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    hidden, weight = (rng.standard_normal(shape).astype(np.float32) for shape in ((rows, 48), (1500, 48)))
    return hidden, weight, {"seed": rng.integers(0, 2**62, rows), "position": rng.integers(0, 2**32, rows)}


@given(rows=st.integers(1, 70), seed=st.integers(0, 2**32))
def test_a_draw_does_not_change_with_its_batch(backend: str, rows: int, seed: int) -> None:
    hidden, weight, draws = unembedding(seed, rows)
    together = farspan.sample(hidden, weight, **draws)
    shuffle = np.random.default_rng(seed).permutation(rows)
    moved = farspan.sample(hidden[shuffle], weight, **{name: x[shuffle] for name, x in draws.items()})
    alone = farspan.sample(hidden[-1], weight, **{name: int(x[-1]) for name, x in draws.items()})
    for whole, other, single in zip(*(fields_of(x).values() for x in (together, moved, alone)), strict=True):
        assert_same_bits(other, whole[shuffle], "permuted rows")
        assert_same_bits(single, whole[-1], "a row alone")


def work(seed: int) -> list[np.ndarray]:
    """One of everything; the results of one seed are always the same."""
    hidden, weight, draws = unembedding(seed, 9)
    output, lse = farspan.attention(**problem(seed), causal=True, rotary=ROTARY, return_lse=True)
    sampled, scored = farspan.sample(hidden, weight, **draws), farspan.score(hidden, weight, np.arange(9))
    return [
        output,
        lse,
        *fields_of(sampled).values(),
        *scored[:4],
        *farspan.top(hidden, weight, 5),
        farspan.linear(hidden, weight),
    ]


def same(found: list[np.ndarray], expected: list[np.ndarray], what: str) -> None:
    for one, other in zip(found, expected, strict=True):
        assert_same_bits(one, other, what)


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_the_number_of_threads_changes_nothing(threads: Callable[[int], None], n: int) -> None:
    threads(1)
    expected = work(5)
    threads(n)
    assert farspan.get_num_threads() == n
    same(work(5), expected, f"{n} threads")


def test_many_python_threads_at_once(threads: Callable[[int], None]) -> None:
    threads(2)
    expected = [work(seed) for seed in range(4)]
    failures: list[BaseException] = []

    def caller(turn: int) -> None:
        try:
            for i in range(6):
                seed = (turn + i) % 4
                same(work(seed), expected[seed], f"caller {turn}")
                farspan.set_num_threads(1 + (turn + i) % 3)
        except BaseException as error:
            failures.append(error)

    callers = [threading.Thread(target=caller, args=(turn,)) for turn in range(8)]
    for one in callers:
        one.start()
    for one in callers:
        one.join(timeout=120)
        assert not one.is_alive(), "a caller hangs"
    assert not failures, failures[0]


def _child(queue: Any) -> None:
    queue.put([x.tobytes() for x in work(1)])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_computes_with_threads_of_its_own(threads: Callable[[int], None]) -> None:
    threads(2)
    expected = work(1)  # the parent's pool exists before the fork
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    children = [context.Process(target=_child, args=(queue,)) for _ in range(2)]
    for child in children:
        child.start()
    try:
        for _ in children:
            assert queue.get(timeout=60) == [x.tobytes() for x in expected]
    finally:
        for child in children:
            child.join(timeout=10)
            if child.is_alive():
                child.kill()
                pytest.fail("a forked child hangs")
    same(work(1), expected, "the parent after the fork")


def test_a_caller_that_flushes_subnormal_numbers_changes_no_bit() -> None:
    import torch

    x, weight = np.full((4000, 64), 1e-20, np.float32), np.full((64, 64), 1e-20, np.float32)
    expected = farspan.linear(x, weight)
    assert 0 < expected.min() < np.finfo(np.float32).tiny
    try:
        assert torch.set_flush_denormal(True)
        found = farspan.linear(x, weight)
    finally:
        torch.set_flush_denormal(False)
    assert_same_bits(found, expected, "products")
