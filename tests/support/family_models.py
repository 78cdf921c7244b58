"""One small model of transformers for each family, or more, with windows and lengths well within 40 tokens."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import torch

from support.models import SHAPE, enliven

YARN: dict[str, Any] = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LONG: dict[str, Any] = {
    "rope_type": "longrope", "rope_theta": 1e4, "partial_rotary_factor": 0.5, "short_factor": [1.0, 1.1, 1.2],
    "long_factor": [1.0, 2.0, 4.0],
}  # fmt: skip


class Case(NamedTuple):
    """A model: transformers' configuration class, its model class, and settings beside `SHAPE`."""

    config: str
    model: str
    settings: dict[str, Any]


def _llama_like(name: str, **settings: Any) -> Case:
    return Case(f"{name}Config", f"{name}ForCausalLM", settings)


CASES = {
    "gemma3_text": Case("Gemma3TextConfig", "Gemma3ForCausalLM", {
        "head_dim": 16, "query_pre_attn_scalar": 11, "sliding_window": 5, "final_logit_softcapping": 3.0,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}),
    "phi3": _llama_like("Phi3", rope_parameters=LONG, original_max_position_embeddings=24, sliding_window=30),
    "olmo2": _llama_like("Olmo2", attention_bias=True),
    "olmo3": _llama_like("Olmo3", sliding_window=6, layer_types=["sliding_attention", "full_attention"] * 2,
                         num_hidden_layers=4, rope_parameters={
                             "full_attention": {**YARN, "rope_theta": 5e5, "attention_factor": 1.2},
                             "sliding_attention": {"rope_type": "default", "rope_theta": 5e5}}),
    "granite": _llama_like("Granite", embedding_multiplier=12.0, residual_multiplier=0.3, attention_multiplier=0.1,
                           logits_scaling=6.0),
    "granitemoehybrid": _llama_like(
        "GraniteMoeHybrid", embedding_multiplier=12.0, residual_multiplier=0.3, attention_multiplier=0.1,
        logits_scaling=6.0, num_local_experts=0, num_experts_per_tok=0, shared_intermediate_size=40,
        layer_types=["attention"] * 3, position_embedding_type="rope", mamba_n_heads=4, mamba_d_head=24),
    "ministral3": _llama_like("Ministral3", head_dim=16, sliding_window=30, rope_parameters={
        **YARN, "rope_theta": 1e6, "mscale": 1.0, "mscale_all_dim": 0.7, "llama_4_scaling_beta": 0.2}),
    "gpt2": Case("GPT2Config", "GPT2LMHeadModel", {"n_positions": 64, "scale_attn_by_inverse_layer_idx": True}),
    "gpt_neox": _llama_like("GPTNeoX", rope_parameters={
        "rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}),
    "qwen3_moe": _llama_like("Qwen3Moe", head_dim=16, moe_intermediate_size=20, num_experts=5, num_experts_per_tok=2,
                             norm_topk_prob=False, mlp_only_layers=[1]),
    "gpt_oss": _llama_like("GptOss", head_dim=16, num_local_experts=4, num_experts_per_tok=2, sliding_window=5,
                           swiglu_limit=1.5, layer_types=["sliding_attention", "full_attention", "full_attention"],
                           rope_parameters={**YARN, "rope_theta": 1.5e5, "truncate": False}),
}  # fmt: skip
"""By `model_type`."""

GPT2_NAMES = {
    "hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head",
    "intermediate_size": "n_inner", "max_position_embeddings": "n_positions",
}  # fmt: skip


def settings_for(family: str) -> dict[str, Any]:
    """The settings of a case, all that its configuration class is given."""
    nothing = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    shape = dict(SHAPE)
    if family in ("gpt2", "gpt_neox"):
        del shape["num_key_value_heads"]
    if family == "gpt2":
        shape = {GPT2_NAMES.get(name, name): value for name, value in shape.items()}
    return {**shape, **nothing, **json.loads(json.dumps(CASES[family].settings))}


def theirs(family: str, settings: dict[str, Any] | None = None) -> Any:
    """The model of transformers, with random weights; call after `pytest.importorskip`."""
    import transformers

    case = CASES[family]
    config = getattr(transformers, case.config)(**(settings_for(family) if settings is None else settings))
    config._attn_implementation = config._experts_implementation = "eager"
    model = getattr(transformers, case.model)(config)
    with torch.no_grad():
        for name, parameter in enliven(model).named_parameters():
            if parameter.ndim == 3 and family == "gpt_oss":  # experts there are [in, out]
                parameter.mul_((parameter.shape[2] / parameter.shape[1]) ** 0.5)
            elif "norm" in name and family.startswith("gemma"):
                parameter.sub_(1)
    return model
