"""The families of models whose folders are read and written: one file per form, with its settings and tensor names.

A new family is a subclass of `Family` in a file here, and one entry of `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from farspan._errors import ArgumentError, message
from farspan.model.families.family import Family, Fields, Names, Settings
from farspan.model.families.gemma import Gemma3, Gemma3Text
from farspan.model.families.gpt2 import GPT2
from farspan.model.families.gpt_neox import GPTNeoX
from farspan.model.families.gpt_oss import GptOss
from farspan.model.families.granite import Granite, Granite4
from farspan.model.families.llama import Llama
from farspan.model.families.ministral3 import Ministral3, Mistral3
from farspan.model.families.mistral import Ministral, Mistral
from farspan.model.families.olmo import Olmo2, Olmo3
from farspan.model.families.own import OWN_MODEL_TYPE, Own
from farspan.model.families.phi import Phi3
from farspan.model.families.qwen import Qwen2, Qwen3
from farspan.model.families.qwen_moe import Qwen3MoE
from farspan.model.families.smollm3 import SmolLM3
from farspan.model.kinds import TEXT, list_of, optional, shown
from farspan.model.mxfp4 import is_mxfp4

__all__ = ["FAMILIES", "OWN_MODEL_TYPE", "Family", "Names", "family_named", "read", "written"]

FAMILIES: dict[str, Family] = {
    family.model_type: family for family in (
        Llama(), Mistral(), Ministral(), Qwen2(), Qwen3(), SmolLM3(), Gemma3Text(), Gemma3(), Phi3(), Olmo2(), Olmo3(),
        Granite(), Granite4(), Ministral3(), Mistral3(), GPT2(), GPTNeoX(), Qwen3MoE(), GptOss(),
    )
}  # fmt: skip
"""By `model_type`. A config that was read from none of them is written as the first that can say it."""

RECURRENT = "recurrent layers, which farspan does not have"
LATENT = "multi-head latent attention, which farspan does not have"
MISSING = {
    **dict.fromkeys(
        ("qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_next", "lfm2", "lfm2_moe", "mamba",
         "mamba2", "jamba", "bamba", "falcon_h1", "falcon_mamba", "nemotron_h", "zamba", "zamba2", "rwkv",
         "recurrent_gemma"),
        RECURRENT,
    ),
    **dict.fromkeys(("deepseek_v2", "deepseek_v3", "deepseek_v32", "minicpm3", "kimi_k2", "longcat_flash"), LATENT),
}  # fmt: skip
"""What well-known models have that would have to be computed first."""


def family_of(settings: Settings) -> Family:
    """The family of a `config.json`. ArgumentError: none of these."""
    kind = settings.get("model_type")
    architectures = optional(list_of(TEXT)).check("architectures", settings.get("architectures"))
    if not isinstance(kind, str) or kind not in FAMILIES:
        named = " ".join(x if isinstance(x, str) else shown(x) for x in (kind, *(architectures or ())) if x)
        lacking = f", which has {MISSING[kind]}" if isinstance(kind, str) and kind in MISSING else ""
        raise ArgumentError(message("model_type", f"one of {', '.join(FAMILIES)}", (named or "none") + lacking))
    family = FAMILIES[kind]
    if architectures and not set(architectures) & set(family.architectures):
        raise ArgumentError(message("architectures", " or ".join(family.architectures), ", ".join(architectures)))
    return family


def read(settings: Settings) -> Fields:
    """The fields of the `Config` that a `config.json` describes. ArgumentError: a setting that farspan lacks or that
    cannot be, by its name in `config.json`."""
    family = family_of(settings)
    if not (family.reads_mxfp4 and is_mxfp4(settings)):
        _refuse_quantized(settings)
    return family.fields(settings)


def _refuse_quantized(settings: Settings) -> None:
    """ArgumentError: the weights are stored in a form that has to be undone first."""
    quantized = settings.get("quantization_config")
    if quantized is None:
        return
    method = quantized.get("quant_method") if isinstance(quantized, dict) else None
    expected = "none: weights in floating point, dequantised before they were saved"
    raise ArgumentError(message("quantization_config", expected, shown(method or quantized)))


def written(fields: Fields, first: str | None = None) -> Iterator[dict[str, Any]]:
    """Contents of a `config.json` that might describe a `Config` of these fields, those of family `first` before the
    others: what comes back when they are read has to be compared with it."""
    for family in sorted(FAMILIES.values(), key=lambda family: family.model_type != first):
        settings = family.settings(fields)
        if settings is not None:
            yield settings


def family_named(model_type: Any) -> Family:
    """The family of this `model_type`; farspan's own models are in none of the others."""
    return FAMILIES.get(model_type, OWN)


OWN = Own()
