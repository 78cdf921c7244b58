"""Llama, and with it what calls itself Llama (SmolLM, SmolLM2, ...): the form that the families beside it vary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from farspan._errors import ArgumentError, message
from farspan.model.families import rope
from farspan.model.families.family import (
    DTYPE,
    END_TOKENS,
    WITHOUT_EFFECT,
    Family,
    Fields,
    Names,
    Settings,
    dtype_of,
)
from farspan.model.kinds import (
    FLAG,
    HEADS,
    LAYERS,
    LENGTH,
    TOKEN,
    VOCABULARY,
    WIDTH,
    Setting,
    number,
    one_of,
    optional,
    read,
)
from farspan.positions import NoPE, Scheme

# The activations' names in config.json, and ours where they differ.
ACTIVATIONS = {
    "silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu_pytorch_tanh", "gelu_new": "gelu_pytorch_tanh",
    "gelu_fast": "gelu_pytorch_tanh", "gelu": "gelu", "gelu_python": "gelu", "relu": "relu",
}  # fmt: skip


class Llama(Family):
    """Grouped attention, gated MLP, RMS norms, one rotation for all layers."""

    model_type = "llama"
    architectures: ClassVar[tuple[str, ...]] = ("LlamaForCausalLM",)
    keys: ClassVar[Mapping[str, Setting]] = {
        "vocab_size": Setting(VOCABULARY),
        "hidden_size": Setting(WIDTH),
        "intermediate_size": Setting(WIDTH),
        "num_hidden_layers": Setting(LAYERS),
        "num_attention_heads": Setting(HEADS),
        "num_key_value_heads": Setting(optional(HEADS), None),
        "head_dim": Setting(optional(HEADS), None),
        "max_position_embeddings": Setting(LENGTH, 2048),
        "rms_norm_eps": Setting(number(least=0, most=1), 1e-6),
        "hidden_act": Setting(one_of(*ACTIVATIONS), "silu"),
        "attention_bias": Setting(FLAG, False),
        "mlp_bias": Setting(FLAG, False),
        "tie_word_embeddings": Setting(FLAG, False),
        "bos_token_id": Setting(optional(TOKEN), 1),
        "eos_token_id": Setting(END_TOKENS, (2,)),
        "dtype": Setting(DTYPE, None),
        "torch_dtype": Setting(DTYPE, None),
        **rope.KEYS,
        **WITHOUT_EFFECT,
    }
    names = Names(
        embedding="model.embed_tokens.weight",
        norm="model.norm",
        head="lm_head.weight",
        layer="model.layers.{}.",
        modules={
            "attention_norm": ("input_layernorm",),
            "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            "attention.q_norm": ("self_attn.q_norm",),
            "attention.k_norm": ("self_attn.k_norm",),
            "attention.out": ("self_attn.o_proj",),
            "mlp_norm": ("post_attention_layernorm",),
            "mlp.up": ("mlp.gate_proj", "mlp.up_proj"),
            "mlp.down": ("mlp.down_proj",),
        },
        angles=("model.layers.{}.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq"),
    )
    rope_theta: ClassVar[float] = rope.DEFAULT_BASE
    fixed: ClassVar[Mapping[str, Any]] = {}
    """Fields of `Config` that are the same in every model of the family."""
    spelling: ClassVar[Mapping[str, str]] = {}
    """The family's own names of settings that others have under the names here."""

    def biases(self, given: Settings) -> tuple[bool, bool]:
        """Whether queries, keys and values have a bias, and whether the attention's output has one."""
        return given["attention_bias"], given["attention_bias"]

    def windows(self, given: Settings) -> tuple[int | None, ...]:
        """How many keys each layer sees, None for all."""
        return (None,) * given["num_hidden_layers"]

    def window_settings(self, windows: tuple[int | None, ...]) -> Settings | None:
        """The settings that give these windows; None where none do."""
        return None if any(windows) else {}

    def rotates(self, given: Settings) -> tuple[bool, ...]:
        """Which layers have a rotation."""
        return (True,) * given["num_hidden_layers"]

    def rotation_settings(self, positions: tuple[Scheme, ...]) -> Settings:
        """The settings that say so."""
        return {}

    def positions(self, given: Settings, dim: int) -> tuple[Scheme, ...]:
        """The scheme of each layer; `dim` is the width of a head."""
        rotation = rope.read_rope(
            given, theta=self.rope_theta, longest=given["max_position_embeddings"], head_dim=dim,
        )  # fmt: skip
        return tuple(rotation if has else NoPE() for has in self.rotates(given))

    def position_settings(self, fields: Fields) -> Settings | None:
        """The settings that give the schemes and windows of these fields; None where none do."""
        rotation = next((scheme for scheme in fields["positions"] if not isinstance(scheme, NoPE)), None)
        turning = None if rotation is None else rope.written(rotation)
        windows = self.window_settings(fields["windows"])
        if turning is None or windows is None:
            return None
        return {**turning, **windows, **self.rotation_settings(fields["positions"])}

    def more_fields(self, given: Settings) -> Fields:
        """What else the settings say."""
        return {}

    def more_settings(self, fields: Fields) -> Settings:
        """The settings that say it."""
        return {}

    def fields(self, settings: Settings) -> Fields:
        ours = {theirs: name for name, theirs in self.spelling.items()}
        given = {ours.get(name, name): value for name, value in read(self.keys, settings).items()}
        heads = given["num_attention_heads"]
        if given.get("head_dim") is None and given["hidden_size"] % heads:
            expected = f"a multiple of num_attention_heads, {heads}, where head_dim is not given"
            name = self.spelling.get("hidden_size", "hidden_size")
            raise ArgumentError(message(name, expected, given["hidden_size"]))
        dim = given.get("head_dim") or given["hidden_size"] // heads
        stacked, output = self.biases(given)
        fields = {
            "vocab_size": given["vocab_size"],
            "hidden_size": given["hidden_size"],
            "intermediate_size": given["intermediate_size"],
            "num_hidden_layers": given["num_hidden_layers"],
            "num_attention_heads": heads,
            "num_key_value_heads": given.get("num_key_value_heads") or heads,
            "head_dim": dim,
            "max_position_embeddings": given["max_position_embeddings"],
            "norm_eps": given["rms_norm_eps"],
            "hidden_act": ACTIVATIONS[given["hidden_act"]],
            "attention_bias": stacked,
            "attention_output_bias": output,
            "mlp_bias": given.get("mlp_bias", False),
            "tie_word_embeddings": given["tie_word_embeddings"],
            "windows": self.windows(given),
            "positions": self.positions(given, dim),
            "bos_token_id": given["bos_token_id"],
            "eos_token_ids": given["eos_token_id"],
            "dtype": dtype_of(given),
        }
        return {**fields, **self.fixed, **self.more_fields(given)}

    def settings(self, fields: Fields) -> dict[str, Any] | None:
        turning = self.position_settings(fields)
        if turning is None:
            return None
        ends = fields["eos_token_ids"]
        settings = {
            "vocab_size": fields["vocab_size"],
            "hidden_size": fields["hidden_size"],
            "intermediate_size": fields["intermediate_size"],
            "num_hidden_layers": fields["num_hidden_layers"],
            "num_attention_heads": fields["num_attention_heads"],
            "num_key_value_heads": fields["num_key_value_heads"],
            "head_dim": fields["head_dim"],
            "max_position_embeddings": fields["max_position_embeddings"],
            "rms_norm_eps": fields["norm_eps"],
            "hidden_act": fields["hidden_act"],
            "attention_bias": fields["attention_output_bias"],
            "mlp_bias": fields["mlp_bias"],
            "tie_word_embeddings": fields["tie_word_embeddings"],
            **turning,
            "bos_token_id": fields["bos_token_id"],
            "pad_token_id": None,
            "eos_token_id": ends[0] if len(ends) == 1 else list(ends) or None,
            "dtype": fields["dtype"],
            "torch_dtype": fields["dtype"],
            **self.more_settings(fields),
        }
        spelled = {self.spelling.get(name, name): value for name, value in settings.items()}
        known = {name: value for name, value in spelled.items() if name in self.keys}
        return {"architectures": [self.architectures[0]], "model_type": self.model_type, **known}


def without(keys: Mapping[str, Setting], *names: str) -> dict[str, Setting]:
    """A family's keys less those that another one does not have."""
    return {name: setting for name, setting in keys.items() if name not in names}
