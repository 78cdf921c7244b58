"""farspan inside transformers: its models with farspan's attention beside the same models with eager attention."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.family_models import theirs
from support.models import ids, transformers_model

import farspan

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

from farspan.integrations.transformers import register, versions  # noqa: E402
from farspan.integrations.transformers.attend import attend  # noqa: E402
from farspan.integrations.transformers.visible import visible  # noqa: E402

MODELS: dict[str, Callable[[], Any]] = {
    "Llama": lambda: transformers_model("Llama"),
    "Qwen3": lambda: transformers_model("Qwen3", head_dim=16),
    "Gemma 2": lambda: transformers_model("Gemma2", head_dim=16, sliding_window=5, attn_logit_softcapping=2.0),
    "Gemma 3": lambda: theirs("gemma3_text"),
    "GPT-OSS": lambda: theirs("gpt_oss"),
}
every = pytest.mark.parametrize("name", MODELS)
TIME = 14
LENGTHS = (TIME, 6)


def with_farspan(model: Any) -> Any:
    register()
    ours = copy.deepcopy(model)
    ours.set_attn_implementation("farspan")
    return ours


@pytest.fixture(scope="module")
def pair() -> Callable[[str], tuple[Any, Any]]:
    """A model with eager attention and the same with farspan's."""
    made: dict[str, tuple[Any, Any]] = {}

    def get(name: str) -> tuple[Any, Any]:
        if name not in made:
            eager = MODELS[name]()
            made[name] = eager, with_farspan(eager)
        return made[name]

    return get


Pair = Callable[[str], tuple[Any, Any]]


def padded(side: str) -> dict[str, torch.Tensor]:
    mask = torch.zeros(len(LENGTHS), TIME, dtype=torch.int64)
    for row, length in enumerate(LENGTHS):
        mask[row, TIME - length if side == "left" else 0 :][:length] = 1
    return {"attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}


def logits(model: Any, tokens: torch.Tensor, **inputs: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(tokens, **inputs).logits
    return found


def assert_close(ours: torch.Tensor, truth: torch.Tensor) -> None:
    assert torch.allclose(ours, truth, atol=1e-4 * float(1 + truth.abs().max())), float((ours - truth).abs().max())


@every
def test_logits_are_those_of_eager_attention(name: str, pair: Pair) -> None:
    eager, ours = pair(name)
    assert ours.config._attn_implementation == "farspan"
    assert_close(logits(ours, ids(2, TIME)), logits(eager, ids(2, TIME)))


@every
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_row_gives_what_it_gives_alone(name: str, side: str, pair: Pair) -> None:
    eager, ours = pair(name)
    inputs = padded(side)
    found = logits(ours, ids(2, TIME), **inputs)
    for row, real in enumerate(inputs["attention_mask"].bool()):
        assert_close(found[row, real], logits(eager, ids(2, TIME)[row : row + 1, real])[0])


@every
@pytest.mark.parametrize("pads", [False, True], ids=["whole rows", "left padding"])
def test_steps_with_a_cache_give_what_one_pass_gives(name: str, pads: bool, pair: Pair) -> None:
    eager, ours = pair(name)
    inputs = padded("left") if pads else {}
    cache, start, steps = transformers.DynamicCache(config=ours.config), 0, []
    for stop in (7, 8, 9, 13, TIME):
        part = {k: v[:, :stop] if k == "attention_mask" else v[:, start:stop] for k, v in inputs.items()}
        steps.append(logits(ours, ids(2, TIME)[:, start:stop], cache=cache, use_cache=True, **part))
        start = stop
    real = inputs["attention_mask"].bool() if pads else torch.ones(2, TIME, dtype=torch.bool)
    assert_close(torch.cat(steps, dim=1)[real], logits(eager, ids(2, TIME), **inputs)[real])


@every
def test_gradients_are_those_of_eager_attention(name: str, pair: Pair) -> None:
    inputs, found = padded("left"), []
    real = inputs["attention_mask"].bool()
    for model in pair(name):
        model.zero_grad()
        torch.log_softmax(model(ids(2, TIME), **inputs).logits, -1)[real][:, 3].sum().backward()
        found.append({k: p.grad for k, p in model.named_parameters() if p.grad is not None})
        model.zero_grad()
    eager, ours = found
    assert ours.keys() == eager.keys()
    for key, gradient in eager.items():
        assert_close(ours[key], gradient)


@pytest.mark.parametrize("name", ["Llama", "Gemma 3"])
def test_packed_rows_and_holes(name: str, pair: Pair) -> None:
    eager, ours = pair(name)
    packed = {"position_ids": torch.tensor([[*range(5), *range(9)], [*range(12), *range(2)]])}
    assert_close(logits(ours, ids(2, TIME), **packed), logits(eager, ids(2, TIME), **packed))
    hole = {"attention_mask": (torch.arange(TIME) % 5 != 3).long().expand(2, TIME)}
    real = hole["attention_mask"].bool()
    assert_close(logits(ours, ids(2, TIME), **hole)[real], logits(eager, ids(2, TIME), **hole)[real])


def test_a_model_that_looks_both_ways() -> None:
    eager = transformers_model("Mistral", sliding_window=4)
    eager.config.is_causal = False
    assert_close(logits(with_farspan(eager), ids(2, TIME)), logits(eager, ids(2, TIME)))


def test_generate_of_transformers(pair: Pair) -> None:
    eager, ours = pair("GPT-OSS")
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    mask = padded("left")["attention_mask"]
    found, wanted = (m.generate(ids(2, TIME), attention_mask=mask, **options) for m in (ours, eager))
    assert found.tolist() == wanted.tolist()


# ------------------------------------------------------------------------------------------------------------- refusals


def test_a_matrix_of_booleans_is_an_error(pair: Pair) -> None:
    causal = torch.ones(TIME, TIME).tril().bool().expand(2, 1, TIME, TIME)
    with pytest.raises(farspan.ArgumentError, match=r"attention_mask: expected a mask by position.*given .*\[2, 1, 14"):
        logits(pair("Llama")[1], ids(2, TIME), attention_mask=causal)


def test_chunks_are_an_error_that_names_them() -> None:
    masks = transformers.masking_utils
    chunks = masks.chunked_causal_mask_function(4, torch.zeros(1, dtype=torch.int64))
    given = r"given a mask of and_masks\(chunked_overlay, causal_mask_function\)"
    with pytest.raises(farspan.ArgumentError, match=given):
        visible(1, 8, 8, mask_function=chunks, local_size=4)
    with pytest.raises(
        farspan.ArgumentError, match="sliding_window_overlay"
    ):  # of another window than it is said to be
        visible(1, 8, 8, mask_function=masks.sliding_window_causal_mask_function(5), local_size=4)


def test_a_static_cache_is_an_error(pair: Pair) -> None:
    with pytest.raises(farspan.ArgumentError, match="static cache"):
        pair("Llama")[1].generate(ids(1, 4), max_new_tokens=4, cache_implementation="static", do_sample=False)


def test_dropout_is_an_error() -> None:
    ours = with_farspan(transformers_model("Llama", attention_dropout=0.3)).train()
    with pytest.raises(farspan.ArgumentError, match=r"dropout: expected 0.*given 0\.3"):
        ours(ids(1, 4))


def test_settings_of_attention_that_farspan_lacks_are_errors() -> None:
    one = torch.ones(1, 2, 4, 8)
    module = torch.nn.Identity()
    with pytest.raises(farspan.ArgumentError, match="position_bias"):
        attend(module, one, one, one, None, position_bias=torch.zeros(1, 2, 4, 4))
    with pytest.raises(farspan.ArgumentError, match=r"attention_mask: .*no mask for 4 queries and 3 keys"):
        attend(module, one, one[:, :, :3], one[:, :, :3], None)
    with pytest.raises(farspan.ArgumentError, match="a mask of 4 and 3"):
        attend(module, one, one, one, visible(1, 4, 3, q_offset=-1))
    with pytest.raises(farspan.ArgumentError, match="is_causal"):
        attend(module, one, one, one, visible(1, 4, 4), is_causal=False)


def test_a_model_that_looks_into_its_mask_is_told() -> None:
    for look in (lambda mask: mask.dtype, lambda mask: mask[:, :, :, :3]):
        with pytest.raises(farspan.ArgumentError, match="attention_mask: expected a model that only hands its mask"):
            look(visible(1, 4, 4))


@pytest.mark.parametrize("installed", ["4.57.1", "5.23.9", "6.0.0"])
def test_other_versions_are_refused(installed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "version", lambda package: installed)
    with pytest.raises(farspan.BackendError, match=rf"transformers: expected a version from 5\.24 .*given {installed}"):
        versions.check()


def test_farspan_alone_does_not_import_transformers() -> None:
    lines = "import sys, farspan.integrations; farspan.Transformer; assert 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", lines], check=True)
