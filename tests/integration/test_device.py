"""Models on a GPU's path: tensors all the way, attention and unembedding by the CUDA kernels, here emulated."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from support.emulated import TensorMemory, emulated_kernels, library
from support.models import ids, small_model
from torch._subclasses.fake_tensor import FakeTensorMode

import farspan
from farspan import _core, ops
from farspan import positions as P
from farspan._backend.hooks import Above, Hooks
from farspan._backend.losses import CrossEntropy
from farspan._backend.operations import OPERATIONS
from farspan._backend.settings import COUNTS, REALS, collect
from farspan._gradients import GRADIENTS
from farspan.model import Transformer, operations
from farspan.model.operations import DeviceOperations


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Models compute as they do on a GPU."""
    monkeypatch.setattr(Transformer, "activations", property(lambda model: model.dtype))
    monkeypatch.setattr(Transformer, "choose_operations", lambda model: DeviceOperations(model.activations))
    monkeypatch.setattr(operations, "arrays_serve", lambda *inputs: False)
    with emulated_kernels():
        yield


PROMPTS = [ids(1, 11)[0].tolist(), ids(1, 3, seed=1)[0].tolist()]
SCHEMES = [None, P.Streaming(2, 8), P.SelfExtend(2, 4), P.LogN(4), P.ALiBi()]


@pytest.mark.parametrize("scheme", SCHEMES, ids=repr)
def test_emulated_hidden_states_are_those_of_the_cpu(scheme: Any, request: pytest.FixtureRequest) -> None:
    model = small_model()
    model = model if scheme is None else model.with_positions(scheme)
    tokens = ids(2, 20)
    expected = model(tokens)
    request.getfixturevalue("on_device")
    found = model(tokens)
    assert torch.allclose(found, expected, atol=2e-4), (found - expected).abs().max()
    cache = model.new_cache(2)
    parts = [model(tokens[:, :13], cache), model(tokens[:, 13:14], cache), model(tokens[:, 14:], cache)]
    assert torch.allclose(torch.cat(parts, 1), expected, atol=2e-4)


@pytest.mark.parametrize(
    "settings", [{}, {"top_k": 20, "repetition_penalty": 1.2}, {"draft": "prompt-lookup"}], ids=str
)
def test_emulated_generate_gives_the_text_of_the_cpu(settings: dict[str, Any], request: pytest.FixtureRequest) -> None:
    model = small_model()
    options: dict[str, Any] = {"max_new_tokens": 8, "temperature": 0.8, "seed": 5, **settings}
    expected = model.generate(PROMPTS, **options)
    request.getfixturevalue("on_device")
    found = model.generate(PROMPTS, **options)
    assert [c.tokens for c in found] == [c.tokens for c in expected]
    alone = model.generate(PROMPTS[1:], **{**options, "seed": [5]}, cache=None)
    assert len(alone[0].tokens) == 8


def test_emulated_statistics_of_a_model_are_those_of_the_cpu(request: pytest.FixtureRequest) -> None:
    model, tokens = small_model().with_positions(P.ALiBi()), ids(2, 70)
    expected = model.attention_statistics(tokens)
    request.getfixturevalue("on_device")
    found = model.attention_statistics(tokens)
    for name, x in found._asdict().items():
        assert torch.allclose(x, getattr(expected, name), rtol=1e-4, atol=1e-4), name


def test_emulated_half_weights_stay_half(on_device: None) -> None:
    model = small_model(dtype="bfloat16")
    assert model(ids(1, 5)).dtype == torch.bfloat16
    cache = model.new_cache(1)
    model(ids(1, 5), cache)
    key, value = cache.read(0, slice(None), 5, like=torch.empty(0))
    assert key.dtype == value.dtype == torch.bfloat16
    assert len(model.generate(PROMPTS, max_new_tokens=3)[0].tokens) == 3


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_device_that_is_not_there_is_named() -> None:
    config = small_model().config
    with pytest.raises(farspan.BackendError, match=r"^device: expected cpu, or a GPU .*cuda"):
        Transformer(config, device="cuda")
    with pytest.raises(farspan.BackendError, match=r"^device: expected cpu, or a GPU"):
        farspan.load_embedded(device="cuda:1")


def test_an_emulated_mask_without_words_bans_everything() -> None:
    with emulated_kernels():
        drawn = farspan.sample(
            torch.ones(2, 4), torch.ones(9, 4), seed=1, position=2, mask=torch.empty(2, 0, dtype=torch.int32)
        )
    assert drawn.flag.tolist() == [farspan.FLAG_EMPTY] * 2
    assert drawn.token.tolist() == [-1, -1]


def test_emulated_rows_that_no_sequence_covers_see_nothing() -> None:
    x, offsets = torch.ones(4, 1, 8), torch.tensor([0, 2])
    with emulated_kernels():  # offsets in a device's memory are not read before the launch
        output, lse = farspan.attention(x, x, x, query_offsets=offsets, key_offsets=offsets, return_lse=True)
        seen = farspan.attention_statistics(x, x, query_offsets=offsets, key_offsets=offsets)
    assert output[:, 0, 0].tolist() == [1, 1, 0, 0]
    assert lse[0].isneginf().tolist() == [False, False, True, True]
    assert torch.equal(seen.lse, lse)
    assert all(x[0, 2:].tolist() == [0, 0] for x in seen[1:])


@pytest.mark.parametrize("page_size", [3, 16, 64])
def test_an_emulated_block_table_that_names_no_page_is_held_to_one(page_size: int) -> None:
    query, pages = torch.ones(2, 1, 1, 8), torch.ones(2, 1, page_size, 8)
    wrong = torch.tensor([[10**9] * 3, [-(10**9)] * 3])
    with emulated_kernels():  # a table in a device's memory is not read before the launch
        output = farspan.attention(query, pages, pages, block_table=wrong)
    assert torch.equal(output, query)


# The kernels that torch's dispatcher calls for tensors on a GPU, called here with tensors of the CPU.


@pytest.fixture
def tensor_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    if library() is None:
        pytest.skip("the emulator of the CUDA kernels is not built: cargo build -p farspan-cuda-emulator")
    monkeypatch.setattr(ops, "GpuMemory", TensorMemory)


def close(found: Any, expected: Any) -> None:
    for one, other in zip(found, expected, strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert torch.allclose(
            one.double(), other.double(), rtol=2e-2, atol=2e-2 if one.dtype == torch.bfloat16 else 2e-4
        )


def both(name: str, *given: Any) -> tuple[Any, Any]:
    """What the emulated kernels give, and those of the CPU."""
    found, expected = (ops.flat(OPERATIONS[name], kernel)(*given) for kernel in (ops.on_gpu, ops.on_cpu))
    return (found, expected) if isinstance(found, tuple) else ((found,), (expected,))


def test_a_cache_that_cannot_be_written_is_told(tensor_memory: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_core, "cuda_warning", lambda: "compiled kernels cannot be kept")
    with pytest.warns(RuntimeWarning, match="cannot be kept"):
        close(*both("top", torch.ones(1, 8), torch.ones(9, 8), 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_emulated_attention_of_the_dispatcher(tensor_memory: None, dtype: torch.dtype) -> None:
    make = torch.Generator().manual_seed(1)
    query, key, value = (torch.randn(2, heads, 19, 24, generator=make).to(dtype) for heads in (4, 2, 2))
    bias = torch.randn(4, 1, generator=make)
    hooks = Hooks(
        causal=True, left=7, right=0, keep_first=2, softcap=20.0, sink=torch.zeros(4), key_bias=bias,
        inv_freq=torch.rand(6), magnitude=1.5, interleaved=True,
    )  # fmt: skip
    close(*both("attention", query, key, value, *hooks))
    close(*both("attention_statistics", query, key, *hooks))
    found, lse = ops.flat(OPERATIONS["attention"], ops.on_cpu)(query, key, value, *hooks)
    upward = torch.randn(found.shape, generator=make).to(dtype)
    asked = Above(lse, torch.randn(lse.shape, generator=make), "query,key,value,sink,key_bias")
    gradients, expected = both("attention_backward", query, key, value, found, upward, *asked, *hooks)
    assert [x.shape for x in gradients[3:]] == [(4,), (4, 1), (0,), (0,)]
    for one, other in zip(gradients, expected, strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        largest = other.double().abs().amax() if other.numel() else 0.0
        rounding = 2e-2 if dtype == torch.bfloat16 else 2e-5
        assert torch.allclose(one.double(), other.double(), rtol=0, atol=float(largest * rounding))
    ragged, offsets = query.transpose(1, 2).flatten(0, 1), torch.tensor([0, 19, 38])
    key, value = (x.transpose(1, 2).flatten(0, 1) for x in (key, value))
    hooks = hooks._replace(
        key_bias=None, inv_freq=None, magnitude=1.0, interleaved=False, query_offsets=offsets, key_offsets=offsets.int()
    )
    close(*both("attention", ragged, key, value, *hooks))
    close(*both("attention_statistics", ragged, key, *hooks))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_emulated_unembedding_of_the_dispatcher(tensor_memory: None, dtype: torch.dtype) -> None:
    make = torch.Generator().manual_seed(2)
    hidden, weight = torch.randn(3, 2, 40, generator=make).to(dtype), torch.randn(700, 40, generator=make).to(dtype)
    rules = (0.7, 30.0, torch.randn(700, generator=make), 690)
    draws = (torch.tensor(3), torch.arange(6).view(3, 2), torch.tensor(1), torch.tensor(0.8))
    given = collect(
        hidden, order="vllm", history=(torch.tensor([1, 5, 5]), torch.tensor([0, 1, 2, 3, 3, 3, 3])), mask=None,
        prompt_lengths=None, logit_bias=None, banned=None, allowed=None, top=4, samples=2,
        **(REALS | COUNTS | {"top_k": 30, "top_p": torch.full((3, 2), 0.9), "repetition_penalty": 1.3}),
    )  # fmt: skip
    close(*both("greedy", hidden, weight, *rules))
    for settings in ((), given):
        found, expected = both("sample", hidden, weight, *draws, *rules, *settings)
        ranks = [
            both("ranks", hidden, weight, fields[0], fields[6], fields[5], *rules, *settings)[i]
            for i, fields in enumerate((found, expected))
        ]
        close(*ranks)
        close((*found[:5], *found[6:]), (*expected[:5], *expected[6:]))
    targets = torch.arange(6).view(3, 2)
    close(*both("score", hidden, weight, targets, *rules, 3))
    close(*both("top", hidden, weight, 5, *rules))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_emulated_losses_of_the_dispatcher(tensor_memory: None, dtype: torch.dtype) -> None:
    make = torch.Generator().manual_seed(3)
    hidden, other = (torch.randn(3, 2, 40, generator=make).to(dtype) for _ in range(2))
    weight = torch.randn(300, 40, generator=make).to(dtype) / 4
    rules = (0.7, 30.0, torch.randn(300, generator=make), 290)
    targets, asked = torch.tensor([[3, -100], [0, 289], [-100, 5]]), (True, True, True)
    for reduction in ("mean", "none"):
        settings = (targets, -100, 0.1, torch.rand(300, generator=make), 0.01, reduction)
        found, expected = both("linear_cross_entropy", hidden, weight, *settings, *rules)
        close(found, expected)
        by_loss = torch.ones(()).expand(expected[0].shape)
        read = (*expected[1:], by_loss)
        close(*both("linear_cross_entropy_gradient", hidden, weight, *read, *settings, *rules, *asked))
    found, expected = both("divergence", hidden, weight, other, weight, rules[2] / 2, 2.0, *rules)
    close(found, expected)
    read = (*expected[1:], torch.randn(3, 2, generator=make))
    sides = (hidden, weight, other, weight)
    close(*both("divergence_gradient", *sides, *read, rules[2] / 2, 2.0, *rules, *asked))
    scored = torch.ops.farspan.score(hidden, weight, targets.clamp(0), *rules, 2)
    slopes = [torch.randn(3, 2, generator=make) for _ in range(3)]
    read = (scored[2], scored[3], scored[4], *slopes, torch.randn(3, 2, 2, generator=make))
    close(*both("score_gradient", hidden, weight, targets.clamp(0), *read, *rules, *asked))
    only_bias = both("score_gradient", hidden, weight, targets.clamp(0), *read, *rules, False, False, True)[0]
    assert [x.numel() for x in only_bias] == [0, 0, 300]


def test_an_emulated_target_that_is_no_token_is_told_by_nan(tensor_memory: None) -> None:
    hidden, weight, targets = torch.ones(3, 8), torch.ones(9, 8), torch.tensor([0, 9, 8])
    settings, rules = (targets, -100, 0.0, None, 0.0, "none"), (1.0, None, None, None)
    operation = OPERATIONS["linear_cross_entropy"]
    losses, *lse = ops.flat(operation, ops.on_gpu)(hidden, weight, *settings, *rules)
    assert losses.isnan().tolist() == [False, True, False]
    gradients = ops.flat(OPERATIONS["linear_cross_entropy_gradient"], ops.on_gpu)(
        hidden, weight, *lse, torch.ones(3), *settings, *rules, True, True, True
    )
    assert gradients[0].isnan().any(1).tolist() == [False, True, False]


def test_products_of_the_dispatcher_follow_x() -> None:
    x, weight, bias = torch.randn(2, 3, 8), torch.randn(5, 8).bfloat16(), torch.randn(5)
    close(*both("linear", x, weight, bias))


# Tensors that say they are on a GPU and hold nothing: what happens before a kernel is reached.


@pytest.fixture
def nothing_there() -> Iterator[None]:
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def test_results_are_where_the_inputs_are(nothing_there: None) -> None:
    query = torch.empty(2, 4, 3, 8, device="cuda", dtype=torch.bfloat16)
    hidden, weight = torch.empty(3, 8, device="cuda"), torch.empty(50, 8, device="cuda")
    output, lse = farspan.attention(query, query, query, causal=True, return_lse=True)
    drawn = farspan.sample(hidden, weight, seed=torch.arange(3), position=2, top_k=5, samples=2, top=4)
    scored = farspan.score(hidden, weight, torch.arange(3), top=3)
    found = [output, lse, farspan.greedy(hidden, weight).token, drawn.token, drawn.rank, drawn.top_logprob]
    found += [*scored, *farspan.top(hidden, weight, 7), farspan.linear(hidden, weight)]
    assert {x.device.type for x in found} == {"cuda"}
    assert (output.shape, lse.shape, drawn.token.shape) == (query.shape, query.shape[:3], (3, 2))


def test_losses_on_a_gpu_have_gradients(nothing_there: None) -> None:
    """Torch's engine needs a device, so the steps that it would take are taken here."""
    hidden, weight, bias = (torch.empty(*s, device="cuda", requires_grad=True) for s in ((3, 8), (50, 8), (50,)))
    targets, other = torch.arange(3, device="cuda"), torch.empty(3, 8, device="cuda")
    unembedding = {"hidden": hidden, "weight": weight, "bias": bias}
    rules = {"scale": 1.0, "softcap": None, "valid_vocab": None}
    settings = CrossEntropy(targets, label_smoothing=0.1)
    calls: dict[str, tuple[dict[str, Any], Any]] = {
        "linear_cross_entropy": (
            settings._asdict(),
            farspan.linear_cross_entropy(hidden, weight, targets, bias=bias, label_smoothing=0.1),
        ),
        "score": ({"targets": targets, "top": 0}, farspan.score(hidden, weight, targets, bias=bias).entropy),
        "divergence": (
            {"target_hidden": other, "target_weight": weight, "target_bias": bias, "temperature": 1.0},
            farspan.divergence(hidden, weight, other, bias=bias),
        ),
    }
    for name, (given, result) in calls.items():
        assert result.requires_grad, name
        kept = {field: torch.empty(3, device="cuda") for field in GRADIENTS[name].results}
        kept = {field: x.new_empty(3, 0, dtype=torch.int64) if field == "top_token" else x for field, x in kept.items()}
        upstream = dict.fromkeys(OPERATIONS[name].results) | {"loss": result, "divergence": result, "entropy": result}
        call = {**unembedding, **rules, **given, **kept}
        with torch.no_grad():
            found = GRADIENTS[name].compute(call, frozenset(unembedding), upstream)
        assert {field: (x.device.type, x.shape) for field, x in found.items()} == {
            field: ("cuda", x.shape) for field, x in unembedding.items()
        }


def test_gradients_of_products_on_a_gpu_are_products_there(nothing_there: None) -> None:
    x, weight, bias = torch.empty(2, 3, 8), torch.empty(5, 8, dtype=torch.bfloat16), torch.empty(5)
    given = {name: y.to("cuda") for name, y in {"x": x, "weight": weight, "bias": bias}.items()}
    found = GRADIENTS["linear"].compute(given, frozenset(given), {"output": torch.empty(2, 3, 5, device="cuda")})
    for name, y in given.items():
        assert (found[name].device.type, found[name].shape, found[name].dtype) == ("cuda", y.shape, y.dtype), name


def test_settings_of_rows_on_a_gpu_lie_on_the_host(nothing_there: None) -> None:
    hidden = torch.empty(3, 8, device="cuda")
    ids, offsets = torch.arange(4, device="cuda"), torch.tensor([0, 1, 2, 4])
    given = collect(
        hidden, order="hf", history=(ids, offsets), prompt_lengths=torch.zeros(3, dtype=torch.int64, device="cuda"),
        logit_bias=(ids, torch.zeros(4, device="cuda"), offsets), banned=(ids, offsets), allowed=None,
        mask=torch.zeros(3, 2, dtype=torch.int32, device="cuda"), top=0, samples=1,
        **(REALS | COUNTS | {"top_p": torch.rand(3, device="cuda"), "min_p": [0.1, 0.2, 0.3]}),
    )  # fmt: skip
    assert {x.device.type for x in given if isinstance(x, torch.Tensor)} == {"cpu"}


def test_inputs_on_different_devices_are_refused(nothing_there: None) -> None:
    here, there = torch.empty(2, 8), torch.empty(2, 8, device="cuda")
    with pytest.raises(farspan.ArgumentError, match=r"^weight: expected a tensor on cuda:0, as hidden is, given .*cpu"):
        farspan.greedy(there, here)
    with pytest.raises(farspan.ArgumentError, match=r"^key: expected a tensor on cpu, as query is, given .*cuda:0"):
        farspan.attention(here[None, None], there[None, None], there[None, None])
    with pytest.raises(farspan.ArgumentError, match=r"^sink: expected a tensor on cuda:0"):
        farspan.attention(there[None, None], there[None, None], there[None, None], sink=torch.zeros(1))
