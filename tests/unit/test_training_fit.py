"""`farspan.training.fit`: what learns, what a folder gets, what stops a run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from support.loras import adapt
from support.training import BACKEND, CONFIG, RECIPE, VOCAB, documents, learner, log_of, same_weights, without_time

from farspan._errors import ArgumentError, Error
from farspan.model import Config, Transformer
from farspan.training import Recipe, fit
from farspan.training.log import Log
from farspan.training.optimizer import Optimizer

DOCUMENTS = documents()


def changed(**settings: Any) -> Recipe:
    return dataclasses.replace(RECIPE, **settings)


def test_a_model_learns_and_its_folder_tells(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the picture is drawn with it")
    model, told = learner(), []
    result = fit(
        model, DOCUMENTS, changed(steps=60), tmp_path / "out", validation=documents(5, seed=1),
        progress=lambda *news: told.append(news),
    )  # fmt: skip
    log = log_of(tmp_path / "out")
    assert [line["step"] for line in log] == list(range(1, 61))
    assert log[0]["loss"] == pytest.approx(4.11, abs=0.1)  # the logarithm of the vocabulary
    assert result.loss == log[-1]["loss"] < log[0]["loss"] - 1.5
    assert [line["step"] for line in log if "validation_loss" in line] == list(range(5, 61, 5))
    assert result.validation_loss == log[-1]["validation_loss"] < log[4]["validation_loss"]
    assert told[0][:2] == (1, 60)
    assert told[-1] == (60, 60, f"loss {result.loss:.3f}")
    names = {"config.json", "model.safetensors", "log.jsonl", "loss.png", "run.json"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    saved = Transformer.from_pretrained(tmp_path / "out", backend=BACKEND)
    assert same_weights(saved, model)
    assert all(p.grad is None for p in model.parameters())


def test_the_same_run_gives_the_same_bits_with_a_folder_or_without(tmp_path: Path) -> None:
    first, again, other = learner(), learner(), learner()
    fit(first, DOCUMENTS, RECIPE, tmp_path / "out")
    fit(again, (list(document) for document in DOCUMENTS), RECIPE)
    fit(other, DOCUMENTS, changed(seed=1))
    assert same_weights(first, again)
    assert not same_weights(first, other)


def test_several_batches_a_step_are_one_large_batch() -> None:
    once, twice = learner(), learner()
    same_sizes = [document[:9] for document in documents(200) if len(document) >= 9]
    fit(once, same_sizes, changed(batch=4, context=8))
    fit(twice, same_sizes, changed(batch=2, context=8, accumulate=2))
    for a, b in zip(once.parameters(), twice.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_recomputing_changes_no_bit() -> None:
    kept, recomputed = learner(), learner()
    fit(kept, DOCUMENTS, RECIPE)
    fit(recomputed, DOCUMENTS, changed(recompute=True))
    assert same_weights(kept, recomputed)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_weights_learn_through_float32_masters(dtype: str, tmp_path: Path) -> None:
    """Steps of a thousandth of a weight are lost in bfloat16; the masters add them up."""
    slow = changed(steps=40, learning_rate=3e-5, warmup=0, schedule="plateau", decay=0.0, weight_decay=0.0)
    model, wide = learner(dtype), learner(dtype).float()
    before = [p.detach().clone() for p in model.parameters()]
    fit(model, DOCUMENTS, slow, tmp_path / "out")
    fit(wide, DOCUMENTS, slow)
    assert {p.dtype for p in model.parameters()} == {getattr(torch, dtype)}
    assert Transformer.from_pretrained(tmp_path / "out").dtype == getattr(torch, dtype)
    moved = torch.cat([(p - q).float().flatten() for p, q in zip(model.parameters(), before, strict=True)])
    wanted = torch.cat([(p - q.float()).flatten() for p, q in zip(wide.parameters(), before, strict=True)])
    assert torch.nn.functional.cosine_similarity(moved.detach(), wanted.detach(), 0).item() > 0.9


def test_gradients_of_several_batches_are_added_up_in_float32() -> None:
    model = learner("bfloat16")
    optimizer = Optimizer(model, RECIPE)
    for _ in range(3):
        model.norm.weight.grad = torch.full_like(model.norm.weight, 1 + 2**-7)
        optimizer.collect()
    (found,) = {float(x) for x in optimizer.masters["norm.weight"].grad}
    assert found == 3 + 3 * 2**-7  # bfloat16 would round it
    assert model.norm.weight.grad is None


def test_norms_biases_and_embeddings_do_not_decay() -> None:
    model = learner(tie_word_embeddings=False, attention_bias=True)
    decaying, others = Optimizer(model, RECIPE).groups
    names = {id(p): name for name, p in model.named_parameters()}
    assert {names[id(p)].split(".", 2)[-1] for p in decaying["params"]} == {
        "attention.qkv.weight", "attention.out.weight", "mlp.up.weight", "mlp.down.weight",
    }  # fmt: skip
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    kept = {names[id(p)] for p in others["params"]}
    assert {"embedding", "head", "norm.weight", "layers.0.attention.qkv.bias"} <= kept


def test_only_what_asks_for_a_gradient_learns(tmp_path: Path) -> None:
    model, before = learner().requires_grad_(False), learner()
    model.layers[1].mlp.requires_grad_(True)
    fit(model, DOCUMENTS, RECIPE, tmp_path / "out")
    pairs = zip(model.named_parameters(), before.parameters(), strict=True)
    moved = [name for (name, now), then in pairs if not torch.equal(now, then)]
    assert moved == ["layers.1.mlp.up.weight", "layers.1.mlp.down.weight"]
    with pytest.raises(ArgumentError, match=r"^model: expected at least one parameter that asks for a gradient"):
        fit(model.requires_grad_(False), DOCUMENTS, RECIPE)


def test_adapters_learn_alone_and_need_no_folder(tmp_path: Path) -> None:
    model = learner().requires_grad_(False)
    adapters = adapt(model)
    weights, rows = [p.detach().clone() for p in learner().parameters()], [a.up.detach().clone() for a in adapters]
    first = fit(model, DOCUMENTS, changed(steps=1)).loss
    assert fit(model, DOCUMENTS, changed(steps=40)).loss < first - 0.02  # embeddings of random weights say little
    assert all(not torch.equal(a.up, b) for a, b in zip(adapters, rows, strict=True))
    own = {name.replace("base_layer.", ""): p for name, p in model.named_parameters()}
    assert all(torch.equal(own[n], q) for (n, _), q in zip(learner().named_parameters(), weights, strict=True))
    with pytest.raises(ArgumentError, match=r"^model: expected its own parameters alone, adapters merged"):
        fit(model, DOCUMENTS, RECIPE, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_dropout_of_an_adapter_is_drawn_by_seed_and_step() -> None:
    def dropped() -> Transformer:
        model = learner()
        model.layers[0].mlp.register_forward_hook(
            lambda module, given, out: torch.nn.functional.dropout(out, 0.5, module.training)
        )
        return model

    first, again = dropped(), dropped()
    fit(first, DOCUMENTS, RECIPE)
    torch.rand(17)
    fit(again, DOCUMENTS, RECIPE)
    assert same_weights(first, again)
    assert not same_weights(first, learner_after())


def learner_after() -> Transformer:
    model = learner()
    fit(model, DOCUMENTS, RECIPE)
    return model


def test_a_model_keeps_its_mode() -> None:
    for training in (True, False):
        model = learner().train(training)
        fit(model, DOCUMENTS, changed(steps=1))
        assert model.training == training


# ------------------------------------------------------------------------------------------------------------ stopping


def spoiled(model: Transformer, step: int) -> Transformer:
    """The model, whose hidden states are NaN from a step on."""
    calls = []

    def spoil(module: Any, given: Any, out: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return out * float("nan") if len(calls) >= step else out

    model.norm.register_forward_hook(spoil)
    return model


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    whole, model = learner(), spoiled(learner(), 7)
    fit(whole, DOCUMENTS, changed(steps=6, schedule="plateau", decay=0.0))
    with pytest.raises(Error, match=r"^loss: expected a finite number, given nan at step 7; .*out has .* of step 4$"):
        fit(model, DOCUMENTS, changed(schedule="plateau", decay=0.0), tmp_path / "out")
    assert same_weights(model, whole)  # the weights are those of step 6
    assert len(log_of(tmp_path / "out")) == 6
    with pytest.raises(Error, match=r"^loss: expected a finite number, given nan at step 1$"):
        fit(spoiled(learner(), 1), DOCUMENTS, RECIPE)


def test_a_gradient_that_is_no_number_stops_the_run() -> None:
    model, before = learner(), learner()
    model.embedding.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(Error, match=r"^gradient: expected a finite number, given (nan|inf) at step 1$"):
        fit(model, DOCUMENTS, RECIPE)
    assert same_weights(model, before)


def test_what_is_no_model_and_no_recipe() -> None:
    with pytest.raises(
        ArgumentError, match=r"^model: expected a farspan\.Transformer, or one that peft has wrapped, given Linear"
    ):
        fit(torch.nn.Linear(2, 2), DOCUMENTS, RECIPE)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"^recipe: expected a farspan\.training\.Recipe, given \{\}"):
        fit(learner(), DOCUMENTS, {})  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"^documents\[0\]: expected ids of the vocabulary"):
        fit(learner(), [[1, VOCAB]], RECIPE)
    with pytest.raises(ArgumentError, match=r"^validation: expected at least one document"):
        fit(learner(), DOCUMENTS, RECIPE, validation=[])


# ---------------------------------------------------------------------------------------------------- folders of others


def test_a_folder_that_holds_a_run_is_left_alone(tmp_path: Path) -> None:
    fit(learner(), DOCUMENTS, RECIPE, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(Error, match=r"^out: expected a folder without a run, or resume=True .* given .*out$"):
        fit(learner(), DOCUMENTS, RECIPE, tmp_path / "out")
    for name, recipe, given in (
        ("recipe.steps", changed(steps=13), DOCUMENTS), ("documents", RECIPE, DOCUMENTS[:-1]),
        ("recipe.learning_rate", changed(learning_rate=0.02), DOCUMENTS),
    ):  # fmt: skip
        with pytest.raises(Error, match=rf"^{name}: expected .*, as the run in .*out began with, given"):
            fit(learner(), given, recipe, tmp_path / "out", resume=True)
    with pytest.raises(Error, match=r"^model\.intermediate_size: expected 24, as the run"):
        fit(learner(intermediate_size=32), DOCUMENTS, RECIPE, tmp_path / "out", resume=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_that_holds_a_model_is_left_alone(resume: bool, tmp_path: Path) -> None:
    learner().save_pretrained(tmp_path)
    with pytest.raises(Error, match=r"^out: expected a folder of its own .*, given .*, which has a config\.json"):
        fit(learner(), DOCUMENTS, RECIPE, tmp_path, resume)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_a_folder_is_one_processs_at_a_time(tmp_path: Path) -> None:
    other = Log(tmp_path / "log.jsonl")
    with pytest.raises(Error, match=r"^out: expected a folder that no other process trains into"):
        Log(tmp_path / "log.jsonl")
    other.close()
    Log(tmp_path / "log.jsonl").close()


def test_without_matplotlib_a_run_says_so_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.warns(RuntimeWarning, match=r"^there will be no loss\.png: .* pip install matplotlib"):
        fit(learner(), DOCUMENTS, changed(steps=1, warmup=0), tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").exists()
    assert not (tmp_path / "out" / "loss.png").exists()


def test_a_finished_run_gives_its_weights(tmp_path: Path) -> None:
    trained, fresh = learner(), learner()
    fit(trained, DOCUMENTS, RECIPE, tmp_path / "out")
    log = log_of(tmp_path / "out")
    result = fit(fresh, DOCUMENTS, RECIPE, tmp_path / "out", resume=True)
    assert same_weights(trained, fresh)
    assert (result.steps, result.loss) == (12, log[-1]["loss"])
    assert log_of(tmp_path / "out") == log
    assert without_time(log)[-1]["step"] == 12
    assert isinstance(CONFIG, Config)
