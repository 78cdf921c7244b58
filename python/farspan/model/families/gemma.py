"""Gemma 3, the text model: norms before and behind, their weights less one, and a rotation for each kind of layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from farspan._errors import ArgumentError, message
from farspan.model.families import rope
from farspan.model.families.family import Fields, Settings
from farspan.model.families.llama import ACTIVATIONS, Llama, without
from farspan.model.families.windows import FULL, LAYER_TYPES, SLIDING, WINDOW, by_layer, settings_of
from farspan.model.kinds import (
    FACTOR,
    FLAG,
    HEADS,
    LAYERS,
    LENGTH,
    TOKEN,
    VOCABULARY,
    WIDTH,
    Kind,
    Setting,
    count,
    number,
    one_of,
    optional,
)
from farspan.positions import Scheme


class Gemma3Text(Llama):
    model_type = "gemma3_text"
    architectures: ClassVar[tuple[str, ...]] = ("Gemma3ForCausalLM",)
    keys: ClassVar[Mapping[str, Setting]] = {
        **without(Llama.keys, "hidden_act", "mlp_bias", "partial_rotary_factor", rope.ORIGINAL),
        "vocab_size": Setting(VOCABULARY, 262_208),
        "hidden_size": Setting(WIDTH, 2304),
        "intermediate_size": Setting(WIDTH, 9216),
        "num_hidden_layers": Setting(LAYERS, 26),
        "num_attention_heads": Setting(HEADS, 8),
        "num_key_value_heads": Setting(HEADS, 4),
        "head_dim": Setting(HEADS, 256),
        "hidden_activation": Setting(one_of(*ACTIVATIONS), "gelu_pytorch_tanh"),
        "max_position_embeddings": Setting(LENGTH, 131_072),
        "pad_token_id": Setting(Llama.keys["pad_token_id"].kind, 0),
        "eos_token_id": Setting(Llama.keys["eos_token_id"].kind, (1,)),
        "bos_token_id": Setting(optional(TOKEN), 2),
        "tie_word_embeddings": Setting(FLAG, True),
        "query_pre_attn_scalar": Setting(count(2**24), 256),
        "sliding_window": Setting(optional(WINDOW), 4096),
        **LAYER_TYPES,
        "sliding_window_pattern": Setting(count(2**53), 6),
        "rope_local_base_freq": Setting(optional(number(least=1, most=1e30)), None),
        "final_logit_softcapping": Setting(optional(FACTOR), None),
        "attn_logit_softcapping": Setting(
            Kind("null: transformers leaves it out of Gemma 3", lambda x: x is None), None
        ),
        "use_bidirectional_attention": Setting(optional(one_of(False)), False),
    }
    names = dataclasses.replace(
        Llama.names,
        modules={
            **Llama.names.modules,
            "attention_post_norm": ("post_attention_layernorm",),
            "mlp_norm": ("pre_feedforward_layernorm",),
            "mlp_post_norm": ("post_feedforward_layernorm",),
        },
    )
    rope_theta = 1_000_000.0
    local_theta: ClassVar[float] = 10_000.0
    fixed: ClassVar[Mapping[str, Any]] = {"qk_norm": True, "norm_place": "both", "norm_adds_one": True}
    spelling: ClassVar[Mapping[str, str]] = {"hidden_act": "hidden_activation"}

    def _kinds(self, given: Settings) -> list[str]:
        if given["layer_types"] is not None:
            return list(given["layer_types"])
        pattern = given["sliding_window_pattern"]
        return [SLIDING if (layer + 1) % pattern else FULL for layer in range(given["num_hidden_layers"])]

    def windows(self, given: Settings) -> tuple[int | None, ...]:
        return by_layer(self._kinds(given), given["sliding_window"], given["num_hidden_layers"], "sliding_window")

    def positions(self, given: Settings, dim: int) -> tuple[Scheme, ...]:
        thetas = {
            FULL: given["rope_theta"] or self.rope_theta,
            SLIDING: given["rope_local_base_freq"] or self.local_theta,
        }
        schemes = rope.by_kind(given, thetas, longest=given["max_position_embeddings"], head_dim=dim)
        return tuple(schemes[kind] for kind in self._kinds(given))

    def position_settings(self, fields: Fields) -> Settings | None:
        return settings_by_kind(fields)

    def more_fields(self, given: Settings) -> Fields:
        return {
            "attention_multiplier": given["query_pre_attn_scalar"] ** -0.5,
            "embedding_multiplier": given["hidden_size"] ** 0.5,
            "final_logit_softcapping": given["final_logit_softcapping"],
        }

    def more_settings(self, fields: Fields) -> Settings:
        scale = fields["attention_multiplier"]
        return {
            "query_pre_attn_scalar": fields["head_dim"] if scale is None else max(1, round(min(scale**-2, 2**24))),
            "final_logit_softcapping": fields["final_logit_softcapping"],
        }


def settings_by_kind(fields: Fields) -> Settings | None:
    """`layer_types`, `sliding_window` and a rotation for each kind of layer; None where layers of a kind differ."""
    windows = settings_of(fields["windows"])
    if windows is None:
        return None
    turning: dict[str, Any] = {}
    for kind, scheme in zip(windows["layer_types"], fields["positions"], strict=True):
        written = rope.written(scheme)
        if written is None or turning.setdefault(kind, written["rope_parameters"]) != written["rope_parameters"]:
            return None
    return {**windows, "rope_parameters": turning}


class Gemma3(Gemma3Text):
    """The text of the model that sees pictures too. It is written as the text model that it is here."""

    model_type = "gemma3"
    architectures: ClassVar[tuple[str, ...]] = ("Gemma3ForConditionalGeneration",)

    def fields(self, settings: Settings) -> Fields:
        return super().fields(text_of(settings))

    def settings(self, fields: Fields) -> None:
        return None

    def renamed(self, name: str) -> str | None:
        return name_in_text(name)


def text_of(settings: Settings) -> Settings:
    """The settings of the text model of one that has other parts, with what stands beside them."""
    text = settings.get("text_config")
    if not isinstance(text, dict):
        raise ArgumentError(message("text_config", "the settings of the text model", repr(text)))
    beside = ("bos_token_id", "eos_token_id", "dtype", "torch_dtype", "tie_word_embeddings")
    return {**text, **{name: settings[name] for name in beside if settings.get(name) is not None}}


def name_in_text(name: str) -> str | None:
    """The text model's own name of a tensor of the whole model, as files of two ages have it; None: another part's."""
    for before, after in (
        ("model.language_model.", "model."), ("language_model.model.", "model."),
        ("language_model.lm_head.", "lm_head."), ("lm_head.", "lm_head."),
    ):  # fmt: skip
        if name.startswith(before):
            return after + name.removeprefix(before)
    parts = ("vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector.")
    return None if name.startswith(parts) else name
