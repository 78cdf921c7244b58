"""GPT-NeoX, as Pythia is one: attention and MLP side by side, LayerNorm, a part of each head turns."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from farspan.model.families import rope
from farspan.model.families.family import Fields, Names, Settings
from farspan.model.families.layouts import by_head
from farspan.model.families.llama import ACTIVATIONS, Llama, without
from farspan.model.kinds import FLAG, TOKEN, Setting, number, one_of, optional
from farspan.positions import Scheme

DROPOUT = number(least=0, most=1)
SHARE = 0.25


class GPTNeoX(Llama):
    model_type = "gpt_neox"
    architectures: ClassVar[tuple[str, ...]] = ("GPTNeoXForCausalLM",)
    keys: ClassVar[Mapping[str, Setting]] = {
        **without(
            Llama.keys, "num_key_value_heads", "head_dim", "rms_norm_eps", "mlp_bias", "rope_theta",
            "partial_rotary_factor",
        ),
        "layer_norm_eps": Setting(number(least=0, most=1), 1e-5),
        "hidden_act": Setting(one_of(*ACTIVATIONS), "gelu"),
        "attention_bias": Setting(FLAG, True),
        "bos_token_id": Setting(optional(TOKEN), 0),
        "use_parallel_residual": Setting(FLAG, True),
        "rotary_pct": Setting(optional(number(above=0, most=1)), None),
        "rotary_emb_base": Setting(optional(number(least=1, most=1e30)), None),
        "hidden_dropout": Setting(DROPOUT, 0.0),
        "classifier_dropout": Setting(DROPOUT, 0.1),
        "is_decoder": Setting(FLAG, False),
    }  # fmt: skip
    names = Names(
        embedding="gpt_neox.embed_in.weight",
        norm="gpt_neox.final_layer_norm",
        head="embed_out.weight",
        layer="gpt_neox.layers.{}.",
        modules={
            "attention_norm": ("input_layernorm",),
            "attention.qkv": ("attention.query_key_value",),
            "attention.out": ("attention.dense",),
            "mlp_norm": ("post_attention_layernorm",),
            "mlp.up": ("mlp.dense_h_to_4h",),
            "mlp.down": ("mlp.dense_4h_to_h",),
        },
        layouts={"attention.qkv": by_head},
        angles=("gpt_neox.layers.{}.attention.rotary_emb.inv_freq", "gpt_neox.rotary_emb.inv_freq"),
    )
    fixed: ClassVar[Mapping[str, Any]] = {"norm": "layer", "gated_mlp": False, "mlp_bias": True}
    spelling: ClassVar[Mapping[str, str]] = {
        "rms_norm_eps": "layer_norm_eps", "rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct",
    }  # fmt: skip

    def positions(self, given: Settings, dim: int) -> tuple[Scheme, ...]:
        turning = int(dim * rope.share(given, SHARE))
        scheme = rope.read_rope(
            given, theta=self.rope_theta, longest=given["max_position_embeddings"], head_dim=turning, partial=True,
        )  # fmt: skip
        return (scheme,) * given["num_hidden_layers"]

    def position_settings(self, fields: Fields) -> Settings | None:
        settings, share = super().position_settings(fields), fields["partial_rotary_factor"]
        if settings is None:
            return None
        turning = {**settings["rope_parameters"], "partial_rotary_factor": share}
        return {**settings, "rope_parameters": turning, "partial_rotary_factor": share}

    def more_fields(self, given: Settings) -> Fields:
        return {
            "partial_rotary_factor": rope.share(given, SHARE),
            "parallel_residual": given["use_parallel_residual"],
        }

    def more_settings(self, fields: Fields) -> Settings:
        return {"use_parallel_residual": fields["parallel_residual"]}

    def renamed(self, name: str) -> str | None:
        """The first files have the causal mask as a tensor."""
        if re.fullmatch(r"gpt_neox\.layers\.\d+\.attention\.(masked_)?bias", name):
            return None
        return "embed_out.weight" if name == "lm_head.weight" else name
