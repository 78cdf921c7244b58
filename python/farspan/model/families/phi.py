"""Phi-3 and Phi-4-mini: projections in one tensor, a part of each head turns, and LongRoPE."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from farspan.model.families import rope
from farspan.model.families.family import Fields, Settings
from farspan.model.families.llama import Llama, without
from farspan.model.families.windows import WINDOW, setting_of_one
from farspan.model.kinds import LENGTH, Setting, number, one_of, optional
from farspan.positions import LongRoPE, NoPE, Scheme

LONG_NAMES = ("longrope", "su", "yarn")
"""What LongRoPE has been called in these files."""


class Phi3(Llama):
    model_type = "phi3"
    architectures: ClassVar[tuple[str, ...]] = ("Phi3ForCausalLM",)
    keys: ClassVar[Mapping[str, Setting]] = {
        **without(Llama.keys, "attention_bias", "mlp_bias"),
        **rope.PARTIAL_KEYS,
        rope.ORIGINAL: Setting(LENGTH, 4096),
        "max_position_embeddings": Setting(LENGTH, 4096),
        "rms_norm_eps": Setting(number(least=0, most=1), 1e-5),
        "eos_token_id": Setting(Llama.keys["eos_token_id"].kind, (32000,)),
        "pad_token_id": Setting(Llama.keys["pad_token_id"].kind, 32000),
        "sliding_window": Setting(optional(WINDOW), None),
        "resid_pdrop": Setting(number(least=0, most=1), 0.0),
        "embd_pdrop": Setting(number(least=0, most=1), 0.0),
    }
    names = dataclasses.replace(
        Llama.names,
        modules={
            **Llama.names.modules,
            "attention.qkv": ("self_attn.qkv_proj",),
            "mlp.up": ("mlp.gate_up_proj",),
        },
    )

    def biases(self, given: Settings) -> tuple[bool, bool]:
        return False, False

    def windows(self, given: Settings) -> tuple[int | None, ...]:
        return (given["sliding_window"],) * given["num_hidden_layers"]

    def window_settings(self, windows: tuple[int | None, ...]) -> Settings | None:
        return setting_of_one(windows)

    def positions(self, given: Settings, dim: int) -> tuple[Scheme, ...]:
        turning = int(dim * rope.share(given, 1.0))
        scheme = rope.read_rope(
            _long_by_its_name(given), theta=self.rope_theta, longest=given["max_position_embeddings"],
            head_dim=turning, partial=True,
        )  # fmt: skip
        return (scheme,) * given["num_hidden_layers"]

    def position_settings(self, fields: Fields) -> Settings | None:
        settings = super().position_settings(fields)
        scheme = next((scheme for scheme in fields["positions"] if not isinstance(scheme, NoPE)), None)
        if settings is None:
            return None
        turning = {**settings["rope_parameters"], "partial_rotary_factor": fields["partial_rotary_factor"]}
        if not isinstance(scheme, LongRoPE):
            return {**settings, "rope_parameters": turning}
        if scheme.max_length == fields["max_position_embeddings"]:
            turning["factor"] = None
        return {**settings, "rope_parameters": turning, rope.ORIGINAL: scheme.original_length}

    def more_fields(self, given: Settings) -> Fields:
        return {"partial_rotary_factor": rope.share(given, 1.0)}


def _long_by_its_name(given: Settings) -> Settings:
    name, turning = rope.section(given)
    for key in ("rope_type", "type"):
        if turning.get(key) is not None:
            kind = one_of("default", *LONG_NAMES).check(f"{name}.{key}", turning[key])
            new: Mapping[str, Any] = {**turning, key: "longrope" if kind in LONG_NAMES else kind}
            return {**given, name: new}
    return given
