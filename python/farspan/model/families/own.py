"""farspan's own form: any `Config`, written as it is. Its tensors have Llama's names where Llama has them."""

from __future__ import annotations

import dataclasses

from farspan.model.families.llama import Llama

OWN_MODEL_TYPE = "farspan"


class Own(Llama):
    model_type = OWN_MODEL_TYPE
    names = dataclasses.replace(
        Llama.names,
        modules={
            **Llama.names.modules,
            "attention_post_norm": ("self_attn.post_norm",),
            "mlp_post_norm": ("mlp.post_norm",),
            "mlp.router": ("mlp.router",),
            "mlp.expert_up": ("mlp.experts.{}.gate_proj", "mlp.experts.{}.up_proj"),
            "mlp.expert_down": ("mlp.experts.{}.down_proj",),
        },
        tensors={"attention.sink": "self_attn.sinks"},
        places="model.embed_positions.weight",
        positions="self_attn.positions.",
    )
