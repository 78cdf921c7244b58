"""Mistral: all layers have one window or none; Ministral: `layer_types` says which have it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from farspan.model.families.family import Settings
from farspan.model.families.llama import Llama, without
from farspan.model.families.windows import LAYER_TYPES, WINDOW, by_layer, setting_of_one, settings_of
from farspan.model.kinds import HEADS, LENGTH, Setting, optional


class Mistral(Llama):
    """`layer_types` in a Mistral's settings make it a Ministral, for transformers as well: Ministral-8B of 2024 calls
    itself Mistral."""

    model_type = "mistral"
    architectures: ClassVar[tuple[str, ...]] = ("MistralForCausalLM", "MinistralForCausalLM")
    keys: ClassVar[Mapping[str, Setting]] = {
        **without(Llama.keys, "attention_bias", "mlp_bias"),
        "num_key_value_heads": Setting(optional(HEADS), 8),
        "max_position_embeddings": Setting(LENGTH, 131072),
        "sliding_window": Setting(optional(WINDOW), 4096),
        **LAYER_TYPES,
    }

    def biases(self, given: Settings) -> tuple[bool, bool]:
        return False, False

    def windows(self, given: Settings) -> tuple[int | None, ...]:
        window, layers = given["sliding_window"], given["num_hidden_layers"]
        if given["layer_types"] is None:
            return (window,) * layers
        return by_layer(given["layer_types"], window, layers, "sliding_window")

    def window_settings(self, windows: tuple[int | None, ...]) -> Settings | None:
        return setting_of_one(windows)


class Ministral(Mistral):
    model_type = "ministral"
    architectures: ClassVar[tuple[str, ...]] = ("MinistralForCausalLM",)

    def window_settings(self, windows: tuple[int | None, ...]) -> Settings | None:
        return settings_of(windows)
