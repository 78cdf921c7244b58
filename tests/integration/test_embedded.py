"""The model in the package: a folder others can read, weights that are those of its card, text like Python."""

from __future__ import annotations

import dataclasses
import importlib
import re

import pytest
import torch

import farspan
from farspan.embedded import FOLDER
from farspan.lab.embedded import data
from farspan.lab.embedded.make import CONFIG
from farspan.lab.measure import measure

CARD = (FOLDER / "CARD.md").read_text()


def test_the_folder_is_small_and_complete() -> None:
    assert {path.name for path in FOLDER.iterdir()} >= {"CARD.md", "config.json", "model.safetensors", "tokenizer.json"}
    assert 1e6 < sum(path.stat().st_size for path in FOLDER.iterdir() if path.is_file()) < 3e6


def test_it_is_what_the_script_of_this_repository_makes() -> None:
    model, _ = farspan.load_embedded()
    assert farspan.Config.from_pretrained(FOLDER) == CONFIG
    assert model.config == dataclasses.replace(CONFIG, dtype="float32")
    assert model.dtype == torch.float32
    assert f"{sum(weight.numel() for weight in model.parameters()):,} parameters" in CARD


def test_what_the_card_names_is_there() -> None:
    named = re.findall(r"`(farspan(?:\.\w+)+)`|python -m (farspan(?:\.\w+)+)", CARD)
    assert len(named) == 3
    for function, module in named:
        folder, _, name = (function or module).rpartition(".")
        assert hasattr(importlib.import_module(folder), name), name


def test_a_dtype_may_be_asked_for() -> None:
    model, _ = farspan.load_embedded(dtype="bfloat16")
    assert model.dtype == torch.bfloat16


def test_its_held_out_loss_is_that_of_the_card() -> None:
    told = float(re.search(r"held-out loss \| ([\d.]+) nats", CARD)[1])
    model, _ = farspan.load_embedded()
    tokens = torch.frombuffer(bytearray(data.held_out_text()), dtype=torch.uint8)
    (point,) = measure(model, tokens, [256], {"own": None}, by="position", windows=96).points
    assert point.nats_per_token == pytest.approx(told, abs=4 * point.standard_error)
    assert point.standard_error < 0.05


def test_transformers_reads_the_folder_and_computes_the_same() -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(FOLDER / "tokenizer.json"))
    text = "class Path:\n    def __init__(self, *parts):\n        self.parts = parts\n"
    ids = torch.tensor([tokenizer.encode(text)])
    model, ours = farspan.load_embedded()
    assert ids[0].tolist() == ours.encode(text)
    with torch.no_grad():
        wanted = theirs(ids).logits
    torch.testing.assert_close(model.logits(ids), wanted, rtol=1e-4, atol=1e-4)


def test_it_has_learned_to_close_what_it_opens() -> None:
    """Greedy text after `if x is ` must say `None`, the surest continuation there is in the standard library."""
    model, tokenizer = farspan.load_embedded()
    (completion,) = model.generate([tokenizer.encode("        if value is ")], max_new_tokens=4)
    assert tokenizer.decode(completion.tokens) in ("None", "not ")
