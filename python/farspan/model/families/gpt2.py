"""GPT-2: learned positions, LayerNorm, projections stored as `[in, out]`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from farspan.model.families.family import DTYPE, END_TOKENS, WITHOUT_EFFECT, Fields, Names, Settings
from farspan.model.families.layouts import transposed
from farspan.model.families.llama import ACTIVATIONS, Llama, without
from farspan.model.kinds import (
    FLAG,
    HEADS,
    LAYERS,
    LENGTH,
    TEXT,
    TOKEN,
    VOCABULARY,
    WIDTH,
    Kind,
    Setting,
    number,
    one_of,
    optional,
)
from farspan.positions import NoPE, Scheme

DROPOUT = Setting(number(least=0, most=1), 0.1)
NO_CROSS_ATTENTION = Kind("false: farspan has no cross attention", lambda x: x is False)


class GPT2(Llama):
    model_type = "gpt2"
    architectures: ClassVar[tuple[str, ...]] = ("GPT2LMHeadModel",)
    keys: ClassVar[Mapping[str, Setting]] = {
        **without(WITHOUT_EFFECT, "attention_dropout"),
        "vocab_size": Setting(VOCABULARY),
        "n_positions": Setting(LENGTH, 1024),
        "n_embd": Setting(WIDTH),
        "n_layer": Setting(LAYERS),
        "n_head": Setting(HEADS),
        "n_inner": Setting(optional(WIDTH), None),
        "activation_function": Setting(one_of(*ACTIVATIONS), "gelu_new"),
        "layer_norm_epsilon": Setting(number(least=0, most=1), 1e-5),
        "scale_attn_weights": Setting(FLAG, True),
        "scale_attn_by_inverse_layer_idx": Setting(FLAG, False),
        "reorder_and_upcast_attn": Setting(FLAG, False),  # how half precision is rounded there; here it is float32
        "add_cross_attention": Setting(NO_CROSS_ATTENTION, False),
        "tie_word_embeddings": Setting(FLAG, True),
        "bos_token_id": Setting(optional(TOKEN), 50256),
        "eos_token_id": Setting(END_TOKENS, (50256,)),
        "dtype": Setting(DTYPE, None),
        "torch_dtype": Setting(DTYPE, None),
        "resid_pdrop": DROPOUT,
        "embd_pdrop": DROPOUT,
        "attn_pdrop": DROPOUT,
        # Of heads that sum a text up, which models that write have none of.
        "summary_type": Setting(TEXT, "cls_index"),
        "summary_use_proj": Setting(FLAG, True),
        "summary_activation": Setting(optional(TEXT), None),
        "summary_proj_to_labels": Setting(FLAG, True),
        "summary_first_dropout": DROPOUT,
    }
    names = Names(
        embedding="transformer.wte.weight",
        norm="transformer.ln_f",
        head="lm_head.weight",
        places="transformer.wpe.weight",
        layer="transformer.h.{}.",
        modules={
            "attention_norm": ("ln_1",),
            "attention.qkv": ("attn.c_attn",),
            "attention.out": ("attn.c_proj",),
            "mlp_norm": ("ln_2",),
            "mlp.up": ("mlp.c_fc",),
            "mlp.down": ("mlp.c_proj",),
        },
        layouts=dict.fromkeys(("attention.qkv", "attention.out", "mlp.up", "mlp.down"), transposed),
    )
    fixed: ClassVar[Mapping[str, Any]] = {
        "norm": "layer", "gated_mlp": False, "mlp_bias": True, "learned_positions": True,
    }  # fmt: skip
    spelling: ClassVar[Mapping[str, str]] = {
        "hidden_size": "n_embd", "intermediate_size": "n_inner", "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head", "max_position_embeddings": "n_positions", "hidden_act": "activation_function",
        "rms_norm_eps": "layer_norm_epsilon",
    }  # fmt: skip

    def biases(self, given: Settings) -> tuple[bool, bool]:
        return True, True

    def positions(self, given: Settings, dim: int) -> tuple[Scheme, ...]:
        return (NoPE(),) * given["num_hidden_layers"]

    def position_settings(self, fields: Fields) -> Settings | None:
        plain = all(isinstance(scheme, NoPE) for scheme in fields["positions"])
        return {} if plain and not any(fields["windows"]) else None

    def more_fields(self, given: Settings) -> Fields:
        return {
            "intermediate_size": given["intermediate_size"] or 4 * given["hidden_size"],
            "attention_multiplier": None if given["scale_attn_weights"] else 1.0,
            "scale_attn_by_inverse_layer_idx": given["scale_attn_by_inverse_layer_idx"],
        }

    def more_settings(self, fields: Fields) -> Settings:
        return {
            "scale_attn_weights": fields["attention_multiplier"] is None,
            "scale_attn_by_inverse_layer_idx": fields["scale_attn_by_inverse_layer_idx"],
        }

    def renamed(self, name: str) -> str | None:
        """The first files have no prefix, and the causal mask as a tensor."""
        if re.fullmatch(r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias", name):
            return None
        return f"transformer.{name}" if re.match(r"(wte|wpe|h|ln_f)\.", name) else name
