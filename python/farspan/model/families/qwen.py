"""Qwen2 and Qwen3: windows from a layer on; Qwen2 has biases before attention, Qwen3 norms of queries and keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from farspan.model.families.family import Settings
from farspan.model.families.llama import Llama, without
from farspan.model.families.windows import FULL, LAYER_TYPES, SLIDING, WINDOW, by_layer, settings_of
from farspan.model.kinds import FLAG, HEADS, LENGTH, TOKEN, Setting, count, optional


class Qwen2(Llama):
    model_type = "qwen2"
    architectures: ClassVar[tuple[str, ...]] = ("Qwen2ForCausalLM",)
    keys: ClassVar[Mapping[str, Setting]] = {
        **without(Llama.keys, "attention_bias", "mlp_bias"),
        "num_key_value_heads": Setting(optional(HEADS), 32),
        "max_position_embeddings": Setting(LENGTH, 32768),
        "use_sliding_window": Setting(FLAG, False),
        "sliding_window": Setting(optional(WINDOW), 4096),
        "max_window_layers": Setting(count(2**53, least=0), 28),
        **LAYER_TYPES,
        "bos_token_id": Setting(optional(TOKEN), None),
        "eos_token_id": Setting(Llama.keys["eos_token_id"].kind, ()),
    }

    def biases(self, given: Settings) -> tuple[bool, bool]:
        return True, False

    def windows(self, given: Settings) -> tuple[int | None, ...]:
        layers = given["num_hidden_layers"]
        window = given["sliding_window"] if given["use_sliding_window"] else None
        kinds = given["layer_types"]
        if kinds is None:
            first = layers if window is None else given["max_window_layers"]
            kinds = [SLIDING if layer >= first else FULL for layer in range(layers)]
        return by_layer(kinds, window, layers, "sliding_window and use_sliding_window")

    def window_settings(self, windows: tuple[int | None, ...]) -> Settings | None:
        settings = settings_of(windows)
        return settings and {"use_sliding_window": any(windows), **settings}


class Qwen3(Qwen2):
    model_type = "qwen3"
    architectures: ClassVar[tuple[str, ...]] = ("Qwen3ForCausalLM",)
    keys: ClassVar[Mapping[str, Setting]] = {
        **Qwen2.keys,
        "head_dim": Setting(HEADS, 128),
        "attention_bias": Setting(FLAG, False),
    }
    fixed: ClassVar[Mapping[str, Any]] = {"qk_norm": True}

    def biases(self, given: Settings) -> tuple[bool, bool]:
        return given["attention_bias"], given["attention_bias"]
