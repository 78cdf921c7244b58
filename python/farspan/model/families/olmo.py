"""OLMo 2 and 3: norms behind attention and MLP, queries and keys normalised over their full width."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from farspan.model.families import rope
from farspan.model.families.family import Fields, Settings
from farspan.model.families.gemma import settings_by_kind
from farspan.model.families.llama import Llama, without
from farspan.model.families.windows import FULL, LAYER_TYPES, SLIDING, WINDOW, by_layer
from farspan.model.kinds import TOKEN, Setting, number, optional
from farspan.positions import Scheme


class Olmo2(Llama):
    model_type = "olmo2"
    architectures: ClassVar[tuple[str, ...]] = ("Olmo2ForCausalLM",)
    keys: ClassVar[Mapping[str, Setting]] = {
        **without(Llama.keys, "mlp_bias"),
        "rms_norm_eps": Setting(number(least=0, most=1), 1e-5),
        "bos_token_id": Setting(optional(TOKEN), None),
        "eos_token_id": Setting(Llama.keys["eos_token_id"].kind, (50279,)),
        "pad_token_id": Setting(Llama.keys["pad_token_id"].kind, 1),
    }
    names = dataclasses.replace(
        Llama.names,
        modules={
            **{name: stored for name, stored in Llama.names.modules.items() if not name.endswith("p_norm")},
            "attention_post_norm": ("post_attention_layernorm",),
            "mlp_post_norm": ("post_feedforward_layernorm",),
        },
    )
    fixed: ClassVar[Mapping[str, Any]] = {"qk_norm": True, "qk_norm_width": "all", "norm_place": "after"}


class Olmo3(Olmo2):
    """Three of four layers have a window, and only the fourth a scaled rotation."""

    model_type = "olmo3"
    architectures: ClassVar[tuple[str, ...]] = ("Olmo3ForCausalLM",)
    keys: ClassVar[Mapping[str, Setting]] = {
        **without(Olmo2.keys, "partial_rotary_factor", rope.ORIGINAL),
        "sliding_window": Setting(optional(WINDOW), 4096),
        **LAYER_TYPES,
    }
    rope_theta = 500_000.0

    def _kinds(self, given: Settings) -> list[str]:
        if given["layer_types"] is not None:
            return list(given["layer_types"])
        return [SLIDING if (layer + 1) % 4 else FULL for layer in range(given["num_hidden_layers"])]

    def windows(self, given: Settings) -> tuple[int | None, ...]:
        return by_layer(self._kinds(given), given["sliding_window"], given["num_hidden_layers"], "sliding_window")

    def positions(self, given: Settings, dim: int) -> tuple[Scheme, ...]:
        thetas = {FULL: given["rope_theta"] or self.rope_theta, SLIDING: self.rope_theta}
        schemes = rope.by_kind(given, thetas, longest=given["max_position_embeddings"], head_dim=dim)
        return tuple(schemes[kind] for kind in self._kinds(given))

    def position_settings(self, fields: Fields) -> Settings | None:
        return settings_by_kind(fields)
