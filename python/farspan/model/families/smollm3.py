"""SmolLM3: a Llama some of whose layers have no rotation; windows, where there are any, are theirs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from farspan._errors import ArgumentError, message
from farspan.model.families.family import Settings
from farspan.model.families.llama import Llama
from farspan.model.families.windows import FULL, LAYER_TYPES, SLIDING, WINDOW, by_layer, settings_of
from farspan.model.kinds import FLAG, HEADS, LENGTH, TOKEN, Setting, count, list_of, one_of, optional
from farspan.positions import NoPE, Scheme


class SmolLM3(Llama):
    model_type = "smollm3"
    architectures: ClassVar[tuple[str, ...]] = ("SmolLM3ForCausalLM",)
    keys: ClassVar[Mapping[str, Setting]] = {
        **Llama.keys,
        "num_key_value_heads": Setting(optional(HEADS), 4),
        "max_position_embeddings": Setting(LENGTH, 32768),
        "tie_word_embeddings": Setting(FLAG, True),
        "pad_token_id": Setting(Llama.keys["pad_token_id"].kind, 128004),
        "bos_token_id": Setting(optional(TOKEN), 128000),
        "eos_token_id": Setting(Llama.keys["eos_token_id"].kind, (128001,)),
        "use_sliding_window": Setting(FLAG, False),
        "sliding_window": Setting(optional(WINDOW), None),
        **LAYER_TYPES,
        "no_rope_layers": Setting(optional(list_of(one_of(0, 1))), None),
        "no_rope_layer_interval": Setting(count(2**53), 4),
    }
    rope_theta = 2000000.0

    def rotates(self, given: Settings) -> tuple[bool, ...]:
        layers, marks = given["num_hidden_layers"], given["no_rope_layers"]
        if marks is None:
            return tuple((layer + 1) % given["no_rope_layer_interval"] != 0 for layer in range(layers))
        if len(marks) < layers:
            raise ArgumentError(message("no_rope_layers", f"an entry for each of {layers} layers", f"{len(marks)}"))
        return tuple(mark == 1 for mark in marks[:layers])  # 1 is a rotation, whatever the name suggests

    def rotation_settings(self, positions: tuple[Scheme, ...]) -> Settings:
        return {"no_rope_layers": [int(not isinstance(scheme, NoPE)) for scheme in positions]}

    def windows(self, given: Settings) -> tuple[int | None, ...]:
        window = given["sliding_window"] if given["use_sliding_window"] else None
        kinds = given["layer_types"]
        if kinds is None:
            kinds = [FULL if window is None or rotates else SLIDING for rotates in self.rotates(given)]
        return by_layer(kinds, window, given["num_hidden_layers"], "sliding_window and use_sliding_window")

    def window_settings(self, windows: tuple[int | None, ...]) -> Settings | None:
        settings = settings_of(windows)
        return settings and {"use_sliding_window": any(windows), **settings}
