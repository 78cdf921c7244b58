"""GPT-OSS whose experts are stored in MXFP4: widened as they are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.family_models import settings_for, theirs
from support.models import ids

from farspan import CheckpointError
from farspan.model import Transformer

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

SETTINGS = {"hidden_size": 64, "intermediate_size": 32, "head_dim": 16}


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Any, Path]:
    """transformers' model, and a folder whose experts are blocks with the same numbers."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    chance = torch.Generator().manual_seed(2)
    other = theirs("gpt_oss", {**settings_for("gpt_oss"), **SETTINGS})
    other.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    for name, x in list(tensors.items()):
        if not name.endswith(("gate_up_proj", "down_proj")):
            continue
        experts, inner, outer = x.shape
        blocks = torch.randint(0, 256, (experts, outer, inner // 32, 16), dtype=torch.uint8, generator=chance)
        scales = torch.randint(121, 126, (experts, outer, inner // 32), dtype=torch.uint8, generator=chance)
        widened = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
        other.get_parameter(name).data.copy_(widened)
        del tensors[name]
        tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return other, tmp_path


@pytest.mark.usefixtures("no_gradients")
def test_logits_and_what_is_saved(pair: tuple[Any, Path], tmp_path: Path) -> None:
    other, folder = pair
    model = Transformer.from_pretrained(folder, dtype="float32")
    truth = other(ids(2, 20)).logits
    assert torch.allclose(model.logits(ids(2, 20)), truth, atol=1e-4 * float(1 + truth.abs().max()))
    model.save_pretrained(tmp_path / "saved")
    assert "quantization_config" not in (tmp_path / "saved" / "config.json").read_text()
    assert torch.equal(Transformer.from_pretrained(tmp_path / "saved")(ids(1, 9)), model(ids(1, 9)))


def test_blocks_that_do_not_fit(pair: tuple[Any, Path]) -> None:
    _, folder = pair
    whole = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.experts.down_proj"
    for change, told in (
        (lambda t: t.pop(f"{name}_scales"), f"{name}_scales"),
        (lambda t: t.update({f"{name}_scales": t[f"{name}_scales"][:, :-1].clone()}), f"{name}_scales.*shape"),
        (lambda t: t.update({f"{name}_blocks": t[f"{name}_blocks"].float()}), f"{name}_blocks.*U8"),
        (lambda t: t.update({"more_scales": t[f"{name}_scales"].clone()}), "more_scales"),
        (lambda t: [t.pop(key) for key in list(t) if key.endswith("_blocks")], "quantization_config"),
    ):
        tensors = dict(whole)
        change(tensors)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(CheckpointError, match=told):
            Transformer.from_pretrained(folder)
