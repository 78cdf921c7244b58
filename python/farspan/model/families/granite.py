"""Granite 3 and the dense models of Granite 4: a Llama with multipliers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from farspan.model.families.family import Fields, Settings
from farspan.model.families.llama import Llama, without
from farspan.model.families.windows import FULL, by_layer
from farspan.model.kinds import FLAG, POSITIVE, WIDTH, Kind, Setting, list_of, number, one_of, optional
from farspan.positions import NoPE

MULTIPLIERS = {
    "embedding_multiplier": Setting(number(), 1.0),
    "residual_multiplier": Setting(number(), 1.0),
    "attention_multiplier": Setting(POSITIVE, 1.0),
    "logits_scaling": Setting(POSITIVE, 1.0),
}


class Granite(Llama):
    model_type = "granite"
    architectures: ClassVar[tuple[str, ...]] = ("GraniteForCausalLM",)
    keys: ClassVar[Mapping[str, Setting]] = {**Llama.keys, **MULTIPLIERS}

    def more_fields(self, given: Settings) -> Fields:
        return {name: given[name] for name in MULTIPLIERS}

    def more_settings(self, fields: Fields) -> Settings:
        return {name: fields[name] for name in MULTIPLIERS}


NO_EXPERTS = Kind(
    "0: of Granite 4, farspan has the dense models", lambda x: x is None or (x == 0 and not isinstance(x, bool))
)
NOBODY_READS = Kind("anything: dense models do not read it", lambda x: True)
ATTENTION = ("attention", FULL)


class Granite4(Granite):
    """The hybrid class of Granite 4, whose dense models have attention in all layers and no experts."""

    model_type = "granitemoehybrid"
    architectures: ClassVar[tuple[str, ...]] = ("GraniteMoeHybridForCausalLM",)
    keys: ClassVar[Mapping[str, Setting]] = {
        **without(Granite.keys, "mlp_bias"),
        "intermediate_size": Setting(WIDTH, 11008),
        "shared_intermediate_size": Setting(WIDTH, 1024),
        "num_local_experts": Setting(NO_EXPERTS),
        "num_experts_per_tok": Setting(NOBODY_READS, 2),
        "position_embedding_type": Setting(optional(one_of("rope")), None),
        "layer_types": Setting(list_of(one_of(*ATTENTION))),
        "output_router_logits": Setting(optional(FLAG), False),
        "router_aux_loss_coef": Setting(optional(number()), 0.001),
        **{
            f"mamba_{name}": Setting(NOBODY_READS, default)
            for name, default in {
                "n_heads": 128, "n_groups": 1, "d_state": 256, "d_head": "auto", "d_conv": 4, "expand": 2,
                "chunk_size": 256, "conv_bias": True, "proj_bias": False,
            }.items()
        },
        "time_step_limit": Setting(NOBODY_READS, (0.0, float("inf"))),
    }  # fmt: skip
    names = dataclasses.replace(
        Llama.names,
        modules={
            **Llama.names.modules,
            "mlp.up": ("shared_mlp.input_linear",),
            "mlp.down": ("shared_mlp.output_linear",),
        },
    )

    def windows(self, given: Settings) -> tuple[int | None, ...]:
        kinds = [FULL] * len(given["layer_types"])
        return by_layer(kinds, None, given["num_hidden_layers"], "sliding_window")

    def rotates(self, given: Settings) -> tuple[bool, ...]:
        return (given["position_embedding_type"] == "rope",) * given["num_hidden_layers"]

    def position_settings(self, fields: Fields) -> Settings | None:
        """A model without any rotation has a class of its own here alone."""
        if any(fields["windows"]):
            return None
        if all(isinstance(scheme, NoPE) for scheme in fields["positions"]):
            return {"position_embedding_type": None, "rope_parameters": {"rope_type": "default"}}
        settings = super().position_settings(fields)
        return settings and {**settings, "position_embedding_type": "rope"}

    def more_fields(self, given: Settings) -> Fields:
        return super().more_fields(given) | {"intermediate_size": given["shared_intermediate_size"]}

    def more_settings(self, fields: Fields) -> Settings:
        dense: dict[str, Any] = {"num_local_experts": 0, "num_experts_per_tok": 0, "mamba_n_heads": 1}
        layers = {"layer_types": [ATTENTION[0]] * fields["num_hidden_layers"]}
        return {
            **super().more_settings(fields), **dense, **layers, "shared_intermediate_size": fields["intermediate_size"]
        }  # fmt: skip
