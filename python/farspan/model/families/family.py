"""What a family is: the keys of its `config.json`, what they mean for a `Config`, and the names of its tensors."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from farspan._backend.arrays import FLOATS, name_of
from farspan.model.families.layouts import Layout
from farspan.model.kinds import FLAG, TOKEN, Kind, Setting, count, number, one_of, optional

Settings = Mapping[str, Any]
"""The content of a `config.json`."""
Fields = dict[str, Any]
"""The arguments of `Config`."""


@dataclasses.dataclass(frozen=True)
class Names:
    """Where the parameters of a `Transformer` lie in a file.

    `layer` holds a place for the layer's number. `modules` gives for each module of a layer the modules that the file
    has for it, without ".weight" or ".bias": several where the module stacks their rows, and with "{}" for an expert's
    number where the file has a tensor for each of them. `tensors` has what the file calls a parameter of a layer where
    that is no module's ".weight" or ".bias". `layouts` has the modules whose tensors lie otherwise in a file.
    """

    embedding: str
    norm: str
    head: str
    layer: str
    modules: Mapping[str, tuple[str, ...]]
    tensors: Mapping[str, str] = dataclasses.field(default_factory=dict)
    layouts: Mapping[str, Layout] = dataclasses.field(default_factory=dict)
    places: str = ""
    """The learned positions, where the family has them."""
    positions: str = ""
    """What the names of the parameters of a layer's position scheme begin with; only farspan's own form has any."""
    angles: tuple[str, ...] = ()
    """Tables of inverse frequencies that older files carry, and that nobody reads; "{}" is a layer's number."""


class Family(abc.ABC):
    """One `model_type`. `keys` are the settings that are read, each with its kind and the family's own default."""

    model_type: ClassVar[str]
    architectures: ClassVar[tuple[str, ...]]
    """The class that has the weights, by transformers' name; the first is written."""
    keys: ClassVar[Mapping[str, Setting]]
    names: ClassVar[Names]
    reads_mxfp4: ClassVar[bool] = False
    """Whether its experts may be stored in four bits."""

    @abc.abstractmethod
    def fields(self, settings: Settings) -> Fields:
        """The arguments of `Config` that these settings mean. ArgumentError: a setting by its name in `config.json`."""

    def renamed(self, name: str) -> str | None:
        """The name in `names` of what a file calls `name`; None where it holds nothing of the model."""
        return name

    @abc.abstractmethod
    def settings(self, fields: Fields) -> dict[str, Any] | None:
        """A `config.json` with which `fields` might give these; None where the family certainly cannot."""


class _OneOrSeveral:
    """End-of-sequence ids as `config.json` has them: none, one, or a list."""

    @staticmethod
    def accepts(value: Any) -> bool:
        return value is None or TOKEN.accepts(value) or (isinstance(value, list) and all(map(TOKEN.accepts, value)))

    @staticmethod
    def settled(value: Any) -> tuple[int, ...]:
        return tuple(value) if isinstance(value, list) else () if value is None else (value,)


END_TOKENS = Kind("a token id, a list of them, or null", _OneOrSeveral.accepts, _OneOrSeveral.settled)

DTYPES = (*FLOATS, "float64")
DTYPE = optional(one_of(*DTYPES, *(f"torch.{name}" for name in DTYPES)))

# What transformers writes into every file and what makes no difference here: a wrong type is an error all the same.
WITHOUT_EFFECT = {
    "attention_dropout": Setting(optional(number(least=0, most=1)), 0.0),
    "initializer_range": Setting(number(least=0, most=1), 0.02),
    "pad_token_id": Setting(optional(count(2**63, least=-(2**63))), None),
    "use_cache": Setting(FLAG, True),
}


def dtype_of(given: Mapping[str, Any]) -> str:
    """The name that `dtype`, or `torch_dtype` as it was called, gives; float32 where both are silent."""
    named = given["dtype"] or given["torch_dtype"] or "float32"
    return name_of(named)
