"""`generate` on a GPU's path with graphs, which are emulated as its kernels are: the same bits as without."""

from __future__ import annotations

import gc
import weakref
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from support.emulated import TensorMemory, library
from support.models import VOCAB, ids, small_model
from support.replayed import ReplayedPython, numbers

import farspan
from farspan import ops
from farspan import positions as P
from farspan._backend.operations import OPERATIONS
from farspan.attention import hook_arguments
from farspan.model import Cache, Completion, Transformer, operations, passes, staging
from farspan.model.generation import graphs
from farspan.model.generation.drawing import Drawing
from farspan.model.generation.steps import Steps
from farspan.model.operations import DeviceOperations

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")  # how a capture that fails is told

PROMPTS = [ids(1, 13)[0].tolist(), [3, 1, 4, 1, 5] * 2, ids(1, 10, seed=2)[0].tolist()]
LONG = [ids(1, 54)[0].tolist(), [7, 7]]  # soon beyond a cache's first capacity


def tiny_model(**changes: Any) -> Transformer:
    shape = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    return small_model(**{**shape, **changes})


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[ReplayedPython]:
    """Models compute as on a GPU, through the functions that torch's dispatcher calls there. Gives what recorded."""
    if library() is None:
        pytest.skip("the emulator of the CUDA kernels is not built: cargo build -p farspan-cuda-emulator")
    monkeypatch.setattr(Transformer, "activations", property(lambda model: model.dtype))
    monkeypatch.setattr(Transformer, "choose_operations", lambda model: DeviceOperations(model.activations))
    monkeypatch.setattr(operations, "arrays_serve", lambda *inputs: False)
    monkeypatch.setattr(ops, "of_tensors", lambda operation, dtype, large, lists: ops.on_gpu(operation, large, lists))
    monkeypatch.setattr(ops, "CALLS", {name: ops.flat(operation, ops.on_gpu) for name, operation in OPERATIONS.items()})
    monkeypatch.setattr(ops, "GpuMemory", TensorMemory)
    monkeypatch.setattr(graphs, "RUNS_BEFORE_CAPTURE", 1)  # several graphs in few steps
    monkeypatch.setattr(passes, "LEAST_BUCKET", 8)  # several buckets in few steps
    monkeypatch.setattr(staging, "LARGE", 256)  # tables that are sent by themselves
    found: list[ReplayedPython] = []

    def recorder(device: torch.device) -> ReplayedPython:
        found.append(ReplayedPython())
        return found[-1]

    monkeypatch.setattr(graphs, "recorder", recorder)
    return found


def replays(made: list[ReplayedPython]) -> int:
    return sum(one.replayed for one in made)


class Plain:
    """In the place of `RepeatedPasses`: one after the other, as `model(ids)` does it."""

    def __init__(self, model: Transformer, operations: DeviceOperations, graphs: bool) -> None:
        self.model, self.operations = model, operations

    def hidden(self, tokens: np.ndarray, plan: passes.PassPlan, last: Any) -> torch.Tensor:
        hidden = self.model.run(tokens, plan, self.operations)
        return hidden if last is None else hidden[last]

    def drawn(self, tokens: np.ndarray, plan: passes.PassPlan, last: Any, draws: Any) -> farspan.Sample:
        return self.operations.draw(self.hidden(tokens, plan, last), self.model.unembedding, draws)


@contextmanager
def without_graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as exact:
        exact.setattr(passes, "bucket", lambda length, capacity: None)
        exact.setattr(graphs, "RepeatedPasses", Plain)
        yield


def with_as_without(
    monkeypatch: pytest.MonkeyPatch, model: Transformer, prompts: Any = PROMPTS, **options: Any
) -> list[Completion]:
    """The texts with graphs and buckets of keys, which are those without either, from passes that share nothing."""
    found = model.generate(prompts, **options)
    with without_graphs(monkeypatch):
        expected = model.generate(prompts, **options)
    assert numbers(found) == numbers(expected)
    return found


SCHEMES = [
    P.RoPE(), P.DynamicNTK(2, 12), P.LongRoPE((1.0,) * 6, (2.0,) * 6, 17, 64), P.YaRN(4, 16), P.NoPE(), P.ALiBi(),
    P.LogN(4), P.LogN(8, P.ALiBi()), P.SelfExtend(2, 8), P.ReRoPE(6), P.Streaming(2, 8), P.Streaming(1, 6, P.NoPE()),
    P.HardALiBi(), P.Sandwich(), P.RandomPositions(999), P.SSMax(9, P.T5(8, 20)), P.Kerple(), P.Forgetting(),
    P.Relative(6), P.RandomPositions(999, inner=P.Relative(6)),
]  # fmt: skip


@pytest.mark.parametrize("scheme", SCHEMES, ids=repr)
def test_emulated_graphs_change_no_bit_under_any_scheme(
    scheme: Any, made: list[ReplayedPython], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model().with_positions(scheme)
    with_as_without(monkeypatch, model, max_new_tokens=14, temperature=0.9, seed=4)
    assert replays(made) > 5


def test_passes_of_fire_are_not_captured(made: list[ReplayedPython], monkeypatch: pytest.MonkeyPatch) -> None:
    """Their shapes follow from how long each sequence is."""
    model = tiny_model().with_positions(P.FIRE(9.0))
    with_as_without(monkeypatch, model, max_new_tokens=9, temperature=0.9, seed=4)
    assert not replays(made)


OPTIONS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "a temperature each": {"temperature": [0.0, 0.7, 1.2], "seed": [3, 2**63, -1]},
    "settings": {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "repetition_penalty": 1.2, "top": 3},
    "a mask": {"temperature": 0.8, "mask": lambda row, tokens: np.array([-1, -1, len(tokens) - 9, 31], np.int32)},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("draft", [None, "prompt-lookup", "a model"], ids=str)
def test_emulated_graphs_change_no_bit_of_any_draw(
    options: dict[str, Any], draft: Any, made: list[ReplayedPython], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tiny_model(hidden_size=16) if draft == "a model" else draft
    with_as_without(monkeypatch, tiny_model(), max_new_tokens=10, draft=other, draft_length=2, **options)
    assert replays(made) > 1


def test_emulated_hooks_are_heard_at_every_step(made: list[ReplayedPython]) -> None:
    """Python that a graph would replay without."""
    model, doubled = tiny_model(), tiny_model()
    seen: list[torch.Tensor] = []
    model.layers[0].mlp.register_forward_hook(lambda module, given, out: seen.append(out) or 2 * out)
    with torch.no_grad():
        doubled.layers[0].mlp.down.weight.mul_(2)
    found = model.generate(PROMPTS, max_new_tokens=9, temperature=0.9)
    assert (len(seen), replays(made)) == (9, 0)
    assert numbers(found) == numbers(doubled.generate(PROMPTS, max_new_tokens=9, temperature=0.9))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_emulated_graphs_follow_a_cache_that_grows(
    dtype: str, made: list[ReplayedPython], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over the first capacity, past several buckets, with layers of several kinds."""
    options: dict[str, Any] = {"windows": (None, 7, 5), "positions": (P.RoPE(), P.ALiBi(), P.Streaming(2, 9))}
    model = tiny_model(dtype=dtype, num_hidden_layers=3, **options)
    with_as_without(monkeypatch, model, LONG, max_new_tokens=17, temperature=0.5, seed=1)
    first, second = made
    assert (first.recorded, second.recorded) == (2, 1), "one for each bucket"
    assert (first.replayed, second.replayed) == (1 + 7, 5), "up to the first capacity and beyond it"


def test_emulated_graphs_when_texts_end_one_after_the_other(
    made: list[ReplayedPython], monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = [4, 20, 9]
    model = tiny_model()
    heard: list[list[int]] = [[], [], []]

    def streamer(row: int, token: int) -> bool:
        heard[row].append(token)
        return len(heard[row]) % ends[row] == 0

    found = with_as_without(monkeypatch, model, max_new_tokens=30, temperature=0.9, streamer=streamer)
    assert [len(c.tokens) for c in found] == ends
    assert replays(made) > 8


def test_emulated_graphs_count_each_step_once(made: list[ReplayedPython]) -> None:
    """The cache holds all but the last token, and another call goes on from there, with the graphs of the first."""
    model = tiny_model()
    whole = model.generate(PROMPTS, max_new_tokens=16, temperature=0.8, graphs=False)
    cache = model.new_cache(3, capacity=32)
    half = model.generate(PROMPTS, max_new_tokens=9, temperature=0.8, cache=cache)
    longer = [prompt + c.tokens for prompt, c in zip(PROMPTS, half, strict=True)]
    assert cache.counts == tuple(len(text) - 1 for text in longer)
    rest = model.generate(longer, max_new_tokens=7, temperature=0.8, cache=cache)
    assert [a.tokens + b.tokens for a, b in zip(half, rest, strict=True)] == [c.tokens for c in whole]
    assert len(made) == 1
    assert made[0].replayed


RUNS_BEFORE_CAPTURE = graphs.RUNS_BEFORE_CAPTURE
"""That of users."""


def test_a_short_text_does_not_pay_for_a_capture(made: list[ReplayedPython], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "RUNS_BEFORE_CAPTURE", RUNS_BEFORE_CAPTURE)
    monkeypatch.setattr(passes, "LEAST_BUCKET", 64)
    for length, recorded in [(3, 0), (5, 1)]:
        made.clear()
        tiny_model().generate(PROMPTS, max_new_tokens=length, temperature=0.8)
        assert [one.recorded for one in made] == [recorded], length


def again(model: Transformer, cache: Cache) -> Any:
    """The texts over a cache that is empty again."""
    return numbers(model.generate(PROMPTS, max_new_tokens=8, temperature=0.8, cache=cache.truncate(0)))


def test_graphs_stay_with_the_cache(made: list[ReplayedPython]) -> None:
    model = tiny_model()
    cache = model.new_cache(3, capacity=32)
    first = again(model, cache)
    recorded, replayed = made[0].recorded, made[0].replayed
    assert recorded
    assert again(model, cache) == again(model, cache) == first
    assert len(made) == 1
    assert made[0].replayed > 2 * replayed, "from the first step on"
    assert made[0].recorded > recorded, "the third prompts were read by a graph too"
    numbers(model.generate(PROMPTS, max_new_tokens=8, cache=cache.truncate(0), graphs=False))
    assert len(made) == 1
    assert again(model, cache.free_graphs()) == first
    assert len(made) == 2
    assert cache.fork([0, 1, 2]).graphs is None


def test_kept_graphs_are_of_the_weights_where_they_are(made: list[ReplayedPython]) -> None:
    def fresh(model: Transformer) -> Any:
        return numbers(model.generate(PROMPTS, max_new_tokens=8, temperature=0.8, graphs=False))

    model = tiny_model()
    cache = model.new_cache(3, capacity=32)
    before = again(model, cache)
    weight = model.layers[0].mlp.down.weight
    with torch.no_grad():
        weight.mul_(2)
    after = again(model, cache)
    assert before != after == fresh(model)
    assert len(made) == 1, "other numbers in the same place"
    model.layers[0].mlp.down.weight = torch.nn.Parameter(3 * weight.detach())
    assert after != again(model, cache) == fresh(model)
    assert len(made) == 2, "another place"
    other = tiny_model()
    assert again(other, cache) == fresh(other)
    assert len(made) == 3, "another model"


def test_graphs_keep_neither_their_cache_nor_their_model(made: list[ReplayedPython]) -> None:
    model = tiny_model()
    cache = model.new_cache(3, capacity=32)
    again(model, cache)
    held = weakref.ref(cache.stores[0]), weakref.ref(model.layers[0])
    gc.disable()
    try:
        kept = cache.graphs
        del cache
        assert held[0]() is None
        del model
        assert held[1]() is None
        assert kept.steps
    finally:
        gc.enable()


WALKS: dict[str, tuple[list[tuple[int, list[int]]], list[int]]] = {
    "another sequence": ([(0, [5, 6]), (0, [1]), (0, [2]), (0, [3]), (1, [5]), (1, [1]), (1, [2]), (1, [3])], [5]),
    "a cache that grows": (
        [(0, [5, 6]), (0, [1]), (0, [2]), (0, [3]), (1, LONG[0] * 2), (0, [4]), (0, [5]), (0, [6])], [2, 2],
    ),
}  # fmt: skip
"""Which sequence reads what, step by step, and how many replays each recorder sees."""


@pytest.mark.parametrize(("walk", "replayed"), WALKS.values(), ids=WALKS)
def test_emulated_graphs_are_of_some_sequences_in_some_memory(
    walk: Any, replayed: list[int], made: list[ReplayedPython], monkeypatch: pytest.MonkeyPatch
) -> None:
    def drawn(model: Transformer) -> Any:
        cache, steps = model.new_cache(2), Steps(model, Drawing([2, 2], VOCAB, (), 0.9, 3, {}), True)
        samples = (steps({row: new}, cache, [(row, array("q", new))]) for row, new in walk)
        return [(x.token.tolist(), x.logprob.tolist(), x.lse.tolist()) for x in samples]

    found = drawn(tiny_model())
    with without_graphs(monkeypatch):
        assert found == drawn(tiny_model())
    assert [one.replayed for one in made] == replayed


def test_emulated_graphs_are_few(made: list[ReplayedPython], monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were not used for long go, and are captured again when they are needed."""
    kept, run = [], graphs.RepeatedPasses._run

    def noted(self: graphs.RepeatedPasses, *arguments: Any) -> Any:
        result = run(self, *arguments)
        kept.append(len(self._kept.steps))
        return result

    monkeypatch.setattr(graphs, "MOST_STRUCTURES", 2)
    monkeypatch.setattr(graphs.RepeatedPasses, "_run", noted)
    with_as_without(monkeypatch, tiny_model(), max_new_tokens=20, draft="prompt-lookup", draft_length=2)
    assert replays(made)
    assert max(kept) == 2


def test_without_graphs_nothing_is_recorded(made: list[ReplayedPython]) -> None:
    tiny_model().generate(PROMPTS, max_new_tokens=6, graphs=False)
    assert not made
    with pytest.raises(farspan.ArgumentError, match=r"^graphs: expected True or False, given 1"):
        tiny_model().generate(PROMPTS, graphs=1)


def test_a_capture_that_fails_is_told_once(made: list[ReplayedPython], monkeypatch: pytest.MonkeyPatch) -> None:
    def record(self: ReplayedPython, work: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(ReplayedPython, "record", record)
    model = tiny_model()
    with pytest.warns(RuntimeWarning, match="without CUDA graphs: operation not permitted") as warned:
        found = model.generate(LONG, max_new_tokens=15, temperature=0.8)
    assert len(warned) == 1
    assert numbers(found) == numbers(model.generate(LONG, max_new_tokens=15, temperature=0.8, graphs=False))


def test_a_pass_that_fails_says_so_itself(made: list[ReplayedPython], monkeypatch: pytest.MonkeyPatch) -> None:
    """What keeps a pass from being captured may keep it from running: the error is the same, and so is the cache."""
    model, calls = tiny_model(), iter(range(2))
    compute = Transformer.compute

    def third_fails(*arguments: Any) -> Any:
        if next(calls, None) is None:
            raise farspan.BackendError("out of memory")
        return compute(*arguments)

    monkeypatch.setattr(Transformer, "compute", third_fails)
    cache = model.new_cache(3, capacity=64)
    with pytest.warns(RuntimeWarning), pytest.raises(farspan.BackendError, match="out of memory"):
        model.generate(PROMPTS, max_new_tokens=9, cache=cache)
    assert cache.counts == tuple(len(prompt) + 1 for prompt in PROMPTS)


# What tests/support/replayed.py is trusted with.


@pytest.mark.parametrize(
    "crossing",
    [
        lambda x: torch.from_numpy(np.zeros(2)), lambda x: torch.as_tensor(np.zeros(2)), lambda x: x.tolist(),
        lambda x: x[0].item(), lambda x: x.cpu(), lambda x: torch.tensor([1]), lambda x: x[np.array([0])],
        lambda x: x[[0, 0]], lambda x: x * np.ones(2, np.float32), lambda x: bool(x.any()),
        lambda x: object.__new__(TensorMemory).upload(b"0"), lambda x: object.__new__(TensorMemory).take(x, "float32"),
    ],
)  # fmt: skip
def test_nothing_crosses_while_work_is_recorded(crossing: Any) -> None:
    x = torch.zeros(2)
    with pytest.raises(AssertionError, match="while work is recorded"):
        ReplayedPython().record(lambda: crossing(x))


def test_results_of_one_graph_are_lost_to_another() -> None:
    x, recorder = torch.ones(2), ReplayedPython()
    double, triple = recorder.record(lambda: 2 * x), recorder.record(lambda: 3 * x)
    two = double()
    assert two.tolist() == [2, 2]
    assert triple().tolist() == [3, 3]
    assert two.tolist() == [-7, -7]


# Arrays that are sent.


def test_arrays_are_sent_in_one_piece_and_tables_once(monkeypatch: pytest.MonkeyPatch) -> None:
    copies: list[int] = []
    copy = torch.Tensor.copy_

    def counted(self: torch.Tensor, source: torch.Tensor, **options: Any) -> Any:
        copies.append(source.numel())
        return copy(self, source, **options)

    monkeypatch.setattr(torch.Tensor, "copy_", counted)
    table = np.arange(staging.LARGE, dtype=np.float32)
    tree = (np.arange(5), [np.array(2.5, np.float32), None, "text", np.ones((0, 3))], table.reshape(4, -1).T)
    arrays: list[np.ndarray] = []
    staged = staging.Staged(staging.form_of(tree, arrays), torch.device("cpu"))
    for step in range(3):
        arrays[0] = np.arange(5) + step
        staged.send(arrays)
        first, (second, nothing, text, empty), large = staged.tree
        assert (first.tolist(), second.item(), nothing, text) == ([*range(step, step + 5)], 2.5, None, "text")
        assert (empty.shape, first.dtype, second.dtype) == ((0, 3), torch.int64, torch.float32)
        assert torch.equal(large, torch.from_numpy(table).view(4, -1).T)
        assert all(x.data_ptr() % staging.ALIGNMENT == 0 for x in (first, second, large))
    assert copies == [64, 4 * staging.LARGE, 64, 64]
    arrays[-1] = 2 * arrays[-1]
    staged.send(arrays)
    assert torch.equal(large, torch.from_numpy(2 * table).view(4, -1).T), "another table is sent"


def test_passes_of_other_numbers_have_the_same_form() -> None:
    def form(*tree: Any) -> Any:
        return staging.form_of(tree, [])

    assert form(np.arange(3), 0.5) == form(np.zeros(3, np.int64), 0.5)
    assert hash(form([np.arange(3)], 0.5)) == hash(form((np.zeros(3, np.int64),), 0.5))
    different = [
        (np.arange(4), 0.5), (np.arange(3), 0.25), (np.arange(3, dtype=np.int32), 0.5), (np.zeros((3, 1), int), 0.5),
    ]  # fmt: skip
    assert all(form(np.arange(3), 0.5) != form(*other) for other in different)


@pytest.mark.parametrize("scheme", SCHEMES, ids=repr)
def test_hooks_have_one_form_within_a_bucket(scheme: Any) -> None:
    def form(*lengths: int) -> Any:
        span = P.Span(1, lengths, 2, 12, slots=256)
        hooks = hook_arguments(np.empty(0), **scheme.fixed_hooks(span))
        return staging.form_of((hooks, tuple(scheme.features(span).items())), [])

    assert form(40, 61) == form(256, 129)


def test_buckets_are_at_most_a_quarter_too_large() -> None:
    sizes = [passes.bucket(length, 1 << 20) for length in range(1, 1 << 16)]
    most = [max(passes.LEAST_BUCKET - 1, length // 4) for length in range(1, 1 << 16)]
    assert all(0 <= size - length <= more for length, (size, more) in enumerate(zip(sizes, most, strict=True), 1))
    assert len(set(sizes)) < 40
    assert [passes.bucket(length, 300) for length in (1, 256, 257, 300)] == [256, 256, 300, 300]


# Ids that do not exist end all work of a process where a GPU looks them up.


@pytest.fixture
def asserting(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def embedding(tokens: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        if tokens.min() < 0 or tokens.max() >= len(weight):
            raise SystemError("device-side assert triggered")
        return weight[tokens]

    monkeypatch.setattr(operations.F, "embedding", embedding)


@pytest.mark.parametrize("wrong", [VOCAB, -1, 2**40])
def test_unknown_ids_are_refused_before_the_device_sees_them(asserting: None, wrong: int) -> None:
    model = tiny_model()
    expected = rf"^ids: expected ids of the vocabulary, 0 to {VOCAB - 1}, given {wrong}$"
    with pytest.raises(farspan.ArgumentError, match=expected):
        model([[1, 2], [wrong, 3]])
    with pytest.raises(farspan.ArgumentError, match=expected):
        model.generate([[1, 2], [5, wrong]], max_new_tokens=2)
    with pytest.raises(farspan.ArgumentError, match=expected):
        model.generate([[wrong]], draft="prompt-lookup", max_new_tokens=2)


# Captures of the caller's, and captures that fail.


def test_a_model_in_a_graph_of_the_callers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is written or waited for."""
    model = tiny_model()
    cache = model.new_cache(1)
    monkeypatch.setattr(Transformer, "device", property(lambda model: torch.device("cuda")))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    expected = r"^model: expected a call that no CUDA graph captures; generate captures its own, .* stream that is cap"
    for call in (
        lambda: model(torch.tensor([[1, 2]])), lambda: model([[1, VOCAB]], cache), lambda: model.generate([[1, 2]]),
    ):  # fmt: skip
        with pytest.raises(farspan.BackendError, match=expected):
            call()
    assert cache.counts == (0,)


def test_a_capture_that_fails_halfway_leaves_no_trace_in_the_text(
    made: list[ReplayedPython], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the first layer has written its keys, before the cache counts them."""
    model = tiny_model(num_hidden_layers=2)
    written: list[int] = []
    write = Cache.write

    def one_layer(cache: Cache, layer: int, *arguments: Any) -> None:
        if layer == 1:
            raise RuntimeError("operation not permitted when stream is capturing")
        written.append(layer)
        write(cache, layer, *arguments)

    def record(self: ReplayedPython, work: Any) -> Any:
        with monkeypatch.context() as halfway:
            halfway.setattr(Cache, "write", one_layer)
            work()

    monkeypatch.setattr(ReplayedPython, "record", record)
    cache = model.new_cache(3, capacity=64)
    with pytest.warns(RuntimeWarning, match="without CUDA graphs: operation not permitted"):
        found = model.generate(PROMPTS, max_new_tokens=9, temperature=0.8, cache=cache)
    assert written == [0]
    assert cache.counts == tuple(len(prompt) + 8 for prompt in PROMPTS)
    assert numbers(found) == numbers(model.generate(PROMPTS, max_new_tokens=9, temperature=0.8, graphs=False))


def test_torchs_allocator_is_told_of_a_capture_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver's word that a capture is no longer valid keeps torch from ending it."""
    ended: list[Any] = []

    @contextmanager
    def capture(graph: Any, *, pool: Any, stream: Any, capture_error_mode: str) -> Iterator[None]:
        try:
            yield
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")

    @contextmanager
    def entered(*given: Any) -> Iterator[None]:
        yield

    cuda = {
        "CUDAGraph": object, "graph": capture, "graph_pool_handle": lambda: (0, 7), "device": entered,
        "stream": entered, "current_stream": object,
    }  # fmt: skip
    for name, stand_in in cuda.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(graphs, "_capturing_stream", lambda device: object())
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", lambda *given: ended.append(given), raising=False)
    with pytest.raises(RuntimeError, match="previous error"):
        graphs.CudaGraphs(torch.device("cuda", 1)).record(lambda: None)
    assert ended == [(1, (0, 7))]
