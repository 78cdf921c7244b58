"""The checkpoint of an extended model: in transformers' words where its `config.json` can say the scheme."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

from farspan.model import Config, Transformer
from farspan.model.families import OWN_MODEL_TYPE
from farspan.positions import NTK, RoPE


def extended_config(config: Config, to: int) -> Config:
    """The config that says how far the model reads, in a family's own words if there is a way to.

    NTK's larger base is a RoPE of that base. Dynamic NTK alone goes by the original length, which then has to stay the
    model's length.
    """
    said = _as_bases(config)
    reaching = [dataclasses.replace(said, max_position_embeddings=n) for n in (to, config.max_position_embeddings)]
    unsaid = dataclasses.replace(config, max_position_embeddings=to)
    return next(filter(readable, reaching), unsaid)


def readable(config: Config) -> bool:
    """Whether transformers reads what is written of this config."""
    return bool(config.to_dict()["model_type"] != OWN_MODEL_TYPE)


CONVERTED = ("default", "linear", "yarn", "llama3")
"""The rotations that llama.cpp's converter carries over from a `config.json`; it passes over dynamic NTK in silence."""


def convertible(config: Config) -> bool:
    """Whether llama.cpp computes the same from a converted checkpoint of this config, as far as positions go."""
    if not readable(config):
        return False
    said = config.to_dict().get("rope_parameters") or {}
    kinds = [part for part in said.values() if isinstance(part, dict)] or [said]
    return all(kind.get("rope_type", "default") in CONVERTED for kind in kinds)


@dataclasses.dataclass(frozen=True)
class Readers:
    """Who reads a checkpoint, beside farspan."""

    transformers: bool
    llama_cpp: bool
    """after its own conversion"""


def write(model: Transformer, to: int, folder: Path) -> Readers:
    """The checkpoint in a folder. Gives who else reads it; farspan does in any case."""
    twin = copy.copy(model)
    twin.config = extended_config(model.config, to)
    twin.save_pretrained(folder)
    return Readers(readable(twin.config), convertible(twin.config))


def _as_bases(config: Config) -> Config:
    """The same rotation, with RoPE of a larger base in place of NTK."""
    if not all(isinstance(scheme, NTK) for scheme in config.positions):
        return config
    bases = tuple(_grown(scheme, config.rotary_dim) for scheme in config.positions if isinstance(scheme, NTK))
    return dataclasses.replace(config, positions=tuple(map(RoPE, bases)), rope_bases=bases, rope_theta=bases[0])


def _grown(scheme: NTK, dim: int) -> float:
    return scheme.own_base * scheme.factor ** (dim / (dim - 2))
