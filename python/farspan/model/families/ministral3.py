"""Ministral 3: YaRN, and queries that grow with their place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from farspan._errors import ArgumentError, message
from farspan.model.families import rope
from farspan.model.families.family import Fields, Settings
from farspan.model.families.gemma import name_in_text, text_of
from farspan.model.families.llama import Llama, without
from farspan.model.families.windows import WINDOW, setting_of_one
from farspan.model.kinds import HEADS, LENGTH, MULTIPLIER, Setting, number, optional, read
from farspan.positions import Scheme

BETA = "llama_4_scaling_beta"
SCALE_KEYS = {BETA: Setting(MULTIPLIER), rope.ORIGINAL: Setting(LENGTH)}
DEFAULT: Mapping[str, Any] = {
    "type": "yarn", "rope_theta": 1_000_000.0, "factor": 16.0, rope.ORIGINAL: 16384, "beta_fast": 32.0,
    "beta_slow": 1.0, "mscale_all_dim": 1.0, "mscale": 1.0, BETA: 0.1,
}  # fmt: skip
"""The rotation of a file that says nothing of it."""


class Ministral3(Llama):
    model_type = "ministral3"
    architectures: ClassVar[tuple[str, ...]] = ("Ministral3ForCausalLM",)
    keys: ClassVar[Mapping[str, Setting]] = {
        **without(Llama.keys, "attention_bias", "mlp_bias"),
        "num_key_value_heads": Setting(optional(HEADS), 8),
        "head_dim": Setting(HEADS, 128),
        "max_position_embeddings": Setting(LENGTH, 262_144),
        "rms_norm_eps": Setting(number(least=0, most=1), 1e-5),
        "pad_token_id": Setting(Llama.keys["pad_token_id"].kind, 11),
        "sliding_window": Setting(optional(WINDOW), None),
    }

    def biases(self, given: Settings) -> tuple[bool, bool]:
        return False, False

    def windows(self, given: Settings) -> tuple[int | None, ...]:
        return (given["sliding_window"],) * given["num_hidden_layers"]

    def window_settings(self, windows: tuple[int | None, ...]) -> Settings | None:
        return setting_of_one(windows)

    def positions(self, given: Settings, dim: int) -> tuple[Scheme, ...]:
        return super().positions(_with_default(given), dim)

    def more_fields(self, given: Settings) -> Fields:
        name, turning = rope.section(_with_default(given))
        kind = turning.get("rope_type") or turning.get("type")
        silent = {} if kind in (None, "default") else {rope.ORIGINAL: given["max_position_embeddings"]}
        scale = read(SCALE_KEYS, {**silent, **turning}, f"{name}.")
        return {"query_scale_beta": scale[BETA], "query_scale_length": given[rope.ORIGINAL] or scale[rope.ORIGINAL]}

    def position_settings(self, fields: Fields) -> Settings | None:
        settings = super().position_settings(fields)
        if settings is None or fields["query_scale_beta"] is None:
            return None
        growing = {rope.ORIGINAL: fields["query_scale_length"], BETA: fields["query_scale_beta"]}
        return {**settings, "rope_parameters": {**settings["rope_parameters"], **growing}}


def _with_default(given: Settings) -> Settings:
    silent = given["rope_parameters"] is None and not given["rope_scaling"]
    return {**given, "rope_parameters": DEFAULT} if silent else given


class Mistral3(Ministral3):
    """The text of the model that sees pictures too, where that is a Ministral 3. It is written as the text model that
    it is here."""

    model_type = "mistral3"
    architectures: ClassVar[tuple[str, ...]] = ("Mistral3ForConditionalGeneration",)

    def fields(self, settings: Settings) -> Fields:
        text = text_of(settings)
        if text.get("model_type") != "ministral3":
            raise ArgumentError(message("text_config.model_type", "ministral3", repr(text.get("model_type"))))
        return super().fields(text)

    def settings(self, fields: Fields) -> None:
        return None

    def renamed(self, name: str) -> str | None:
        return name_in_text(name)
