"""Granite 3 and the dense models of Granite 4: a Llama with multipliers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from farspan.model.families.family import Fields, Settings
from farspan.model.families.llama import Llama, without
from farspan.model.families.windows import FULL, by_layer
from farspan.model.kinds import (
    FACTOR,
    FLAG,
    MULTIPLIER,
    WIDTH,
    Kind,
    Setting,
    count,
    either,
    list_of,
    number,
    one_of,
    optional,
)
from farspan.positions import NoPE

MULTIPLIERS = {
    "embedding_multiplier": Setting(MULTIPLIER, 1.0),
    "residual_multiplier": Setting(MULTIPLIER, 1.0),
    "attention_multiplier": Setting(FACTOR, 1.0),
    "logits_scaling": Setting(FACTOR, 1.0),
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
SIZE = optional(count(2**53, least=0))
LIMITS = Kind("two numbers, or null", lambda x: x is None or (isinstance(x, (list, tuple)) and len(x) == 2))
RECURRENT = {
    "mamba_n_heads": Setting(SIZE, 128),
    "mamba_n_groups": Setting(SIZE, 1),
    "mamba_d_state": Setting(SIZE, 256),
    "mamba_d_head": Setting(optional(either(count(2**53), one_of("auto"))), "auto"),
    "mamba_d_conv": Setting(SIZE, 4),
    "mamba_expand": Setting(SIZE, 2),
    "mamba_chunk_size": Setting(SIZE, 256),
    "mamba_conv_bias": Setting(optional(FLAG), True),
    "mamba_proj_bias": Setting(optional(FLAG), False),
    "time_step_limit": Setting(LIMITS, (0.0, float("inf"))),
}
"""Of layers that the dense models have none of."""
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
        "num_experts_per_tok": Setting(SIZE, 2),
        "position_embedding_type": Setting(optional(one_of("rope")), None),
        "layer_types": Setting(list_of(one_of(*ATTENTION))),
        "output_router_logits": Setting(optional(one_of(False)), False),
        "router_aux_loss_coef": Setting(optional(number()), 0.001),
        **RECURRENT,
    }
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
