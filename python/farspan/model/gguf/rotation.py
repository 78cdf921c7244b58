"""The rotation that a GGUF file describes, by settings and by tables of factors among its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from farspan._errors import ArgumentError, message
from farspan.model.families.rope import ORIGINAL
from farspan.model.gguf.weights import GgufTensor
from farspan.model.kinds import FACTOR, FLAG, HEADS, LENGTH, TEXT, Setting, number, one_of, optional

ROTATION = {
    "rope.freq_base": Setting(number(least=1, most=1e30), 10_000.0),
    "rope.dimension_count": Setting(optional(HEADS), None),
    "rope.scale_linear": Setting(optional(FACTOR), None),
    "rope.scaling.type": Setting(TEXT, "none"),
    "rope.scaling.factor": Setting(optional(number(least=0, most=1e9)), None),
    "rope.scaling.original_context_length": Setting(optional(LENGTH), None),
    "rope.scaling.attn_factor": Setting(optional(FACTOR), None),
    "rope.scaling.finetuned": Setting(optional(FLAG), None),
}
FACTORS, SHORT, LONG = "rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight"
TABLES = (FACTORS, SHORT, LONG)
"""Tensors that say what each pair's frequency is divided by."""
SCALINGS = one_of("none", "linear", "yarn", "longrope")


def rotation(given: Mapping[str, Any], tensors: Mapping[str, GgufTensor], turning: int) -> dict[str, Any] | None:
    """What a `config.json` has for `rope_scaling`; None: nothing is scaled. `turning`: how many dims of a head turn."""
    kind = SCALINGS.check("rope.scaling.type", given["rope.scaling.type"])
    factor = given["rope.scaling.factor"] or given["rope.scale_linear"] or 1.0
    original = given["rope.scaling.original_context_length"] or given["context_length"]
    magnitude = given["rope.scaling.attn_factor"]
    if SHORT in tensors or LONG in tensors:
        tables = {"short_factor": _table(SHORT, tensors, turning), "long_factor": _table(LONG, tensors, turning)}
        return {"rope_type": "longrope", **tables, "attention_factor": magnitude or 1.0, ORIGINAL: original}
    if magnitude not in (None, 1.0):
        expected = "1 where no tables of factors are"
        raise ArgumentError(message("rope.scaling.attn_factor", expected, magnitude))
    if FACTORS in tensors:
        if kind in ("linear", "yarn") and factor != 1:
            raise ArgumentError(message("rope.scaling.type", f"none beside {FACTORS}", kind))
        table = _table(FACTORS, tensors, turning)
        return {
            "rope_type": "longrope", "short_factor": table, "long_factor": table, "attention_factor": 1.0,
            ORIGINAL: original,
        }  # fmt: skip
    if kind == "longrope":
        raise ArgumentError(message("rope.scaling.type", f"{SHORT} and {LONG} beside longrope", "neither"))
    if factor == 1:
        return None
    if kind == "yarn":
        return {"rope_type": "yarn", "factor": factor, ORIGINAL: original}
    return {"rope_type": "linear", "factor": factor} if kind == "linear" or given["rope.scale_linear"] else None


def _table(name: str, tensors: Mapping[str, GgufTensor], turning: int) -> list[float]:
    if name not in tensors:
        raise ArgumentError(message("weights", f"a tensor {name}", "none"))
    tensors[name].require((turning // 2,), "a number for each pair of a head's dims that turn")
    numbers: list[float] = tensors[name].read().tolist()
    return numbers
