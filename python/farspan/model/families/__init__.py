"""The families of models whose folders are read and written: one file per form, with its settings and tensor names.

A new family is a subclass of `Family` in a file here, and one entry of `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from farspan._errors import ArgumentError, message
from farspan.model.families.family import Family, Fields, Names, Settings
from farspan.model.families.llama import Llama
from farspan.model.families.mistral import Ministral, Mistral
from farspan.model.families.qwen import Qwen2, Qwen3
from farspan.model.families.smollm3 import SmolLM3
from farspan.model.kinds import TEXT, list_of, optional, shown

__all__ = ["FAMILIES", "Family", "Names", "names_of", "read", "written"]

FAMILIES: dict[str, Family] = {
    family.model_type: family for family in (Llama(), Mistral(), Ministral(), Qwen2(), Qwen3(), SmolLM3())
}
"""By `model_type`. A config is written as the first of them that can say it."""


def family_of(settings: Settings) -> Family:
    """The family of a `config.json`. ArgumentError: none of these."""
    kind = settings.get("model_type")
    architectures = optional(list_of(TEXT)).check("architectures", settings.get("architectures"))
    if not isinstance(kind, str) or kind not in FAMILIES:
        named = " ".join(x if isinstance(x, str) else shown(x) for x in (kind, *(architectures or ())) if x)
        raise ArgumentError(message("model_type", f"one of {', '.join(FAMILIES)}", named or "none"))
    family = FAMILIES[kind]
    if architectures and not set(architectures) & set(family.architectures):
        raise ArgumentError(message("architectures", " or ".join(family.architectures), ", ".join(architectures)))
    return family


def read(settings: Settings) -> Fields:
    """The fields of the `Config` that a `config.json` describes. ArgumentError: a setting that farspan lacks or that
    cannot be, by its name in `config.json`."""
    return family_of(settings).fields(settings)


def written(fields: Fields) -> Iterator[dict[str, Any]]:
    """Contents of a `config.json` that might describe a `Config` of these fields: what comes back when they are read
    has to be compared with it."""
    for family in FAMILIES.values():
        settings = family.settings(fields)
        if settings is not None:
            yield settings


def names_of(model_type: Any) -> Names:
    """The tensors' names in a folder of this `model_type`; farspan's own models have Llama's."""
    return FAMILIES[model_type].names if model_type in FAMILIES else Llama.names
