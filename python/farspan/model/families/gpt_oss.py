"""GPT-OSS: experts with a clamped SwiGLU, sinks, windows in every other layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from farspan.model.families.family import Fields, Settings
from farspan.model.families.layouts import alternating_experts, transposed_experts
from farspan.model.families.llama import Llama, without
from farspan.model.families.windows import FULL, LAYER_TYPES, SLIDING, WINDOW, by_layer, settings_of
from farspan.model.kinds import (
    FACTOR,
    FLAG,
    HEADS,
    LENGTH,
    TOKEN,
    WIDTH,
    Setting,
    count,
    number,
    one_of,
    optional,
)
from farspan.positions import Scheme

DEFAULT: Mapping[str, Any] = {
    "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
    "original_max_position_embeddings": 4096,
}  # fmt: skip
"""The rotation of a file that says nothing of it."""


class GptOss(Llama):
    model_type = "gpt_oss"
    architectures: ClassVar[tuple[str, ...]] = ("GptOssForCausalLM",)
    reads_mxfp4 = True
    keys: ClassVar[Mapping[str, Setting]] = {
        **without(Llama.keys, "mlp_bias"),
        "intermediate_size": Setting(WIDTH, 2880),
        "num_key_value_heads": Setting(optional(HEADS), 8),
        "head_dim": Setting(HEADS, 64),
        "hidden_act": Setting(one_of("silu"), "silu"),
        "max_position_embeddings": Setting(LENGTH, 131_072),
        "rms_norm_eps": Setting(number(least=0, most=1), 1e-5),
        "attention_bias": Setting(FLAG, True),
        "bos_token_id": Setting(optional(TOKEN), None),
        "eos_token_id": Setting(Llama.keys["eos_token_id"].kind, ()),
        "sliding_window": Setting(optional(WINDOW), 128),
        **LAYER_TYPES,
        "num_local_experts": Setting(count(2**16), 128),
        "num_experts": Setting(optional(count(2**16)), None),
        "num_experts_per_tok": Setting(count(2**16), 4),
        "swiglu_alpha": Setting(FACTOR, 1.702),
        "swiglu_limit": Setting(FACTOR, 7.0),
        "output_router_logits": Setting(FLAG, False),
        "router_aux_loss_coef": Setting(number(), 0.001),
    }
    names = dataclasses.replace(
        Llama.names,
        modules={**Llama.names.modules, "mlp.router": ("mlp.router",)},
        tensors={
            "attention.sink": "self_attn.sinks",
            "mlp.expert_up.weight": "mlp.experts.gate_up_proj",
            "mlp.expert_up.bias": "mlp.experts.gate_up_proj_bias",
            "mlp.expert_down.weight": "mlp.experts.down_proj",
            "mlp.expert_down.bias": "mlp.experts.down_proj_bias",
        },
        layouts={"mlp.expert_up": alternating_experts, "mlp.expert_down": transposed_experts},
    )
    rope_theta = 150_000.0
    fixed: ClassVar[Mapping[str, Any]] = {
        "hidden_act": "clamped_swiglu", "attention_sinks": True, "expert_bias": True, "norm_topk_prob": True,
    }  # fmt: skip

    def _kinds(self, given: Settings) -> list[str]:
        if given["layer_types"] is not None:
            return list(given["layer_types"])
        return [FULL if layer % 2 else SLIDING for layer in range(given["num_hidden_layers"])]

    def windows(self, given: Settings) -> tuple[int | None, ...]:
        return by_layer(self._kinds(given), given["sliding_window"], given["num_hidden_layers"], "sliding_window")

    def window_settings(self, windows: tuple[int | None, ...]) -> Settings | None:
        return settings_of(windows)

    def positions(self, given: Settings, dim: int) -> tuple[Scheme, ...]:
        silent = given["rope_parameters"] is None and not given["rope_scaling"]
        return super().positions({**given, "rope_parameters": DEFAULT} if silent else given, dim)

    def more_fields(self, given: Settings) -> Fields:
        experts = given["num_local_experts"] if given["num_experts"] is None else given["num_experts"]
        return {
            "num_experts": experts,
            "num_experts_per_tok": given["num_experts_per_tok"],
            "moe_intermediate_size": given["intermediate_size"],
            "swiglu_alpha": given["swiglu_alpha"],
            "swiglu_limit": given["swiglu_limit"],
        }

    def more_settings(self, fields: Fields) -> Settings:
        return {
            "hidden_act": "silu",
            "num_local_experts": fields["num_experts"],
            "num_experts_per_tok": fields["num_experts_per_tok"],
            "swiglu_alpha": fields["swiglu_alpha"],
            "swiglu_limit": fields["swiglu_limit"],
        }
