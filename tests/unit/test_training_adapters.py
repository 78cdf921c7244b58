"""`fit` of a model that peft has wrapped: its folder holds adapters, which peft reads, and a killed run goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.training import RECIPE, VOCAB, documents, learner, log_of, same_weights

from farspan._errors import ArgumentError, Error
from farspan.model import Transformer
from farspan.training import fit

peft = pytest.importorskip("peft", reason="peft is not installed")
DOCUMENTS = documents()
FILES = {"adapter_config.json", "adapter_model.safetensors"}


class Killed(Exception):
    pass


def adapted(model: Transformer | None = None, **changes: Any) -> Any:
    settings = {"r": 3, "target_modules": ["qkv", "down"], "lora_dropout": 0.1, **changes}
    wrapped = learner() if model is None else model
    torch.manual_seed(3)
    return peft.get_peft_model(wrapped, peft.LoraConfig(**settings))


def logits(model: Any) -> torch.Tensor:
    ids = torch.arange(12)[None] % VOCAB
    with torch.no_grad():
        return (model.get_base_model() if hasattr(model, "get_base_model") else model).eval().logits(ids)


def test_the_folder_holds_adapters_that_peft_reads(tmp_path: Path) -> None:
    fit(learner(), DOCUMENTS, RECIPE, tmp_path / "base")
    base = Transformer.from_pretrained(tmp_path / "base")
    model = adapted(base)
    result = fit(model, DOCUMENTS, RECIPE, tmp_path / "lora", validation=documents(3, seed=1))
    names = {path.name for path in (tmp_path / "lora").iterdir()}
    assert names - {"loss.png"} == FILES | {"run.json", "log.jsonl"}
    assert log_of(tmp_path / "lora")[-1]["validation_loss"] == result.validation_loss
    fresh = Transformer.from_pretrained(tmp_path / "base")
    unchanged = logits(fresh)
    again = peft.PeftModel.from_pretrained(fresh, tmp_path / "lora")
    assert torch.equal(logits(again), logits(model))
    assert not torch.equal(logits(again), unchanged)
    merged = again.merge_and_unload()
    torch.testing.assert_close(logits(merged), logits(model), rtol=1e-4, atol=1e-5)
    merged.save_pretrained(tmp_path / "merged")
    assert torch.equal(logits(Transformer.from_pretrained(tmp_path / "merged")), logits(merged))


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    whole, resumed, finished = adapted(), adapted(), adapted()
    fit(whole, DOCUMENTS, RECIPE, tmp_path / "whole")

    def kill(step: int, *news: object) -> None:
        if step == 6:  # behind the checkpoint of step 4
            raise Killed

    with pytest.raises(Killed):
        fit(adapted(), DOCUMENTS, RECIPE, tmp_path / "out", progress=kill)
    seen: list[int] = []
    fit(resumed, DOCUMENTS, RECIPE, tmp_path / "out", True, progress=lambda step, *news: seen.append(step))
    assert seen[0] == 5
    assert same_weights(resumed, whole)
    fit(finished, DOCUMENTS, RECIPE, tmp_path / "out", resume=True)  # over: loads them
    assert same_weights(finished, whole)


def test_other_adapters_are_another_run(tmp_path: Path) -> None:
    fit(adapted(), DOCUMENTS, RECIPE, tmp_path / "out")
    with pytest.raises(Error, match=r"^adapters\.lora_alpha: expected 8, as the run in .* began with, given 16"):
        fit(adapted(lora_alpha=16), DOCUMENTS, RECIPE, tmp_path / "out", resume=True)
    with pytest.raises(Error, match=r"^out: expected a folder without a run"):
        fit(adapted(), DOCUMENTS, RECIPE, tmp_path / "out")
    for file in ("run.json", "log.jsonl"):
        (tmp_path / "out" / file).unlink()
    with pytest.raises(Error, match=r"^out: expected a folder of its own .* which has a adapter_config\.json"):
        fit(learner(), DOCUMENTS, RECIPE, tmp_path / "out")


def test_what_has_no_place_is_named(tmp_path: Path) -> None:
    several = adapted()
    several.add_adapter("other", peft.LoraConfig(r=2, target_modules=["qkv"]))
    with pytest.raises(ArgumentError, match=r"^model: expected one adapter, whose name is 'default', given \['default"):
        fit(several, DOCUMENTS, RECIPE, tmp_path / "out")
    with pytest.raises(ArgumentError, match=r"^model: expected its own parameters alone, adapters merged"):
        fit(adapted().get_base_model(), DOCUMENTS, RECIPE, tmp_path / "out")
    with pytest.raises(ArgumentError, match=r"^model: expected a farspan\.Transformer, or one that peft has wrapped"):
        fit(
            peft.get_peft_model(torch.nn.Sequential(torch.nn.Linear(2, 2)), peft.LoraConfig(target_modules=["0"])),
            [],
            RECIPE,
        )
    assert not (tmp_path / "out").exists()
