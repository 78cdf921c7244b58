"""Hugging Face's `config.json` of the families that are this decoder: Llama, Mistral, Qwen2, Qwen3, SmolLM3.

(SmolLM and SmolLM2 call themselves Llama.) The tensors carry the same names in all of them: see `checkpoint`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from farspan._errors import ArgumentError, CheckpointError, message
from farspan.positions import (
    DynamicNTK,
    LinearInterpolation,
    Llama3,
    LongRoPE,
    NoPE,
    RoPE,
    Scheme,
    YaRN,
)  # fmt: skip
from farspan.positions.frequencies import DEFAULT_BASE, yarn_attention_factor

Settings = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Family:
    """What a family's configuration class assumes where `config.json` is silent, and what it fixes."""

    architecture: str
    key_value_heads: int | None = None
    head_dim: int | None = None
    eos_token_id: int | None = None
    bos_token_id: int | None = None
    rope_theta: float = DEFAULT_BASE
    tie_word_embeddings: bool = False
    qk_norm: bool = False
    query_bias: bool | None = None
    """Whether queries, keys and values have a bias; None: as `attention_bias` says, of the output too."""
    windows: str = "none"
    """"none", "all" layers, or the layers that `layer_types` names."""


FAMILIES = {
    "llama": Family("LlamaForCausalLM", bos_token_id=1, eos_token_id=2),
    "mistral": Family("MistralForCausalLM", 8, query_bias=False, bos_token_id=1, eos_token_id=2, windows="all"),
    "qwen2": Family("Qwen2ForCausalLM", 32, query_bias=True, windows="layer_types"),
    "qwen3": Family("Qwen3ForCausalLM", 32, head_dim=128, qk_norm=True, windows="layer_types"),
    "smollm3": Family(
        "SmolLM3ForCausalLM",
        4,
        bos_token_id=128000,
        eos_token_id=128001,
        rope_theta=2000000.0,
        tie_word_embeddings=True,
        windows="layer_types",
    ),
}

# The activations' names in config.json, and ours where they differ.
ACTIVATIONS = {"gelu_new": "gelu_pytorch_tanh", "swish": "silu"}


# ------------------------------------------------------------------------------------------------------------- reading


def read_config(settings: Settings) -> dict[str, Any]:
    """The arguments of `Config` that a family's `config.json` means. CheckpointError for what farspan does not know."""
    family = _family(settings)
    layers = _required(settings, "num_hidden_layers")
    heads = _required(settings, "num_attention_heads")
    bias = bool(settings.get("attention_bias", False))
    act = str(settings.get("hidden_act", "silu"))
    eos = settings.get("eos_token_id", family.eos_token_id)
    dtype = settings.get("dtype", settings.get("torch_dtype"))
    return dict(
        vocab_size=_required(settings, "vocab_size"),
        hidden_size=_required(settings, "hidden_size"),
        intermediate_size=_required(settings, "intermediate_size"),
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=settings.get("num_key_value_heads", family.key_value_heads) or heads,
        head_dim=settings.get("head_dim", family.head_dim),
        max_position_embeddings=settings.get("max_position_embeddings", 2048),
        norm="rms",
        norm_eps=settings.get("rms_norm_eps", 1e-6),
        hidden_act=ACTIVATIONS.get(act, act),
        gated_mlp=True,
        qk_norm=family.qk_norm,
        attention_bias=bias if family.query_bias is None else family.query_bias,
        attention_output_bias=bias and family.query_bias is None,
        mlp_bias=bool(settings.get("mlp_bias", False)),
        tie_word_embeddings=settings.get("tie_word_embeddings", family.tie_word_embeddings),
        windows=_windows(settings, family, layers),
        positions=_positions(settings, family, layers),
        bos_token_id=settings.get("bos_token_id", family.bos_token_id),
        eos_token_ids=tuple(eos) if isinstance(eos, list) else () if eos is None else (eos,),
        dtype="float32" if dtype is None else str(dtype).removeprefix("torch."),
    )


def _family(settings: Settings) -> Family:
    kind = settings.get("model_type")
    if kind not in FAMILIES:
        named = " ".join(str(x) for x in (kind, *(settings.get("architectures") or ())) if x)
        raise CheckpointError(message("model_type", f"one of {', '.join(FAMILIES)}", named or "none"))
    family = FAMILIES[kind]
    architectures = settings.get("architectures")
    if architectures and family.architecture not in architectures:
        raise CheckpointError(message("architectures", family.architecture, ", ".join(map(str, architectures))))
    return family


def _required(settings: Settings, name: str) -> Any:
    if name not in settings:
        raise CheckpointError(f"config.json lacks {name}")
    return settings[name]


def _windows(settings: Settings, family: Family, layers: int) -> tuple[int | None, ...]:
    if family.windows == "all":
        return (settings.get("sliding_window", 4096),) * layers
    if family.windows == "none" or not settings.get("use_sliding_window", False):
        return (None,) * layers
    window = settings.get("sliding_window", 4096)
    kinds = settings.get("layer_types")
    if kinds is None:
        first = settings.get("max_window_layers", 28)
        kinds = ["sliding_attention" if layer >= first else "full_attention" for layer in range(layers)]
    unknown = set(kinds) - {"sliding_attention", "full_attention"}
    if unknown or len(kinds) != layers:
        raise CheckpointError(message("layer_types", f"{layers} of sliding_attention, full_attention", kinds))
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def _positions(settings: Settings, family: Family, layers: int) -> tuple[Scheme, ...]:
    rotary = read_rope(settings, family.rope_theta)
    if family is not FAMILIES["smollm3"]:
        return (rotary,) * layers
    has_rope = settings.get("no_rope_layers")  # 1 where there is a rotation, whatever the name suggests
    if has_rope is None:
        interval = settings.get("no_rope_layer_interval", 4)
        has_rope = [(layer + 1) % interval != 0 for layer in range(layers)]
    if len(has_rope) != layers:
        raise CheckpointError(message("no_rope_layers", f"{layers} entries", f"{len(has_rope)} entries"))
    return tuple(rotary if has else NoPE() for has in has_rope)


def read_rope(settings: Settings, default_theta: float = DEFAULT_BASE) -> Scheme:
    """The scheme of `rope_parameters`, or of `rope_scaling` and `rope_theta`, as it was before transformers 5."""
    rope = settings.get("rope_scaling") or settings.get("rope_parameters") or {}
    if not isinstance(rope, dict) or any(isinstance(value, dict) for value in rope.values()):
        raise CheckpointError(message("rope_parameters", "one flat object of settings", repr(rope)))
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind not in ROPE_TYPES:
        raise CheckpointError(message("rope_type", f"one of {', '.join(ROPE_TYPES)}", repr(kind)))
    for place in (settings, rope):
        if place.get("partial_rotary_factor") not in (None, 1, 1.0):
            raise CheckpointError(message("partial_rotary_factor", "1", place["partial_rotary_factor"]))
    theta = float(rope.get("rope_theta") or settings.get("rope_theta") or default_theta)
    longest = settings.get("max_position_embeddings", 2048)
    name = "original_max_position_embeddings"
    original = settings.get(name) or rope.get(name) or longest
    try:
        return ROPE_TYPES[kind](_Rope(rope), theta, longest, original)
    except ArgumentError as error:
        raise CheckpointError(f"rope type {kind}: {error}") from error


class _Rope(dict[str, Any]):
    """The rope settings; a missing one is an error that names it."""

    def __missing__(self, name: str) -> Any:
        raise ArgumentError(message(name, "a value", "none"))


def _yarn(rope: _Rope, theta: float, longest: int, original: int) -> YaRN:
    factor = rope["factor"] or longest / original
    attention = rope.get("attention_factor")
    own, all_dims = rope.get("mscale"), rope.get("mscale_all_dim")
    if attention is None and own and all_dims:
        attention = yarn_attention_factor(factor, own) / yarn_attention_factor(factor, all_dims)
    return YaRN(
        factor, original, beta_fast=rope.get("beta_fast") or 32, beta_slow=rope.get("beta_slow") or 1,
        attention_factor=attention, truncate=rope.get("truncate", True), base=theta,
    )  # fmt: skip


def _longrope(rope: _Rope, theta: float, longest: int, original: int) -> LongRoPE:
    factor = rope.get("factor")
    reach = longest if factor is None else factor * original
    return LongRoPE(
        rope["short_factor"], rope["long_factor"], original, reach, attention_factor=rope.get("attention_factor"),
        base=theta,
    )  # fmt: skip


ROPE_TYPES: dict[str, Callable[[_Rope, float, int, int], Scheme]] = {
    "default": lambda rope, theta, longest, original: RoPE(theta),
    "linear": lambda rope, theta, longest, original: LinearInterpolation(rope["factor"], base=theta),
    "dynamic": lambda rope, theta, longest, original: DynamicNTK(rope["factor"], longest, base=theta),
    "yarn": _yarn,
    "llama3": lambda rope, theta, longest, original: Llama3(
        rope["factor"], rope["low_freq_factor"], rope["high_freq_factor"], original, base=theta
    ),
    "longrope": _longrope,
}


# ------------------------------------------------------------------------------------------------------------- writing


def write_config(config: Any) -> dict[str, Any] | None:
    """A `config.json` that its reader turns back into exactly this `Config`, or None where no family can say it."""
    for kind in FAMILIES:
        settings = _written(config, kind)
        try:
            if settings is not None and type(config)(**read_config(settings)) == config:
                return settings
        except (ArgumentError, CheckpointError):
            continue
    return None


def _written(config: Any, kind: str) -> dict[str, Any] | None:
    family = FAMILIES[kind]
    rotary = next((scheme for scheme in config.positions if not isinstance(scheme, NoPE)), None)
    rope = None if rotary is None else _write_rope(rotary)
    if rope is None:
        return None
    eos = config.eos_token_ids
    settings: dict[str, Any] = {
        "architectures": [family.architecture],
        "model_type": kind,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.norm_eps,
        "hidden_act": config.hidden_act,
        "attention_bias": config.attention_output_bias,
        "mlp_bias": config.mlp_bias,
        "tie_word_embeddings": config.tie_word_embeddings,
        "rope_theta": getattr(rotary, "base", DEFAULT_BASE),
        "rope_parameters": rope,
        "bos_token_id": config.bos_token_id,
        "pad_token_id": None,
        "eos_token_id": eos[0] if len(eos) == 1 else list(eos) or None,
        "dtype": config.dtype,
        "torch_dtype": config.dtype,
    }
    window = next((w for w in config.windows if w is not None), None)
    if family.windows != "none":
        settings["sliding_window"] = window
    if family.windows == "layer_types":
        settings["use_sliding_window"] = window is not None
        settings["layer_types"] = ["full_attention" if w is None else "sliding_attention" for w in config.windows]
    if kind == "smollm3":
        settings["no_rope_layers"] = [int(not isinstance(scheme, NoPE)) for scheme in config.positions]
    return settings


def _write_rope(scheme: Scheme) -> dict[str, Any] | None:
    given: dict[str, Any] | None = None
    if isinstance(scheme, RoPE):
        given = {"rope_type": "default"}
    elif isinstance(scheme, LinearInterpolation):
        given = {"rope_type": "linear", "factor": scheme.factor}
    elif isinstance(scheme, DynamicNTK):
        given = {"rope_type": "dynamic", "factor": scheme.factor}
    elif isinstance(scheme, YaRN):
        given = {"rope_type": "yarn"} | _settings(
            scheme, "factor", "beta_fast", "beta_slow", "attention_factor", "truncate"
        )
    elif isinstance(scheme, Llama3):
        given = {"rope_type": "llama3"} | _settings(scheme, "factor", "low_freq_factor", "high_freq_factor")
    elif isinstance(scheme, LongRoPE):
        given = {"rope_type": "longrope", "factor": scheme.max_length / scheme.original_length,
                 "short_factor": list(scheme.short_factor), "long_factor": list(scheme.long_factor),
                 "attention_factor": scheme.attention_factor}  # fmt: skip
    if given is None:
        return None
    if isinstance(scheme, (YaRN, Llama3, LongRoPE)):
        given["original_max_position_embeddings"] = scheme.original_length
    return given | {"rope_theta": getattr(scheme, "base", None)}


def _settings(scheme: Scheme, *names: str) -> dict[str, Any]:
    return {name: getattr(scheme, name) for name in names}
