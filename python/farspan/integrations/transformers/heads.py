"""The linear layer that a model's logits come from, and what happens to them behind it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

PLAIN = (
    "GPT2LMHeadModel", "GPTNeoXForCausalLM", "GemmaForCausalLM", "GptOssForCausalLM", "LlamaForCausalLM",
    "Ministral3ForCausalLM", "MistralForCausalLM", "Olmo2ForCausalLM", "Olmo3ForCausalLM", "Phi3ForCausalLM",
    "Qwen2ForCausalLM", "Qwen3ForCausalLM", "Qwen3MoeForCausalLM", "SmolLM3ForCausalLM",
)  # fmt: skip
CAPPED = ("Gemma2ForCausalLM", "Gemma3ForCausalLM")
SCALED = ("GraniteForCausalLM", "GraniteMoeHybridForCausalLM")

BEHIND: dict[str, Callable[[Any], dict[str, Any]]] = {
    **dict.fromkeys(PLAIN, lambda config: {}),
    **dict.fromkeys(CAPPED, lambda config: {"softcap": config.final_logit_softcapping}),
    **dict.fromkeys(SCALED, lambda config: {"scale": 1.0 / config.logits_scaling}),
}
"""Classes of transformers whose logits are known, by name, and the settings of `farspan.sample` that give them."""


def head_of(model: Any) -> dict[str, Any] | None:
    """`weight`, `bias`, `scale` and `softcap` as `farspan.sample` takes them. None where only the model's own forward
    pass gives the logits: an unknown class, or a head that is no plain linear layer (quantised, with a LoRA)."""
    kind, head = type(model), model.get_output_embeddings()
    known = kind.__module__.startswith("transformers.models.") and kind.__name__ in BEHIND
    if not known or type(head) is not torch.nn.Linear or hasattr(head, "_hf_hook"):
        return None
    bias = None if head.bias is None else head.bias.float()
    return {"weight": head.weight, "bias": bias, **BEHIND[kind.__name__](model.config)}
