"""What llama.cpp's architectures mean: the settings of a file as those of a `config.json`, and the names of tensors.

Everything behind that is the families' own: a model that came from a GGUF file is saved and measured like any other. A
new architecture is one entry of `ARCHITECTURES`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from farspan._errors import ArgumentError, CheckpointError, message
from farspan.model.families.family import Names
from farspan.model.families.gpt2 import GPT2
from farspan.model.gguf.container import Contents
from farspan.model.gguf.rotation import ROTATION, rotation
from farspan.model.gguf.weights import GgufTensor
from farspan.model.kinds import (
    FACTOR,
    HEADS,
    LAYERS,
    LENGTH,
    MULTIPLIER,
    TEXT,
    VOCABULARY,
    WIDTH,
    Setting,
    count,
    number,
    one_of,
    optional,
    read,
    shown,
)

Given = Mapping[str, Any]
Tensors = Mapping[str, GgufTensor]
EPSILON = number(least=0, most=1)
ZERO_OR = count(2**53, least=0)

SIZES = {
    "context_length": Setting(LENGTH),
    "embedding_length": Setting(WIDTH),
    "block_count": Setting(LAYERS),
    "feed_forward_length": Setting(WIDTH),
    "attention.head_count": Setting(HEADS),
    "attention.head_count_kv": Setting(optional(HEADS), None),
    "attention.key_length": Setting(optional(HEADS), None),
    "attention.value_length": Setting(optional(HEADS), None),
    "vocab_size": Setting(optional(VOCABULARY), None),
    "attention.causal": Setting(one_of(True), True),
    "expert_count": Setting(one_of(0), 0),
    "expert_used_count": Setting(ZERO_OR, 0),
    "tensor_data_layout": Setting(TEXT, ""),
    **ROTATION,
}
"""The settings of every architecture, behind its name and a dot. A file with another one is not read: what it says
would be left out."""
RMS = {"attention.layer_norm_rms_epsilon": Setting(EPSILON)}


@dataclasses.dataclass(frozen=True)
class Architecture:
    """How one of them is read."""

    model_type: str
    """the family's"""
    names: Names
    keys: Mapping[str, Setting]
    more: Callable[[Given, Tensors], dict[str, Any]] = lambda given, tensors: {}
    """further settings of the family's `config.json`"""
    turned: bool = False
    """Whether rows of queries and keys lie as llama.cpp's rotation of neighbours wants them"""
    partial: bool = False
    """Whether a part of each head may turn"""
    spelling: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """the family's own names of settings"""


def names(modules: dict[str, tuple[str, ...]], places: str = "") -> Names:
    return Names(
        embedding="token_embd.weight", norm="output_norm", head="output.weight", layer="blk.{}.", places=places,
        modules=modules,
    )  # fmt: skip


PLAIN: dict[str, tuple[str, ...]] = {
    "attention_norm": ("attn_norm",),
    "attention.qkv": ("attn_q", "attn_k", "attn_v"),
    "attention.q_norm": ("attn_q_norm",),
    "attention.k_norm": ("attn_k_norm",),
    "attention.out": ("attn_output",),
    "mlp_norm": ("ffn_norm",),
    "mlp.up": ("ffn_gate", "ffn_up"),
    "mlp.down": ("ffn_down",),
}
BEHIND = {"attention_post_norm": ("post_attention_norm",), "mlp_post_norm": ("post_ffw_norm",)}
FUSED = {"attention.qkv": ("attn_qkv",), "mlp.up": ("ffn_up",)}


def _biases(given: Given, tensors: Tensors) -> dict[str, Any]:
    """A file says that there are biases by having them."""
    return {"attention_bias": "blk.0.attn_q.bias" in tensors, "mlp_bias": "blk.0.ffn_up.bias" in tensors}


def _granite(given: Given, tensors: Tensors) -> dict[str, Any]:
    heads = given["attention.head_count"]
    width = given["attention.key_length"] or given["embedding_length"] // heads
    if given["rope.scaling.finetuned"] is False:
        expected = "true: farspan reads Granite with a rotation"
        raise ArgumentError(message("granite.rope.scaling.finetuned", expected, False))
    return {
        **_biases(given, tensors),
        "attention_multiplier": given["attention.scale"] or width**-0.5,  # 0 stands for the usual one
        "embedding_multiplier": given["embedding_scale"] or 1.0,
        "residual_multiplier": given["residual_scale"] or 1.0,
        "logits_scaling": given["logit_scale"],
    }


LAYERS_OF_GEMMA_27B = 62


def _gemma3(given: Given, tensors: Tensors) -> dict[str, Any]:
    """llama.cpp knows by the number of layers how queries are scaled."""
    heads, layers = given["attention.head_count"], given["block_count"]
    width = given["attention.key_length"] or given["embedding_length"] // heads
    full = {"rope_theta": given["rope.freq_base"], **(rotation(given, tensors, width) or {})}
    return {
        "query_pre_attn_scalar": given["embedding_length"] // heads if layers == LAYERS_OF_GEMMA_27B else width,
        "sliding_window": given["attention.sliding_window"],
        "sliding_window_pattern": given["attention.sliding_window_pattern"],
        "final_logit_softcapping": given["final_logit_softcapping"],
        "rope_theta": None,
        "rope_scaling": None,
        "rope_parameters": {
            "full_attention": {"rope_type": "default", **full},
            "sliding_attention": {"rope_type": "default", "rope_theta": given["rope.freq_base_swa"]},
        },
    }


def _phi3(given: Given, tensors: Tensors) -> dict[str, Any]:
    width = given["attention.key_length"] or given["embedding_length"] // given["attention.head_count"]
    return {
        "sliding_window": given["attention.sliding_window"] or None,
        "original_max_position_embeddings": given["rope.scaling.original_context_length"] or given["context_length"],
        "partial_rotary_factor": (given["rope.dimension_count"] or width) / width,
    }


def _gpt2(given: Given, tensors: Tensors) -> dict[str, Any]:
    return {"rms_norm_eps": given["attention.layer_norm_epsilon"]}


MULTIPLIERS = {
    "attention.scale": Setting(number(least=0, most=1e9), 0.0),
    "embedding_scale": Setting(MULTIPLIER, 0.0),
    "residual_scale": Setting(MULTIPLIER, 0.0),
    "logit_scale": Setting(FACTOR),
}
GEMMA = {
    "attention.sliding_window": Setting(count(2**53)),
    "attention.sliding_window_pattern": Setting(count(2**53), 6),
    "final_logit_softcapping": Setting(optional(FACTOR), None),
    "rope.freq_base": Setting(number(least=1, most=1e30), 1_000_000.0),
    "rope.freq_base_swa": Setting(number(least=1, most=1e30), 10_000.0),
}

ARCHITECTURES = {
    "llama": Architecture("llama", names(PLAIN), {**SIZES, **RMS}, _biases, turned=True),
    "qwen2": Architecture("qwen2", names(PLAIN), {**SIZES, **RMS}),
    "qwen3": Architecture("qwen3", names(PLAIN), {**SIZES, **RMS}, _biases),
    "gemma3": Architecture("gemma3_text", names({**PLAIN, **BEHIND}), {**SIZES, **RMS, **GEMMA}, _gemma3),
    "phi3": Architecture(
        "phi3", names({**PLAIN, **FUSED}), {**SIZES, **RMS, "attention.sliding_window": Setting(ZERO_OR, 0)}, _phi3,
        partial=True,
    ),
    "gpt2": Architecture(
        "gpt2", names({**PLAIN, **FUSED}, "position_embd.weight"),
        {**SIZES, "attention.layer_norm_epsilon": Setting(EPSILON)}, _gpt2,
        spelling=GPT2.spelling,
    ),
    "olmo2": Architecture(
        "olmo2", names({**{name: PLAIN[name] for name in PLAIN if not name.endswith("p_norm")}, **BEHIND}),
        {**SIZES, **RMS},
    ),
    "granite": Architecture("granite", names(PLAIN), {**SIZES, **RMS, **MULTIPLIERS}, _granite, turned=True),
}  # fmt: skip
"""By `general.architecture`."""


def described(contents: Contents) -> tuple[Architecture, dict[str, Any]]:
    """The architecture of a file, and its settings as a `config.json` has them. CheckpointError: what is none of these,
    by its name in the file."""
    try:
        return _described(contents.settings, contents.tensors)
    except ArgumentError as error:
        raise CheckpointError(f"{contents.path}: {error}") from error


def _described(settings: Mapping[str, Any], tensors: Tensors) -> tuple[Architecture, dict[str, Any]]:
    name = settings.get("general.architecture")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise ArgumentError(message("general.architecture", f"one of {', '.join(ARCHITECTURES)}", shown(name)))
    architecture = ARCHITECTURES[name]
    own = {key.removeprefix(f"{name}."): value for key, value in settings.items() if key.startswith(f"{name}.")}
    given = read(architecture.keys, own, f"{name}.")
    unknown = [key for key in own if key not in architecture.keys]
    if unknown:
        expected = f"a setting of {name} that farspan knows"
        raise ArgumentError(message(f"{name}.{unknown[0]}", expected, shown(own[unknown[0]])))
    config = _config(name, architecture, given, settings, tensors)
    return architecture, {architecture.spelling.get(key, key): value for key, value in config.items()}


def _config(
    name: str, architecture: Architecture, given: Given, settings: Mapping[str, Any], tensors: Tensors
) -> dict[str, Any]:
    heads, width = given["attention.head_count"], given["attention.key_length"]
    if width is None:
        if given["embedding_length"] % heads:
            expected = f"a multiple of {heads}, the heads, where {name}.attention.key_length is not given"
            raise ArgumentError(message(f"{name}.embedding_length", expected, given["embedding_length"]))
        width = given["embedding_length"] // heads
    for key in ("attention.value_length", *(() if architecture.partial else ("rope.dimension_count",))):
        if given[key] not in (None, width):
            raise ArgumentError(message(f"{name}.{key}", f"the width of a head, {width}", given[key]))
    return {
        "model_type": architecture.model_type,
        "vocab_size": given["vocab_size"] or _rows("token_embd.weight", tensors),
        "hidden_size": given["embedding_length"],
        "intermediate_size": given["feed_forward_length"],
        "num_hidden_layers": given["block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": given["attention.head_count_kv"] or heads,
        "head_dim": width,
        "max_position_embeddings": given["context_length"],
        "rms_norm_eps": given.get("attention.layer_norm_rms_epsilon"),
        "tie_word_embeddings": "output.weight" not in tensors,
        "rope_theta": given["rope.freq_base"],
        "rope_scaling": rotation(given, tensors, given["rope.dimension_count"] or width),
        "torch_dtype": "bfloat16",
        **_ends(settings),
        **architecture.more(given, tensors),
    }  # fmt: skip


def _rows(name: str, tensors: Tensors) -> int:
    if name not in tensors:
        raise ArgumentError(message("weights", f"a tensor {name}", "none"))
    return tensors[name].shape[0]


def _ends(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The tokens that begin and end a text: the end of a turn and of a message end one too."""
    names = ("eos_token_id", "eot_token_id", "eom_token_id")
    ends = [settings[f"tokenizer.ggml.{name}"] for name in names if f"tokenizer.ggml.{name}" in settings]
    return {"bos_token_id": settings.get("tokenizer.ggml.bos_token_id"), "eos_token_id": list(dict.fromkeys(ends))}
