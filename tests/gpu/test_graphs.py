"""CUDA graphs, of operations and of `generate`: the bits of calls without, and nothing left behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.models import VOCAB, ids, small_model
from support.replayed import numbers

import farspan
from farspan import positions as P
from farspan.model.generation import graphs
from farspan.model.generation.graphs import CudaGraphs

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")  # how a capture that fails is told

PROMPTS = [ids(1, 250)[0].tolist(), [3, 1, 4, 1, 5] * 2]


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with each replay of a graph, by the number of the graph."""
    done: list[int] = []
    graph, record = iter(range(1000)), CudaGraphs.record

    def counting(self: CudaGraphs, work: Any) -> Any:
        number, replay = next(graph), record(self, work)

        def call() -> Any:
            done.append(number)
            return replay()

        return call

    monkeypatch.setattr(CudaGraphs, "record", counting)
    return done


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).cuda()


def test_a_captured_step_draws_fresh_noise() -> None:
    """Attention and a draw in a graph: positions and lengths are read when it is replayed."""
    query, weight = random(2, 4, 1, 64), random(5000, 256, seed=3)
    key, value = (random(2, 2, 640, 64, seed=seed) for seed in (1, 2))
    lengths, position = torch.tensor([5, 600]).cuda(), torch.tensor([5, 600]).cuda()

    def step() -> tuple[torch.Tensor, torch.Tensor]:
        mixed = farspan.attention(query, key, value, causal=True, key_lengths=lengths)
        return mixed, farspan.sample(mixed.flatten(1), weight, seed=1, position=position).token

    step()  # what is compiled and loaded now is not captured
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        mixed, token = step()
    tokens = []
    for _ in range(5):
        lengths += 1
        position += 1
        graph.replay()
        expected, drawn = step()
        assert torch.equal(mixed, expected)
        assert torch.equal(token, drawn)
        tokens.append(token.tolist())
    assert len({tuple(x) for x in tokens}) > 1, "the noise changes with the position"


OPTIONS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "temperatures": {"temperature": [0.0, 0.8], "seed": [5, -1]},
    "settings": {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "repetition_penalty": 1.1, "top": 3},
    "drafts": {"temperature": 0.5, "draft": "prompt-lookup", "draft_length": 2},
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_graphs_change_no_bit(options: dict[str, Any], dtype: str, replays: list[int]) -> None:
    """Over 256 tokens, where the bucket changes and the cache grows."""
    model = small_model(dtype=dtype).to("cuda")
    found = model.generate(PROMPTS, max_new_tokens=24, **options)
    assert len(set(replays)) >= 2, "one for each bucket at least"
    replayed = len(replays)
    assert numbers(found) == numbers(model.generate(PROMPTS, max_new_tokens=24, **options, graphs=False))
    assert len(replays) == replayed


SCHEMES = [P.DynamicNTK(2, 128), P.ALiBi(), P.LogN(64), P.SelfExtend(4, 32), P.Streaming(4, 64)]


@pytest.mark.parametrize("scheme", SCHEMES, ids=repr)
def test_graphs_change_no_bit_under_a_scheme(scheme: Any, replays: list[int]) -> None:
    model = small_model().to("cuda").with_positions(scheme)
    caches = [model.new_cache(2, capacity=600) for _ in range(2)]
    found = model.generate(PROMPTS, max_new_tokens=16, temperature=0.8, cache=caches[0])
    assert replays
    assert numbers(found) == numbers(
        model.generate(PROMPTS, max_new_tokens=16, temperature=0.8, cache=caches[1], graphs=False)
    )


def test_graphs_follow_the_current_stream(replays: list[int]) -> None:
    model = small_model().to("cuda")
    expected = model.generate(PROMPTS, max_new_tokens=12, temperature=0.8)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        found = model.generate(PROMPTS, max_new_tokens=12, temperature=0.8)
        assert torch.cuda.current_stream() == side
    assert numbers(found) == numbers(expected)


def test_graphs_that_go_leave_their_memory_to_others(monkeypatch: pytest.MonkeyPatch, replays: list[int]) -> None:
    monkeypatch.setattr(graphs, "MOST_STRUCTURES", 2)
    model = small_model().to("cuda")
    options: dict[str, Any] = {"max_new_tokens": 40, "draft": "prompt-lookup", "draft_length": 3}
    expected = numbers(model.generate(PROMPTS, **options, graphs=False))
    held = []
    for _ in range(4):
        assert numbers(model.generate(PROMPTS, **options)) == expected
        held.append(torch.cuda.memory_allocated())
    assert replays
    assert held[1] == held[3]


def test_a_capture_that_fails_leaves_the_device_as_it_was() -> None:
    stream, x = torch.cuda.current_stream(), torch.arange(3.0, device="cuda")
    recorder = CudaGraphs(x.device)
    with pytest.raises(RuntimeError):
        recorder.record(lambda: x.sum().item())
    assert torch.cuda.current_stream() == stream
    assert x.sum().item() == 3
    # Memory that another stream has used is given out again, which an allocator that believes in a capture puts off.
    side, large = torch.cuda.Stream(), torch.empty(64 << 20, dtype=torch.uint8, device="cuda")
    large.record_stream(side)
    address = large.data_ptr()
    del large
    torch.cuda.synchronize()
    assert torch.empty(64 << 20, dtype=torch.uint8, device="cuda").data_ptr() == address
    replay = recorder.record(lambda: 2 * x)
    x += 1
    assert replay().tolist() == [2, 4, 6]


def test_a_model_in_a_graph_of_the_callers_is_refused() -> None:
    model, tokens, graph = small_model().to("cuda"), ids(1, 5).cuda(), torch.cuda.CUDAGraph()
    expected = model(tokens)
    with torch.cuda.graph(graph), pytest.raises(farspan.BackendError, match=r"^model: expected a call that no CUDA"):
        model(tokens)
    assert torch.equal(model(tokens), expected)


def test_unknown_ids_are_refused_and_the_device_goes_on() -> None:
    model = small_model().to("cuda")
    for wrong in (VOCAB, -1):
        for given in ([[1, wrong]], torch.tensor([[1, wrong]], device="cuda")):
            with pytest.raises(farspan.ArgumentError, match=r"^ids: expected ids of the vocabulary"):
                model(given)
        with pytest.raises(farspan.ArgumentError, match=r"^ids: expected ids of the vocabulary"):
            model.generate([[1, wrong]])
    assert model([[1, 2]]).isfinite().all()
