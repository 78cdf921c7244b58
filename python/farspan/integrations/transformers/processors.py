"""transformers' logits processors as settings of `farspan.sample`."""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers.generation import logits_process as known

SETTINGS: dict[type, tuple[str, str]] = {
    known.RepetitionPenaltyLogitsProcessor: ("repetition_penalty", "penalty"),
    known.NoRepeatNGramLogitsProcessor: ("no_repeat_ngram", "ngram_size"),
    known.TemperatureLogitsWarper: ("temperature", "temperature"),
    known.TopHLogitsWarper: ("top_h", "top_h"),
    known.TopKLogitsWarper: ("top_k", "top_k"),
    known.TopPLogitsWarper: ("top_p", "top_p"),
    known.MinPLogitsWarper: ("min_p", "min_p"),
    known.TypicalLogitsWarper: ("typical", "mass"),
    known.EpsilonLogitsWarper: ("epsilon", "epsilon"),
    known.EtaLogitsWarper: ("eta", "epsilon"),
}
"""Setting and attribute of each processor, in the order of `farspan.sample(order="hf")`."""
ORDER = list(SETTINGS)


def settings_of(processors: Any, padding: list[int]) -> dict[str, Any] | None:
    """The settings that say the same as the processors. None where they hold another one, or stand in another order.

    `padding` counts the first tokens of each row that the repetition penalty must skip.
    """
    kinds = [type(processor) for processor in processors]
    if kinds != [kind for kind in ORDER if kind in kinds]:
        return None
    settings = {}
    for processor in processors:
        if getattr(processor, "filter_value", -math.inf) != -math.inf:
            return None
        if getattr(processor, "min_tokens_to_keep", 1) != 1:
            return None
        skipped = getattr(processor, "prompt_ignore_length", None)
        if skipped is not None and (not isinstance(skipped, torch.Tensor) or skipped.tolist() != padding):
            return None
        name, attribute = SETTINGS[type(processor)]
        value = getattr(processor, attribute)
        settings[name] = value.item() if isinstance(value, torch.Tensor) else value
    return settings
