"""`torch.ops.farspan`: registered as torch wants it, traceable, compilable, and honest about gradients."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from support.arrays import lay_out
from torch.library import opcheck

import farspan
import farspan.ops
from farspan import reference
from farspan._backend import gpu
from farspan._backend.hooks import Above, Hooks
from farspan._backend.operations import OPERATIONS

torch.manual_seed(0)
QUERY, KEY, VALUE = torch.randn(2, 4, 5, 16), torch.randn(2, 2, 9, 16), torch.randn(2, 2, 9, 24)
UPWARD = torch.randn(2, 4, 5, 24), torch.randn(2, 4, 5, 24)
HIDDEN, WEIGHT, BIAS = torch.randn(3, 2, 16), torch.randn(40, 16), torch.randn(40)
EVERY_HOOK = Hooks(
    causal=True, left=6, right=0, keep_first=2, scale=0.3, softcap=20.0, sink=torch.randn(4),
    key_bias=torch.randn(2, 4, 9), query_scale=torch.rand(2, 1, 5), distance_table=torch.randn(4, 7),
    inv_freq=torch.rand(8), magnitude=1.1, interleaved=True, border=3.0, far_query_positions=torch.arange(5),
    far_key_positions=torch.arange(9), query_positions=torch.arange(5) + 4, key_positions=torch.arange(9.0),
    key_lengths=torch.tensor([9, 7]),
)  # fmt: skip
RAGGED = Hooks(query_offsets=torch.tensor([0, 2, 7]), key_offsets=torch.tensor([0, 4, 11]))
PAGES = (torch.randn(7, 2, 4, 16), torch.randn(7, 2, 4, 24))
PAGED = Hooks(block_table=torch.tensor([[6, 1], [0, 4]]))
DRAWS = (torch.tensor(7), torch.arange(6).reshape(3, 2), torch.tensor(0), torch.rand(3, 2))


def operator(name: str) -> Any:
    return getattr(torch.ops.farspan, name).default


CALLS = {
    "attention": ("attention", (QUERY, KEY, VALUE)),
    "attention, every hook": ("attention", (QUERY, KEY, VALUE, *EVERY_HOOK)),
    "attention, ragged": (
        "attention",
        (torch.randn(7, 4, 16), torch.randn(11, 2, 16), torch.randn(11, 2, 16), *RAGGED),
    ),
    "attention, in pages": ("attention", (QUERY, *PAGES, *PAGED)),
    "attention, bfloat16": ("attention", tuple(x.bfloat16() for x in (QUERY, KEY, VALUE))),
    "attention, time first": ("attention", tuple(lay_out(x, "time_first") for x in (QUERY, KEY, VALUE))),
    "attention, no query": ("attention", (QUERY[:, :, :0], KEY, VALUE)),
    "attention statistics": ("attention_statistics", (QUERY, KEY)),
    "attention statistics, every hook": ("attention_statistics", (QUERY.half(), KEY.half(), *EVERY_HOOK)),
    "attention statistics, ragged": (
        "attention_statistics",
        (torch.randn(7, 4, 16), torch.randn(11, 2, 16), *RAGGED),
    ),
    "attention statistics, in pages": ("attention_statistics", (QUERY, PAGES[0], *PAGED)),
    "linear": ("linear", (HIDDEN, WEIGHT, BIAS)),
    "linear, float16 by bfloat16": ("linear", (HIDDEN.half(), WEIGHT.bfloat16())),
    "linear, a permuted input": ("linear", (torch.randn(2, 3, 16).transpose(0, 1), WEIGHT)),
    "linear_x_gradient": ("linear_x_gradient", (torch.randn(2, 3, 40), WEIGHT.clone().requires_grad_())),
    "linear_x_gradient, float16 by bfloat16": ("linear_x_gradient", (torch.randn(3, 40).half(), WEIGHT.bfloat16())),
    "linear_weight_gradient": (
        "linear_weight_gradient",
        (torch.randn(3, 40).requires_grad_(), torch.randn(3, 16).requires_grad_()),
    ),
    "linear_weight_gradient, float32 by float16": (
        "linear_weight_gradient",
        (torch.randn(3, 40), torch.randn(3, 16).half()),
    ),
    "attention backward": (
        "attention_backward",
        (QUERY, KEY, VALUE, *UPWARD, *Above(torch.randn(2, 4, 5), None, "query,key,value")),
    ),
    "attention backward, every hook": (
        "attention_backward",
        (QUERY, KEY, VALUE, *UPWARD, *Above(torch.randn(2, 4, 5), torch.ones(2, 4, 5), "value,sink"), *EVERY_HOOK),
    ),
    "greedy": ("greedy", (HIDDEN, WEIGHT)),
    "greedy, every rule": ("greedy", (HIDDEN, WEIGHT, 0.5, 10.0, BIAS, 37)),
    "sample": ("sample", (HIDDEN, WEIGHT, *DRAWS)),
    "sample, bfloat16": ("sample", (HIDDEN.bfloat16(), WEIGHT.bfloat16(), *DRAWS, 2.0, None, BIAS, 40)),
    "score": ("score", (HIDDEN, WEIGHT, torch.arange(6).reshape(3, 2), 1.0, None, BIAS)),
    "score, gradients": (
        "score",
        (HIDDEN.clone().requires_grad_(), WEIGHT.clone().requires_grad_(), torch.arange(6).reshape(3, 2)),
    ),
    "score_gradient": (
        "score_gradient",
        (
            HIDDEN,
            WEIGHT,
            torch.arange(6).reshape(3, 2),
            *[torch.rand(3, 2) for _ in range(2)],
            torch.ones(3, 2, 4, dtype=torch.int64),
            *[torch.rand(3, 2) for _ in range(3)],
            torch.rand(3, 2, 4),
        ),
    ),
    "linear_cross_entropy": (
        "linear_cross_entropy",
        (
            HIDDEN.clone().requires_grad_(),
            WEIGHT,
            torch.arange(6).reshape(3, 2),
            -100,
            0.1,
            torch.rand(40),
            0.1,
            "mean",
        ),
    ),
    "linear_cross_entropy, none, bfloat16": (
        "linear_cross_entropy",
        (HIDDEN.bfloat16(), WEIGHT.bfloat16(), torch.arange(6).reshape(3, 2), 3, 0.0, None, 0.0, "none"),
    ),
    "linear_cross_entropy_gradient": (
        "linear_cross_entropy_gradient",
        (
            HIDDEN.bfloat16(),
            WEIGHT.bfloat16(),
            torch.rand(3, 2),
            torch.rand(3, 2),
            torch.tensor(1.0),
            torch.arange(6).reshape(3, 2),
            -100,
            0.0,
            None,
            0.0,
            "mean",
            1.0,
            None,
            BIAS,
            37,
            True,
            False,
            True,
        ),
    ),
    "divergence": (
        "divergence",
        (HIDDEN.clone().requires_grad_(), WEIGHT, HIDDEN + 1, WEIGHT, BIAS, 2.0, 1.0, 5.0, BIAS),
    ),
    "divergence_gradient": (
        "divergence_gradient",
        (HIDDEN, WEIGHT, HIDDEN + 1, WEIGHT, *[torch.rand(3, 2) for _ in range(5)]),
    ),
    "top": ("top", (HIDDEN, WEIGHT, 3)),
    "top, nothing": ("top", (HIDDEN, WEIGHT, 0)),
}


@pytest.mark.parametrize("name", CALLS)
def test_opcheck(name: str) -> None:
    which, arguments = CALLS[name]
    opcheck(operator(which), arguments)


@pytest.mark.parametrize("name", CALLS)
def test_the_fake_kernel_foretells_the_result(name: str) -> None:
    which, arguments = CALLS[name]
    meta = [x.to("meta") if isinstance(x, torch.Tensor) else x for x in arguments]
    real, fake = operator(which)(*arguments), operator(which)(*meta)
    real, fake = (x if isinstance(x, tuple) else (x,) for x in (real, fake))
    for one, other in zip(real, fake, strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        assert one.stride() == other.stride() or one.numel() == 0


def test_public_functions_go_through_the_operators() -> None:
    seen: list[str] = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    with Watch():
        farspan.attention(QUERY, KEY, VALUE)
        farspan.attention_statistics(QUERY, KEY)
        farspan.linear(HIDDEN, WEIGHT)
        farspan.greedy(HIDDEN, WEIGHT)
        farspan.sample(HIDDEN, WEIGHT, seed=1, position=2)
        farspan.score(HIDDEN, WEIGHT, torch.zeros(3, 2, dtype=torch.int64))
        farspan.top(HIDDEN, WEIGHT, 2)
    for name in ("attention", "attention_statistics", "linear", "greedy", "sample", "score", "top"):
        assert f"farspan.{name}.default" in seen


# -------------------------------------------------------------------------------------------------------------- compile


def a_step(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, weight: torch.Tensor, inv_freq: torch.Tensor
) -> Any:
    """What a model does for a token, through every operation."""
    rotary = farspan.Rotary(
        inv_freq, border=4, far_query_positions=torch.zeros(query.shape[2]), far_key_positions=torch.zeros(key.shape[2])
    )
    bias = farspan.DistanceBias(torch.zeros(1, 3), minimum=-1)
    output, lse = farspan.attention(
        query, key, value, causal=True, window=7, rotary=rotary, distance_bias=bias, return_lse=True
    )
    hidden = farspan.linear(output.transpose(1, 2).flatten(2), torch.ones(16, 64) / 64)
    sample = farspan.sample(
        hidden, weight, seed=3, position=torch.arange(query.shape[2]).expand(hidden.shape[:-1]), temperature=0.8
    )
    score = farspan.score(hidden, weight, sample.token)
    top = farspan.top(hidden, weight, 4, valid_vocab=30)
    greedy = farspan.greedy(hidden, weight, softcap=5.0)
    return lse + 1, sample.token, sample.logprob, score.rank, score.entropy, top.logit, greedy.token


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compile_without_a_graph_break(backend: str) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(a_step, fullgraph=True, backend=backend)
    value = torch.randn(2, 2, 9, 16)
    for keys in (9, 6, 8):  # a second length makes the shapes dynamic
        arguments = (QUERY, KEY[:, :, :keys], value[:, :, :keys], WEIGHT, torch.rand(8))
        with torch.no_grad():
            for one, other in zip(compiled(*arguments), a_step(*arguments), strict=True):
                torch.testing.assert_close(one, other, rtol=0, atol=0)


# ------------------------------------------------------------------------------------------------------------ gradients

NEEDING = {
    "attention, query_positions": lambda x: farspan.attention(QUERY, KEY, VALUE, query_positions=x(torch.ones(5))),
    "attention, inv_freq": lambda x: farspan.attention(QUERY, KEY, VALUE, rotary=farspan.Rotary(x(torch.ones(2)))),
    "attention, key": lambda x: farspan.attention(QUERY, x(KEY), VALUE, block_table=torch.tensor([[0], [1]])),
    "attention_statistics, key": lambda x: farspan.attention_statistics(QUERY, x(KEY)),
    "greedy, hidden": lambda x: farspan.greedy(x(HIDDEN), WEIGHT),
    "sample, hidden": lambda x: farspan.sample(x(HIDDEN), WEIGHT, seed=0, position=0),
    "linear_cross_entropy, class_weight": lambda x: farspan.linear_cross_entropy(
        HIDDEN, WEIGHT, torch.zeros(3, 2, dtype=torch.int64), class_weight=x(torch.ones(40))
    ),
    "top, bias": lambda x: farspan.top(HIDDEN, WEIGHT, 2, bias=x(BIAS)),
    "the operator itself": lambda x: torch.ops.farspan.greedy(x(HIDDEN), WEIGHT),
}


@pytest.mark.parametrize("name", NEEDING)
def test_a_gradient_is_refused_not_lost(name: str) -> None:
    def needing(x: torch.Tensor) -> torch.Tensor:
        return x.clone().requires_grad_()

    argument = name.split(", ")[-1].removeprefix("the operator itself")
    with pytest.raises(farspan.BackendError, match=rf"{argument}.*no gradient"):
        NEEDING[name](needing)
    with torch.no_grad():
        NEEDING[name](needing)
    with torch.inference_mode():
        NEEDING[name](lambda x: x)


def test_a_compiled_gradient_is_refused_too() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(farspan.greedy, fullgraph=True, backend="aot_eager")
    with pytest.raises(Exception, match="no gradient"):
        compiled(HIDDEN.clone().requires_grad_(), WEIGHT).lse.sum().backward()


def test_a_compiled_gradient_is_the_eager_one() -> None:
    torch._dynamo.reset()
    found = []
    for function in (farspan.linear, torch.compile(farspan.linear, fullgraph=True, backend="aot_eager")):
        given = [x.clone().requires_grad_() for x in (HIDDEN, WEIGHT, BIAS)]
        found.append(torch.autograd.grad(function(*given).square().sum(), given))
    for eager, compiled in zip(*found, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=0, atol=0)


def test_compiled_gradients_of_attention_are_the_eager_ones() -> None:
    def call(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, sink: torch.Tensor) -> torch.Tensor:
        output, lse = farspan.attention(query, key, value, causal=True, sink=sink, return_lse=True)
        return output.square().sum() + lse.sum()

    torch._dynamo.reset()
    found = []
    for function in (call, torch.compile(call, fullgraph=True, backend="aot_eager")):
        given = [x.clone().requires_grad_() for x in (QUERY, KEY, VALUE, torch.zeros(QUERY.shape[1]))]
        found.append(torch.autograd.grad(function(*given), given))
    for eager, compiled in zip(*found, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=0, atol=0)


def test_a_second_derivative_of_attention_is_refused() -> None:
    query = QUERY.clone().requires_grad_()
    with pytest.raises(RuntimeError, match="query: expected no second derivative"):
        torch.autograd.grad(farspan.attention(query, KEY, VALUE).sum(), query, create_graph=True)


def test_every_operation_has_kernels_for_a_gpu() -> None:
    assert {name for name in OPERATIONS if not hasattr(gpu, name)} == set(farspan.ops._BY_TORCH)


def test_what_a_gradient_does_not_read_is_not_kept() -> None:
    """With frozen weights, as under an adapter, no layer's input stays alive."""
    kept: list[tuple[int, ...]] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(tuple(x.shape)), lambda _: None):
        farspan.linear(HIDDEN.clone().requires_grad_(), WEIGHT)
    assert kept == [tuple(WEIGHT.shape)]


# ---------------------------------------------------------------------------------------------------------------- kinds


def test_tables_of_either_kind_serve_either_query() -> None:
    inv_freq, table = torch.rand(8), torch.randn(4, 5)
    expected = farspan.attention(
        QUERY, KEY, VALUE, rotary=farspan.Rotary(inv_freq), distance_bias=farspan.DistanceBias(table)
    )
    swapped = farspan.attention(
        QUERY, KEY, VALUE, rotary=farspan.Rotary(inv_freq.numpy()), distance_bias=farspan.DistanceBias(table.numpy())
    )
    as_numpy = farspan.attention(
        *(x.numpy() for x in (QUERY, KEY, VALUE)),
        rotary=farspan.Rotary(inv_freq),
        distance_bias=farspan.DistanceBias(table),
    )
    assert torch.equal(swapped, expected)
    assert torch.equal(torch.from_numpy(as_numpy), expected)


@pytest.mark.parametrize("call", [farspan.linear, farspan.greedy], ids=["linear", "greedy"])
def test_unusual_tensors_are_refused(call: Any) -> None:
    first = "x" if call is farspan.linear else "hidden"
    with pytest.raises(farspan.BackendError, match=first):
        call(torch.eye(16).to_sparse(), WEIGHT)
    with pytest.raises(farspan.ArgumentError, match=r"weight: expected a tensor on cpu, .* given one on meta"):
        call(HIDDEN, WEIGHT.to("meta"))
    with pytest.raises(farspan.DtypeError, match=r"weight: expected a torch\.Tensor"):
        call(HIDDEN, WEIGHT.numpy())
    with pytest.raises(farspan.DtypeError, match=first):
        call(HIDDEN.double(), WEIGHT.double())
    with pytest.raises(farspan.ArgumentError, match=f"{first}: expected a contiguous last dimension"):
        call(HIDDEN.repeat_interleave(2, -1)[..., ::2], WEIGHT)


def test_half_precision_tables_are_refused() -> None:
    for dtype in (torch.bfloat16, torch.float16):
        with pytest.raises(farspan.DtypeError, match="sink"):
            farspan.attention(QUERY, KEY, VALUE, sink=torch.zeros(4, dtype=dtype))


def test_reference_and_operators_agree() -> None:
    rotary = farspan.Rotary(torch.rand(8))
    torch.testing.assert_close(
        farspan.attention(QUERY, KEY, VALUE, causal=True, rotary=rotary),
        reference.attention(QUERY, KEY, VALUE, causal=True, rotary=rotary),
        rtol=1e-5,
        atol=1e-5,
    )


def test_importing_farspan_does_not_import_torch() -> None:
    program = "import sys, farspan; farspan.Rotary; farspan.greedy; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
