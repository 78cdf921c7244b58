"""Small calls go past torch's dispatcher, and whoever watches or transforms operators sees no difference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import farspan
from farspan import ops

X, WEIGHT, BIAS = torch.randn(3, 16), torch.randn(8, 16), torch.randn(8)
EXPECTED = X @ WEIGHT.T + BIAS


def linear() -> torch.Tensor:
    out: torch.Tensor = farspan.linear(X, WEIGHT, BIAS)
    return out


def test_a_plain_call_does_without_the_dispatcher(monkeypatch: pytest.MonkeyPatch) -> None:
    def detour(*arguments: Any) -> Any:
        raise AssertionError("the dispatcher was asked")

    monkeypatch.setattr(ops, "CALLS", dict.fromkeys(ops.CALLS, detour))
    torch.testing.assert_close(linear(), EXPECTED, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        farspan.linear(torch.nn.Parameter(X), torch.nn.Parameter(WEIGHT))
    farspan.attention(*torch.randn(3, 1, 2, 4, 8), rotary=farspan.Rotary(torch.rand(4)))
    farspan.sample(X, WEIGHT, seed=1, position=2, top_k=3)


def test_modes_see_the_operator() -> None:
    seen = []

    class Dispatched(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func)
            return func(*args, **(kwargs or {}))

    class Called(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func)
            return func(*args, **(kwargs or {}))

    for mode in (Dispatched(), Called()):
        seen.clear()
        with mode:
            linear()
        assert torch.ops.farspan.linear.default in seen


def test_the_profiler_sees_the_operator() -> None:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        linear()
    assert "farspan::linear" in {event.key for event in profile.key_averages()}


def test_a_traced_call_is_the_operator() -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    graph = make_fx(lambda x: farspan.linear(x, WEIGHT, BIAS))(X)
    assert torch.ops.farspan.linear.default in {node.target for node in graph.graph.nodes}


def test_a_subclass_is_asked() -> None:
    class Own(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.ops.farspan.linear.default:
                return "its own way"
            return super().__torch_function__(func, types, args, kwargs or {})

    assert farspan.linear(X.as_subclass(Own), WEIGHT) == "its own way"
    assert farspan.linear(X, WEIGHT, BIAS.as_subclass(Own)) == "its own way"


def test_tensors_without_ordinary_memory_get_there_by_the_dispatcher() -> None:
    torch.testing.assert_close(farspan.linear(torch._neg_view(X), WEIGHT), -X @ WEIGHT.T, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        farspan.linear(X, WEIGHT, torch._neg_view(BIAS)), X @ WEIGHT.T - BIAS, rtol=1e-5, atol=1e-5
    )
    with pytest.raises(farspan.BackendError, match="x: expected dense tensors"):
        farspan.linear(X.to_sparse(), WEIGHT)
