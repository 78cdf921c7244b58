"""The shape of a transformer, read from and written to Hugging Face's `config.json`."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any, NamedTuple

from farspan._errors import ArgumentError, CheckpointError, message
from farspan.model import families
from farspan.model.families import OWN_MODEL_TYPE
from farspan.model.families.family import DTYPES
from farspan.model.gguf.architectures import described
from farspan.model.gguf.container import open_file
from farspan.model.kinds import (
    FACTOR,
    FLAG,
    HEADS,
    LAYERS,
    LENGTH,
    MULTIPLIER,
    POSITIVE,
    TEXT,
    TOKEN,
    VOCABULARY,
    WIDTH,
    Kind,
    count,
    list_of,
    number,
    one_of,
    optional,
)
from farspan.model.location import located
from farspan.model.settings import read_settings
from farspan.positions import RoPE, Scheme, scheme_from_dict
from farspan.positions.frequencies import DEFAULT_BASE

ACTIVATIONS = ("silu", "gelu_pytorch_tanh", "gelu", "relu", "clamped_swiglu")
NORMS = ("rms", "layer")
PLACES = ("before", "after", "both")
WIDTHS = ("head", "all")
WIDEST_HEAD = 256

KINDS: dict[str, Kind] = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": optional(HEADS),
    "head_dim": optional(HEADS),
    "max_position_embeddings": LENGTH,
    "causal": FLAG,
    "norm": one_of(*NORMS),
    "norm_eps": number(least=0, most=1),
    "norm_place": one_of(*PLACES),
    "norm_adds_one": FLAG,
    "parallel_residual": FLAG,
    "hidden_act": one_of(*ACTIVATIONS),
    "swiglu_alpha": FACTOR,
    "swiglu_limit": FACTOR,
    "gated_mlp": FLAG,
    "qk_norm": FLAG,
    "qk_norm_width": one_of(*WIDTHS),
    "attention_bias": FLAG,
    "attention_output_bias": FLAG,
    "attention_sinks": FLAG,
    "attention_multiplier": optional(FACTOR),
    "scale_attn_by_inverse_layer_idx": FLAG,
    "attn_logit_softcapping": optional(FACTOR),
    "query_scale_beta": optional(MULTIPLIER),
    "query_scale_length": LENGTH,
    "mlp_bias": FLAG,
    "num_experts": count(2**16, least=0),
    "num_experts_per_tok": count(2**16),
    "moe_intermediate_size": optional(WIDTH),
    "norm_topk_prob": FLAG,
    "expert_bias": FLAG,
    "embedding_multiplier": MULTIPLIER,
    "residual_multiplier": MULTIPLIER,
    "logits_scaling": FACTOR,
    "final_logit_softcapping": optional(FACTOR),
    "tie_word_embeddings": FLAG,
    "learned_positions": FLAG,
    "partial_rotary_factor": number(above=0, most=1),
    "rope_theta": optional(POSITIVE),
    "bos_token_id": optional(TOKEN),
    "eos_token_ids": list_of(TOKEN),
    "dtype": one_of(*DTYPES),
    "family": optional(TEXT),
}
"""What each field of a `Config` may be. Those with an entry per layer are in `PER_LAYER`."""

PER_LAYER: dict[str, Kind] = {
    "windows": optional(count(2**53)),
    "positions": Kind("a position scheme of farspan.positions", lambda x: isinstance(x, Scheme)),
    "rope_bases": optional(POSITIVE),
    "expert_layers": FLAG,
}


class AttentionKind(NamedTuple):
    """What the attention of a layer is beside its weights."""

    scheme: Scheme
    window: int | None
    scale: float | None
    """The factor of the scores; None: one over the root of a head's width."""


@dataclasses.dataclass(frozen=True)
class Config:
    """A decoder. Names are those of Hugging Face where it has one.

    `windows` and `positions` have one entry per layer: how many last keys the layer sees (None: all), and its position
    scheme. A single window or scheme given for either stands for every layer. `rope_bases` are the bases of RoPE that
    the layers were trained with (None: such a layer does not rotate), also while other schemes are in place; None:
    those of the schemes. `rope_theta` is the first of them, and what schemes without a base of their own get.

    Without `causal` every token sees all tokens of its sequence, those behind it too. Such a model reads sequences as
    a whole: it has no cache and does not generate.

    Norms stand before attention and MLP, behind them, or both (`norm_place`); `norm_adds_one` says that their weights
    are stored as the gain less one. With `qk_norm` queries and keys are normalised head by head, or over the `"all"` of
    their width. `parallel_residual` feeds attention and MLP the same stream. The first `partial_rotary_factor` of each
    head turns. `learned_positions` adds a vector of its own to each of the first `max_position_embeddings` tokens.
    Scores are multiplied by `attention_multiplier`, queries from order `query_scale_length` on also by
    `1 + query_scale_beta * log(1 + order // query_scale_length)`. `expert_layers` have `num_experts` MLPs, of which a
    router picks `num_experts_per_tok` for each token; their shares sum to one with `norm_topk_prob`. `family` is the
    `model_type` that the config was read from: it is written as that one where that can say it.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    max_position_embeddings: int = 2048
    causal: bool = True
    norm: str = "rms"
    norm_eps: float = 1e-6
    norm_place: str = "before"
    norm_adds_one: bool = False
    parallel_residual: bool = False
    hidden_act: str = "silu"
    swiglu_alpha: float = 1.702
    swiglu_limit: float = 7.0
    gated_mlp: bool = True
    qk_norm: bool = False
    qk_norm_width: str = "head"
    attention_bias: bool = False
    attention_output_bias: bool = False
    attention_sinks: bool = False
    attention_multiplier: float | None = None
    scale_attn_by_inverse_layer_idx: bool = False
    attn_logit_softcapping: float | None = None
    query_scale_beta: float | None = None
    query_scale_length: int = 2048
    mlp_bias: bool = False
    num_experts: int = 0
    num_experts_per_tok: int = 1
    moe_intermediate_size: int | None = None
    norm_topk_prob: bool = True
    expert_bias: bool = False
    expert_layers: tuple[bool, ...] | None = None
    embedding_multiplier: float = 1.0
    residual_multiplier: float = 1.0
    logits_scaling: float = 1.0
    final_logit_softcapping: float | None = None
    tie_word_embeddings: bool = False
    learned_positions: bool = False
    partial_rotary_factor: float = 1.0
    windows: tuple[int | None, ...] = (None,)
    positions: tuple[Scheme, ...] = (RoPE(),)
    rope_theta: float | None = None
    rope_bases: tuple[float | None, ...] | None = None
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    dtype: str = "float32"
    family: str | None = dataclasses.field(default=None, repr=False, compare=False)
    attention_kinds: list[AttentionKind] = dataclasses.field(init=False, repr=False, compare=False)
    """The different kinds of the layers."""
    kind_of_layer: list[int] = dataclasses.field(init=False, repr=False, compare=False)
    """Which of them each layer has."""

    def __post_init__(self) -> None:
        settle = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731
        for name, kind in KINDS.items():
            settle(name, kind.check(name, getattr(self, name)))
        if self.num_key_value_heads is None:
            settle("num_key_value_heads", self.num_attention_heads)
        if self.num_attention_heads % self.kv_heads:
            expected = f"a divisor of num_attention_heads, {self.num_attention_heads}"
            raise ArgumentError(message("num_key_value_heads", expected, self.num_key_value_heads))
        if self.head_dim is None:
            if self.hidden_size % self.num_attention_heads:
                expected = f"a multiple of num_attention_heads, {self.num_attention_heads}, where head_dim is not given"
                raise ArgumentError(message("hidden_size", expected, self.hidden_size))
            settle("head_dim", self.hidden_size // self.num_attention_heads)
        settle("eos_token_ids", tuple(self.eos_token_ids))
        settle("windows", self._per_layer("windows"))
        settle("positions", self._per_layer("positions"))
        settle("rope_bases", self._trained_bases() if self.rope_bases is None else self._per_layer("rope_bases"))
        settle("rope_theta", next((base for base in self.rope_bases or () if base is not None), self.rope_theta))
        settle("positions", tuple(map(_based, self.positions, self.rope_bases or ())))
        if (self.rotary_dim % 2 or not self.rotary_dim) and any(scheme.rotates for scheme in self.positions):
            raise ArgumentError(self._odd_rotation())
        if not self.causal and any(window is not None for window in self.windows):
            raise ArgumentError(message("windows", "None where causal is False", self.windows))
        if any(w is not None and s.by_rows for w, s in zip(self.windows, self.positions, strict=True)):
            raise ArgumentError(message("windows", "None where a layer's scheme is FIRE", self.windows))
        widest = max(scheme.more_dims for scheme in self.positions)
        if widest and widest + self.dim_per_head > WIDEST_HEAD:
            expected = f"a scheme that adds at most {WIDEST_HEAD - self.dim_per_head} dims to a head"
            raise ArgumentError(message("positions", expected, f"{widest}"))
        if self.hidden_act == "clamped_swiglu" and not self.gated_mlp:
            raise ArgumentError(message("gated_mlp", "True with clamped_swiglu, which has a gate", self.gated_mlp))
        self._settle_experts()
        every = [
            AttentionKind(scheme, window, self._scale_of(layer, scheme))
            for layer, (scheme, window) in enumerate(zip(self.positions, self.windows, strict=True))
        ]
        kinds = list(dict.fromkeys(every))
        settle("attention_kinds", kinds)
        settle("kind_of_layer", [kinds.index(kind) for kind in every])

    def _odd_rotation(self) -> str:
        pairs = "an even number, since heads turn in pairs"
        if self.partial_rotary_factor == 1:
            return message("head_dim", pairs, self.head_dim)
        expected = f"a share of a head's {self.head_dim} dims that is {pairs}"
        return message("partial_rotary_factor", expected, f"{self.partial_rotary_factor}, {self.rotary_dim} dims")

    def _settle_experts(self) -> None:
        """Which layers have experts: all of them where there are any, unless the config says which."""
        if self.expert_layers is None:
            object.__setattr__(self, "expert_layers", (self.num_experts > 0,) * self.num_hidden_layers)
        else:
            object.__setattr__(self, "expert_layers", self._per_layer("expert_layers"))
        if not any(self.expert_layers or ()):
            return
        if not self.num_experts:
            raise ArgumentError(message("num_experts", "at least 1 where layers have experts", self.num_experts))
        if self.num_experts_per_tok > self.num_experts:
            expected = f"at most num_experts, {self.num_experts}"
            raise ArgumentError(message("num_experts_per_tok", expected, self.num_experts_per_tok))
        if self.moe_intermediate_size is None:
            object.__setattr__(self, "moe_intermediate_size", self.intermediate_size)

    def _scale_of(self, layer: int, scheme: Scheme) -> float | None:
        if not self.scale_attn_by_inverse_layer_idx:
            widened = scheme.more_dims and self.attention_multiplier is None
            return self.dim_per_head**-0.5 if widened else self.attention_multiplier
        scale = self.dim_per_head**-0.5 if self.attention_multiplier is None else self.attention_multiplier
        return scale / (layer + 1)

    def _per_layer(self, name: str) -> tuple[Any, ...]:
        value = getattr(self, name)
        entries = tuple(value) if isinstance(value, (tuple, list)) else (value,)
        if len(entries) == 1:
            entries *= self.num_hidden_layers
        if len(entries) != self.num_hidden_layers:
            expected = f"one entry, or one for each of the {self.num_hidden_layers} layers"
            raise ArgumentError(message(name, expected, f"{len(entries)} entries"))
        return tuple(PER_LAYER[name].check(name, entry) for entry in entries)

    def _trained_bases(self) -> tuple[float | None, ...]:
        """`rope_theta` for each layer that rotates, or where it is not given the layer's own base. A `rope_theta`
        beside schemes without any rotation says that every layer was trained with one."""
        if not any(scheme.rotates for scheme in self.positions):
            return (self.rope_theta,) * self.num_hidden_layers
        first = next((s.rope_base for s in self.positions if s.rope_base is not None), DEFAULT_BASE)

        def trained(scheme: Scheme) -> float | None:
            own = first if scheme.rope_base is None else scheme.rope_base
            return (self.rope_theta or own) if scheme.rotates else None

        return tuple(map(trained, self.positions))

    @property
    def kv_heads(self) -> int:
        """`num_key_value_heads`, settled."""
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def dim_per_head(self) -> int:
        """`head_dim`, settled."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def rotary_dim(self) -> int:
        """How many dims of a head turn: the first ones."""
        return int(self.dim_per_head * self.partial_rotary_factor)

    @property
    def longest(self) -> int | None:
        """How long a sequence may become; None: as long as it likes."""
        return self.max_position_embeddings if self.learned_positions else None

    @property
    def logit_settings(self) -> dict[str, Any]:
        """What `farspan.sample`, `score` and `top` have to know of the logits beside the unembedding."""
        settings = {} if self.logits_scaling == 1 else {"scale": 1 / self.logits_scaling}
        cap = self.final_logit_softcapping
        return settings if cap is None else settings | {"softcap": cap}

    @property
    def rotating_layers(self) -> tuple[int, ...]:
        """The layers that were trained with a rotation; all of them, if none was."""
        rotating = tuple(layer for layer, base in enumerate(self.rope_bases or ()) if base is not None)
        return rotating or tuple(range(self.num_hidden_layers))

    def with_positions(self, scheme: Scheme) -> Config:
        """The same shape with this scheme in the layers that rotate (SmolLM3: three of four), whatever stands there
        now; a scheme that scales a RoPE takes over each layer's own base."""
        if not isinstance(scheme, Scheme):
            raise ArgumentError(message("scheme", "a position scheme of farspan.positions", repr(scheme)))
        changed = set(self.rotating_layers)
        positions = tuple(scheme if layer in changed else own for layer, own in enumerate(self.positions))
        return dataclasses.replace(self, positions=positions)

    # ------------------------------------------------------------------------------------------------- reading, writing

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str]) -> Config:
        """Reads `config.json` of a model folder, and end-of-sequence ids from `generation_config.json` if it has any;
        or the settings of a GGUF file, or of the model that `package:NAME` stands for.

        CheckpointError: not there, not JSON, of a kind farspan lacks, or with a setting that cannot be.
        """
        place = located(path)
        if place.is_file():
            return config_of_gguf(place, described(open_file(place))[1])
        return cls.from_dict(read_settings(place))

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> Config:
        """From what `to_dict` gave, or from the content of a Hugging Face `config.json`."""
        if not isinstance(settings, dict):
            raise CheckpointError(message("config.json", "an object of settings", type(settings).__name__))
        kind = settings.get("model_type")
        try:
            if kind == OWN_MODEL_TYPE:
                return cls(**_own_fields(settings))
            return cls(**families.read(settings), family=kind)
        except ArgumentError as error:
            raise CheckpointError(f"config.json: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """The content of a `config.json`: Hugging Face's where one of its families is this model, else our own."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.init}
        for settings in families.written(fields, first=fields.pop("family")):
            try:
                if Config.from_dict(settings) == self:
                    return settings
            except CheckpointError:
                continue
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}
        return {"model_type": OWN_MODEL_TYPE} | plain | {"positions": [scheme.to_dict() for scheme in self.positions]}


def config_of_gguf(path: Path, settings: dict[str, Any]) -> Config:
    """The config that a GGUF file's settings say, in the words of a `config.json`."""
    try:
        return Config.from_dict(settings)
    except CheckpointError as error:
        raise CheckpointError(f"{path}, its settings as a {error}") from error


def _own_fields(settings: dict[str, Any]) -> dict[str, Any]:
    """The fields that `Config.to_dict` wrote as they are."""
    given = {name: value for name, value in settings.items() if name != "model_type"}
    known = {field.name: field for field in dataclasses.fields(Config) if field.init and field.name != "family"}
    unknown = [name for name in given if name not in known]
    if unknown:
        raise ArgumentError(message(unknown[0], f"a setting of model_type {OWN_MODEL_TYPE}", "one it does not have"))
    for name, field in known.items():
        if field.default is dataclasses.MISSING and name not in given:
            raise ArgumentError(message(name, KINDS[name].expected, "none"))
    if "positions" in given:
        schemes = list_of(Kind("an object of settings", lambda x: isinstance(x, dict)))
        given["positions"] = [scheme_from_dict(x) for x in schemes.check("positions", given["positions"])]
    return given


def _based(scheme: Scheme, base: float | None) -> Scheme:
    return scheme if base is None else scheme.with_base(base)
