"""Whole models on a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.models import ids, small_model

import farspan

SETTINGS: list[dict[str, Any]] = [{}, {"temperature": 0.8, "seed": 5}, {"temperature": 0.8, "top_k": 20, "top_p": 0.9}]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_generate_gives_the_text_of_the_cpu(settings: dict[str, Any]) -> None:
    model = small_model()
    prompts = [ids(1, 11)[0].tolist(), ids(1, 3, seed=1)[0].tolist()]
    expected = model.generate(prompts, max_new_tokens=12, **settings)
    found = small_model().to("cuda").generate(prompts, max_new_tokens=12, **settings)
    assert [c.tokens for c in found] == [c.tokens for c in expected]


def test_statistics_are_those_of_the_cpu() -> None:
    tokens = ids(2, 40)
    found, expected = (model.attention_statistics(tokens) for model in (small_model().to("cuda"), small_model()))
    for name, x in found._asdict().items():
        torch.testing.assert_close(x.cpu(), getattr(expected, name), rtol=1e-3, atol=1e-3, msg=name)


def test_the_embedded_model_writes_on_a_gpu() -> None:
    model, tokenizer = farspan.load_embedded(device="cuda")
    (completion,) = model.generate([tokenizer.encode("def ")], max_new_tokens=20)
    assert len(completion.tokens) == 20
