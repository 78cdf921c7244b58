"""Settings of draws on a GPU: plain numbers cross with the launch, small arrays in a few pieces, not one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support.emulated import TensorMemory, library

import farspan
from farspan import ops
from farspan._backend import gpu, settings
from farspan._backend.settings import NOTHING, Draws, Rules, collect, draws_of

OFF: dict[str, Any] = {
    "order": "hf", "history": None, "prompt_lengths": None, "logit_bias": None, "banned": None, "allowed": None,
    "mask": None, "samples": 1, "typical": 1.0, "epsilon": 0.0, "eta": 0.0, "top_h": 1.0, "top_n_sigma": 0.0,
    "xtc_probability": 0.0, "xtc_threshold": 0.1, "min_keep": 1, "repetition_penalty": 1.0, "frequency_penalty": 0.0,
    "presence_penalty": 0.0, "no_repeat_ngram": 0, "dry_multiplier": 0.0, "dry_base": 1.75, "dry_allowed_length": 2,
    "min_p": 0.0,
}  # fmt: skip
ROWS = 5


class Counted(TensorMemory):
    """Notes every copy in either direction."""

    def __init__(self, like: torch.Tensor) -> None:
        super().__init__(like)
        self.copies: list[str] = []

    def take(self, x: Any, kind: str) -> Any:
        if isinstance(x, np.ndarray):
            self.copies.append("there")
        return super().take(x, kind)

    def host(self, x: Any) -> Any:
        if isinstance(x, torch.Tensor):
            self.copies.append("back")
        return super().host(x)

    def upload(self, data: bytes) -> int:
        self.copies.append("there")
        return super().upload(data)

    def download(self, address: int, size: int) -> bytes:
        self.copies.append("back")
        return super().download(address, size)


@pytest.mark.parametrize("draws_on", ["host", "device"])
def test_a_draw_with_settings_copies_little(draws_on: str) -> None:
    if library() is None:
        pytest.skip("the emulator of the CUDA kernels is not built: cargo build -p farspan-cuda-emulator")
    generator = torch.Generator().manual_seed(4)
    hidden, weight = (torch.randn(count, 24, generator=generator) for count in (ROWS, 300))
    given: dict[str, Any] = {
        "seed": np.arange(ROWS) * 3, "position": np.full((), 7), "stream": np.arange(ROWS, dtype=np.int64),
        "temperature": np.linspace(0.5, 1.5, ROWS, dtype=np.float32),
    }  # fmt: skip
    settings = {"top_k": 5, "top_p": 1.0, "top": 3}
    expected = farspan.sample(hidden, weight, **given, **settings)
    draws = Draws(**(given if draws_on == "host" else {name: torch.from_numpy(x) for name, x in given.items()}))
    on_host = collect(hidden.numpy(), **OFF | settings)
    memory = Counted(hidden)
    found = gpu.sample(memory, "float32", hidden, weight, draws, Rules(), on_host)
    results = dict(zip(gpu.results.SAMPLE, found, strict=True))
    assert torch.equal(results["token"], expected.token)
    assert torch.equal(results["top_token"], expected.top_token)
    for name in ("logprob", "lse", "kept_mass", "top_logprob"):
        torch.testing.assert_close(results[name], getattr(expected, name))
    assert {name: str(x.dtype) for name, x in results.items()} == {
        name: f"torch.{kind}" for name, kind in gpu.results.SAMPLE.items()
    }
    crossed = ["there", "back", "there"] if draws_on == "host" else ["back", "back", "there"]
    assert memory.copies == crossed, "the draws, what the GPU read of the rows, the results"


def test_plain_numbers_cross_with_the_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    if library() is None:
        pytest.skip("the emulator of the CUDA kernels is not built: cargo build -p farspan-cuda-emulator")
    generator = torch.Generator().manual_seed(5)
    hidden, weight = (torch.randn(count, 24, generator=generator) for count in (ROWS, 300))
    given: dict[str, Any] = {"seed": 2**63 + 5, "position": 2**32 - 1, "stream": 3, "temperature": 0.7}
    cut: dict[str, Any] = {"top_k": 5, "top_p": 1.0, "top": 0}
    expected = [farspan.sample(hidden, weight, **given, **more).token for more in ({}, cut)]
    cuts = collect(hidden.numpy(), **OFF | cut)
    monkeypatch.setattr(settings, "_on_gpu", lambda x: True)
    draws = draws_of(hidden, **given)
    assert draws == Draws(5 - 2**63, 2**32 - 1, 3, 0.7), "the seed by its bits"
    assert [type(x) for x in draws] == [int, int, int, float], "no arrays"
    for on_host, tokens, crossed in ((NOTHING, expected[0], []), (cuts, expected[1], ["back", "there"])):
        memory = Counted(hidden)
        found = gpu.sample(memory, "float32", hidden, weight, draws, Rules(), on_host)
        assert torch.equal(found[0], tokens)
        assert memory.copies == crossed, "what the GPU read of the rows, the results"


def test_the_dispatcher_gets_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = torch.zeros(ROWS, 24)
    given = (-7, 5, 0, 0.7)
    of_tensors = draws_of(hidden, *given)
    monkeypatch.setattr(settings, "_on_gpu", lambda x: True)
    made = [ops._of_dispatcher(x, hidden) for x in draws_of(hidden, *given)]
    assert all(torch.equal(x, y) and x.dtype == y.dtype for x, y in zip(made, of_tensors, strict=True))
    assert ops._of_dispatcher(hidden, hidden) is hidden
    assert ops._are_plain((hidden,), (draws_of(hidden, *given),)), "they ask for no gradient"
