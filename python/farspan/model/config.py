"""The shape of a transformer, read from and written to Hugging Face's `config.json`."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from farspan._errors import ArgumentError, CheckpointError, message
from farspan.model import huggingface
from farspan.positions import RoPE, Scheme, scheme_from_dict

ACTIVATIONS = ("silu", "gelu_pytorch_tanh", "relu")
DTYPES = ("float32", "bfloat16", "float16")
NORMS = ("rms", "layer")
OWN_MODEL_TYPE = "farspan"


@dataclasses.dataclass(frozen=True)
class Config:
    """A pre-norm decoder. Names are those of Hugging Face where it has one.

    `windows` and `positions` have one entry per layer: how many last keys the layer sees (None: all), and its position
    scheme. A single window or scheme given for either stands for every layer. `rope_theta` is the base of RoPE that the
    model was trained with (None: that of its first scheme that has one), also while another scheme is in place.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    max_position_embeddings: int = 2048
    norm: str = "rms"
    norm_eps: float = 1e-6
    hidden_act: str = "silu"
    gated_mlp: bool = True
    qk_norm: bool = False
    attention_bias: bool = False
    attention_output_bias: bool = False
    mlp_bias: bool = False
    tie_word_embeddings: bool = False
    windows: tuple[int | None, ...] = (None,)
    positions: tuple[Scheme, ...] = (RoPE(),)
    rope_theta: float | None = None
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    dtype: str = "float32"
    attention_kinds: list[tuple[Scheme, int | None]] = dataclasses.field(init=False, repr=False, compare=False)
    """The different (scheme, window) pairs of the layers."""
    kind_of_layer: list[int] = dataclasses.field(init=False, repr=False, compare=False)
    """Which of them each layer has."""

    def __post_init__(self) -> None:
        settle = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731
        for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                     "max_position_embeddings"):  # fmt: skip
            _require_count(name, getattr(self, name))
        if self.num_key_value_heads is None:
            settle("num_key_value_heads", self.num_attention_heads)
        _require_count("num_key_value_heads", self.num_key_value_heads)
        if self.num_attention_heads % self.kv_heads:
            expected = f"a divisor of num_attention_heads, {self.num_attention_heads}"
            raise ArgumentError(message("num_key_value_heads", expected, self.num_key_value_heads))
        if self.head_dim is None:
            if self.hidden_size % self.num_attention_heads:
                expected = f"a multiple of num_attention_heads, {self.num_attention_heads}, where head_dim is not given"
                raise ArgumentError(message("hidden_size", expected, self.hidden_size))
            settle("head_dim", self.hidden_size // self.num_attention_heads)
        _require_count("head_dim", self.head_dim)
        _require_one_of("norm", self.norm, NORMS)
        _require_one_of("hidden_act", self.hidden_act, ACTIVATIONS)
        _require_one_of("dtype", self.dtype, DTYPES)
        if isinstance(self.norm_eps, bool) or not isinstance(self.norm_eps, (int, float)) or not self.norm_eps >= 0:
            raise ArgumentError(message("norm_eps", "a number at least 0", repr(self.norm_eps)))
        settle("windows", self._per_layer("windows", self.windows))
        settle("positions", self._per_layer("positions", self.positions))
        for window in self.windows:
            if window is not None:
                _require_count("windows", window)
        for scheme in self.positions:
            if not isinstance(scheme, Scheme):
                raise ArgumentError(message("positions", "position schemes of farspan.positions", repr(scheme)))
        if self.rope_theta is None:
            settle("rope_theta", next((s.rope_base for s in self.positions if s.rope_base is not None), None))
        if self.rope_theta is not None:
            settle("positions", tuple(scheme.with_base(self.rope_theta) for scheme in self.positions))
        settle("eos_token_ids", tuple(self.eos_token_ids))
        pairs = list(zip(self.positions, self.windows, strict=True))
        kinds = list(dict.fromkeys(pairs))
        settle("attention_kinds", kinds)
        settle("kind_of_layer", [kinds.index(pair) for pair in pairs])

    def _per_layer(self, name: str, value: Any) -> tuple[Any, ...]:
        entries = tuple(value) if isinstance(value, (tuple, list)) else (value,)
        if len(entries) == 1:
            entries *= self.num_hidden_layers
        if len(entries) != self.num_hidden_layers:
            expected = f"one entry, or one for each of the {self.num_hidden_layers} layers"
            raise ArgumentError(message(name, expected, f"{len(entries)} entries"))
        return entries

    @property
    def kv_heads(self) -> int:
        """`num_key_value_heads`, settled."""
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def dim_per_head(self) -> int:
        """`head_dim`, settled."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    def with_positions(self, scheme: Scheme) -> Config:
        """The same shape with this scheme in every layer; a scheme that scales a RoPE takes over `rope_theta`."""
        if not isinstance(scheme, Scheme):
            raise ArgumentError(message("scheme", "a position scheme of farspan.positions", repr(scheme)))
        return dataclasses.replace(self, positions=(scheme,))

    # ------------------------------------------------------------------------------------------------- reading, writing

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> Config:
        """Reads `config.json` of a model folder, and end-of-sequence ids from `generation_config.json` if it has any.

        CheckpointError: not there, not JSON, or of a kind farspan lacks.
        """
        settings = read_json(Path(folder) / "config.json")
        beside = Path(folder) / "generation_config.json"
        if beside.exists() and isinstance(settings, dict) and settings.get("model_type") != OWN_MODEL_TYPE:
            generation = read_json(beside)
            if isinstance(generation, dict) and generation.get("eos_token_id") is not None:
                settings["eos_token_id"] = generation["eos_token_id"]
        return cls.from_dict(settings)

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> Config:
        """From what `to_dict` gave, or from the content of a Hugging Face `config.json`."""
        if not isinstance(settings, dict):
            raise CheckpointError(message("config.json", "an object of settings", type(settings).__name__))
        try:
            if settings.get("model_type") != OWN_MODEL_TYPE:
                return cls(**huggingface.read_config(settings))
            own = {name: value for name, value in settings.items() if name != "model_type"}
            own["positions"] = [scheme_from_dict(scheme) for scheme in own.get("positions", ())]
            return cls(**own)
        except (ArgumentError, TypeError) as error:
            raise CheckpointError(f"config.json: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """The content of a `config.json`: Hugging Face's where one of its families is this model, else our own."""
        return huggingface.write_config(self) or self._own_dict()

    def _own_dict(self) -> dict[str, Any]:
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.init}
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}
        return {"model_type": OWN_MODEL_TYPE} | plain | {"positions": [scheme.to_dict() for scheme in self.positions]}


def read_json(path: Path) -> Any:
    """The content of a JSON file of a model folder. CheckpointError: unreadable, or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(message(str(path), "a readable file", error.strerror or error)) from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(message(str(path), "JSON", error)) from None


def _require_count(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ArgumentError(message(name, "a positive integer", repr(value)))


def _require_one_of(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ArgumentError(message(name, f"one of {', '.join(choices)}", repr(value)))
