"""`farspan.train_lens`: what it learns, that it repeats itself, and that the model stays as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.models import ids, small_model

import farspan
from farspan import Translators
from farspan.inside import training

TOKENS = ids(1, 200)[0]


def trained(model: Any, **changes: Any) -> Translators:
    return farspan.train_lens(model, TOKENS, **{"steps": 12, "context": 16, "batch": 4, **changes})


@pytest.mark.parametrize("changes", [{}, {"final_logit_softcapping": 3.0}, {"dtype": "bfloat16"}], ids=str)
def test_training_brings_every_layer_closer_to_the_final_one(changes: dict[str, Any]) -> None:
    model = small_model(**changes)
    before = [parameter.clone() for parameter in model.parameters()]
    told: list[tuple[int, int, str]] = []
    found = trained(model, progress=lambda *step: told.append(step))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    tokens = TOKENS[:160].view(4, 40)
    plain, tuned = (farspan.lens(model, tokens, translators=x).kl.mean((1, 2)) for x in (None, found))
    assert (tuned[:-1] < 0.97 * plain[:-1]).all()
    assert [step[:2] for step in told] == [(step, 12) for step in range(1, 13)]
    assert told[0][2].startswith("KL ")


def test_a_model_that_learns_gets_no_gradients() -> None:
    model = small_model().requires_grad_(True)
    trained(model, steps=1)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_seed_alone_decides() -> None:
    found = []
    for seed in (3, 3, 4):
        torch.manual_seed(len(found))
        found.append(trained(small_model(), steps=2, seed=seed))
    assert torch.equal(found[0].weight, found[1].weight)
    assert torch.equal(found[0].bias, found[1].bias)
    assert not torch.equal(found[0].weight, found[2].weight)


def test_a_training_that_was_stopped_goes_on_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "KEPT_EVERY", 3)
    whole, file = trained(small_model()), tmp_path / "lens.safetensors"

    def stop(done: int, steps: int, said: str) -> None:
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(small_model(), checkpoint=file, progress=stop)
    told: list[int] = []
    for expected in ([7, 8, 9, 10, 11, 12], []):  # from what was kept last, and from the end
        told.clear()
        again = trained(small_model(), checkpoint=file, progress=lambda done, *_: told.append(done))
        assert told == expected
        assert torch.equal(again.weight, whole.weight)
        assert torch.equal(again.bias, whole.bias)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    model, file = small_model(), tmp_path / "lens.safetensors"
    found = trained(model, steps=2, checkpoint=file)
    for changes, name in (({"seed": 1}, "seed"), ({"steps": 3}, "steps"), ({"batch": 5}, "batch")):
        with pytest.raises(farspan.Error, match=rf"^{name}: expected .*as .* was begun with"):
            trained(model, **{"steps": 2, "checkpoint": file, **changes})
    with pytest.raises(farspan.Error, match=r"^tokens: "):
        farspan.train_lens(model, TOKENS.flip(0), steps=2, context=16, batch=4, checkpoint=file)
    with pytest.raises(farspan.Error, match=r"^config: "):
        trained(model.with_positions(farspan.positions.ALiBi()), steps=2, checkpoint=file)
    other = small_model()
    with torch.no_grad():
        other.unembedding[-1, -1] += 1
    with pytest.raises(farspan.Error, match=r"^model: "):
        trained(other, steps=2, checkpoint=file)
    found.save(file)
    with pytest.raises(farspan.CheckpointError, match="a training that train_lens keeps"):
        trained(model, steps=2, checkpoint=file)
    file.write_bytes(b"half a file")
    with pytest.raises(farspan.CheckpointError, match="a sound safetensors file"):
        trained(model, steps=2, checkpoint=file)


def test_no_steps_give_the_logit_lens() -> None:
    found = trained(small_model(), steps=0)
    assert not found.weight.any()
    assert not found.bias.any()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"context": 201}, "tokens: expected at least 201 ids, one context, given 200"),
        ({"context": 0}, "context: expected an integer, at least 1"),
        ({"batch": 0}, "batch: expected an integer, at least 1"),
        ({"steps": -1}, "steps: expected an integer, at least 0"),
    ],
)
def test_wrong_arguments_are_named(given: dict[str, Any], told: str) -> None:
    with pytest.raises(farspan.ArgumentError) as caught:
        trained(small_model(), **given)
    assert str(caught.value).startswith(told)
    with pytest.raises(farspan.DtypeError, match="seed: expected an integer"):
        trained(small_model(), seed=0.5)
