"""Every setting of every family, changed: the numbers of transformers, or an error. Nothing is ignored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.family_models import CASES, theirs
from support.models import ids

import farspan
from farspan.model import Transformer
from farspan.model.families import FAMILIES

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
TIME = 40

OTHERS: dict[str, list[Any]] = {
    "hidden_act": ["gelu", "relu", "mish"], "hidden_activation": ["gelu", "silu", "mish"],
    "activation_function": ["gelu", "relu", "tanh"],
    "layer_types": [["full_attention"] * 3, ["full_attention", "sliding_attention", "full_attention"],
                    ["chunked_attention"] * 3, ["mamba"] * 3, ["full_attention"]],
    "rope_theta": [500.0], "rotary_emb_base": [500.0], "rope_local_base_freq": [500.0],
    "rope_scaling": [{"rope_type": "linear", "factor": 2.0}, {"rope_type": "warp"}],
    "rope_parameters": [
        None, {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}, {"rope_type": "dynamic", "factor": 2.0},
        {"rope_type": "warp"}, {"full_attention": {"rope_type": "linear", "factor": 2.0}},
    ],
    "sliding_window": [3, None], "position_embedding_type": [None, "alibi"], "mlp_only_layers": [[], [0, 2], [0, 1, 2]],
    "attn_logit_softcapping": [2.0], "final_logit_softcapping": [None, 1.0], "eos_token_id": [[3, 4], None],
    "dtype": ["bfloat16"], "torch_dtype": ["float16"],
    "mamba_n_heads": [], "mamba_d_head": [], "mamba_expand": [], "time_step_limit": [[0.0, 1.0]],
    "summary_activation": ["tanh"], "num_experts": [None], "num_local_experts": [4, 0], "norm_topk_prob": [True],
    "original_max_position_embeddings": [12], "partial_rotary_factor": [0.25], "rotary_pct": [0.5, 0.25],
    "query_pre_attn_scalar": [30], "max_position_embeddings": [20], "n_positions": [48], "sliding_window_pattern": [2],
}  # fmt: skip
"""What to try; other settings are tried with a number, a flag or a text that differs. Nothing: transformers wants the
sizes of layers that are not there to fit each other."""

REFUSED = {
    # sizes, which the tensors contradict
    "vocab_size", "hidden_size", "intermediate_size", "shared_intermediate_size", "moe_intermediate_size", "head_dim",
    "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "n_embd", "n_layer", "n_head", "n_inner",
    "n_positions", "num_experts", "num_local_experts", "mlp_only_layers", "decoder_sparse_step", "attention_bias",
    "mlp_bias", "layer_types", "tie_word_embeddings",
    # values that farspan does not compute
    "hidden_act", "hidden_activation", "activation_function", "attn_logit_softcapping", "use_bidirectional_attention",
    "add_cross_attention", "position_embedding_type", "rope_parameters", "rope_scaling", "partial_rotary_factor",
    "rotary_pct", "output_router_logits", "sliding_window", "original_max_position_embeddings", "num_experts_per_tok",
}  # fmt: skip
"""Settings of which at least one other value is an error."""

UNREAD = {"rope_theta", "rope_local_base_freq", "rotary_emb_base", "sliding_window_pattern", "partial_rotary_factor",
          "rotary_pct", "original_max_position_embeddings"}  # fmt: skip
"""Settings that newer ones in the same file take the place of."""


def other_values(name: str, value: Any) -> list[Any]:
    if name in OTHERS:
        return [other for other in OTHERS[name] if other != value]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, (int, float)):
        return [value + 1 if isinstance(value, int) else 0.5 * value + 0.1]
    return ["gelu"] if isinstance(value, str) else [7]


def changed(settings: dict[str, Any], name: str, other: Any) -> dict[str, Any]:
    new = json.loads(json.dumps({**settings, name: other}))
    if name in UNREAD:
        new["rope_parameters"] = None
        if name == "rotary_emb_base":
            new["rotary_pct"] = 0.5
        if name == "sliding_window_pattern":
            del new["layer_types"]
    return new


@pytest.mark.parametrize("family", CASES)
def test_every_setting_counts_or_is_refused(family: str, tmp_path: Path) -> None:
    base = theirs(family)
    base.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    refused = set()
    for name, setting in FAMILIES[family].keys.items():
        for other in other_values(name, written.get(name, setting.default)):
            settings = changed(written, name, other)
            (tmp_path / "config.json").write_text(json.dumps(settings))
            what = f"{family}, {name} = {other}"
            try:
                ours = Transformer.from_pretrained(tmp_path, dtype="float32")
            except farspan.CheckpointError:
                refused.add(name)
                continue
            truth = logits_of_theirs(tmp_path, what)
            found = ours.logits(ids(1, TIME))
            scale = 1e-4 * float(1 + truth.abs().max())
            assert torch.allclose(found, truth, atol=scale), f"{what}: {float((found - truth).abs().max())}"
    assert refused <= REFUSED, refused - REFUSED


def logits_of_theirs(folder: Path, what: str) -> torch.Tensor:
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", experts_implementation="eager", dtype=torch.float32,
        output_loading_info=True,
    )  # fmt: skip
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), f"{what}: {report}"
    with torch.no_grad():
        found: torch.Tensor = model(ids(1, TIME)).logits
    return found
