"""Qwen3-MoE: a Qwen3 with experts in some layers or all of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from farspan._errors import ArgumentError, message
from farspan.model.families.family import Fields, Settings
from farspan.model.families.llama import without
from farspan.model.families.qwen import Qwen3
from farspan.model.kinds import FLAG, HEADS, WIDTH, Setting, count, list_of, number, optional

EXPERTS = count(2**16, least=0)


class Qwen3MoE(Qwen3):
    model_type = "qwen3_moe"
    architectures: ClassVar[tuple[str, ...]] = ("Qwen3MoeForCausalLM",)
    keys: ClassVar[Mapping[str, Setting]] = {
        **without(Qwen3.keys, "layer_types", "max_window_layers", "head_dim"),
        "num_key_value_heads": Setting(optional(HEADS), 4),
        "head_dim": Setting(optional(HEADS), None),
        "decoder_sparse_step": Setting(count(2**53), 1),
        "moe_intermediate_size": Setting(WIDTH, 768),
        "num_experts_per_tok": Setting(count(2**16), 8),
        "num_experts": Setting(EXPERTS, 128),
        "num_local_experts": Setting(optional(EXPERTS), None),
        "norm_topk_prob": Setting(FLAG, False),
        "mlp_only_layers": Setting(optional(list_of(count(2**53, least=0))), None),
        "output_router_logits": Setting(FLAG, False),
        "router_aux_loss_coef": Setting(number(), 0.001),
    }
    names = dataclasses.replace(
        Qwen3.names,
        modules={
            **Qwen3.names.modules,
            "mlp.router": ("mlp.gate",),
            "mlp.expert_up": ("mlp.experts.{}.gate_proj", "mlp.experts.{}.up_proj"),
            "mlp.expert_down": ("mlp.experts.{}.down_proj",),
        },
    )

    def windows(self, given: Settings) -> tuple[int | None, ...]:
        window = given["sliding_window"] if given["use_sliding_window"] else None
        return (window,) * given["num_hidden_layers"]

    def window_settings(self, windows: tuple[int | None, ...]) -> Settings | None:
        if len(set(windows)) > 1:
            return None
        return {"use_sliding_window": windows[0] is not None, "sliding_window": windows[0]}

    def more_fields(self, given: Settings) -> Fields:
        experts = given["num_experts"] if given["num_local_experts"] is None else given["num_local_experts"]
        step, dense = given["decoder_sparse_step"], given["mlp_only_layers"] or ()
        layers = range(given["num_hidden_layers"])
        if given["num_experts_per_tok"] > experts > 0:
            expected = f"at most the number of experts, {experts}"
            raise ArgumentError(message("num_experts_per_tok", expected, given["num_experts_per_tok"]))
        return {
            "num_experts": experts,
            "num_experts_per_tok": given["num_experts_per_tok"],
            "moe_intermediate_size": given["moe_intermediate_size"],
            "norm_topk_prob": given["norm_topk_prob"],
            "expert_layers": tuple(experts > 0 and i not in dense and (i + 1) % step == 0 for i in layers),
        }

    def more_settings(self, fields: Fields) -> Settings:
        return {
            "num_experts": fields["num_experts"],
            "num_experts_per_tok": fields["num_experts_per_tok"],
            "moe_intermediate_size": fields["moe_intermediate_size"] or fields["intermediate_size"],
            "norm_topk_prob": fields["norm_topk_prob"],
            "mlp_only_layers": [layer for layer, has in enumerate(fields["expert_layers"]) if not has],
        }
