"""Which schemes a model is measured under, and the reach that their settings follow from: what its config says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from farspan.lab import schemes as named
from farspan.lab.schemes import Reach
from farspan.model import Config, Transformer
from farspan.positions import RoPE, Scheme
from farspan.positions.frequencies import DEFAULT_BASE


def chosen_schemes(
    config: Config, schemes: named.Chosen, lengths: Sequence[int], trained_length: int
) -> dict[str, Scheme | None]:
    """What is measured under which name, in a measurement of these lengths."""
    return named.choose(schemes, reach_of(config, max(lengths), trained_length), default=default_schemes(config))


def reach_of(config: Config, longest: int, trained_length: int | None = None) -> Reach:
    """How far a model is to reach, of what it was made for."""
    trained = trained_length_of(config) if trained_length is None else trained_length
    return Reach(trained, longest, config.rope_theta or DEFAULT_BASE)


def switched(model: Transformer, scheme: Scheme | None) -> Transformer:
    """The model as it is measured under a scheme, None being its own. What a new scheme draws at random to learn from
    is the same each time."""
    if scheme is None:
        return model
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # not `torch.manual_seed`, which also seeds the GPUs
        return model.with_positions(scheme)


def settings_under(config: Config, scheme: Scheme | None) -> dict[str, Any]:
    """A scheme's settings as JSON has them; of one that differs from layer to layer what each kind of layer has."""
    if scheme is None:
        return {"scheme": "own", "layers": [own.to_dict() for own in dict.fromkeys(config.positions)]}
    put = config.with_positions(scheme)
    first, *others = dict.fromkeys(put.positions[layer] for layer in put.rotating_layers)
    if not others:
        return first.to_dict()
    return {"scheme": type(scheme).__name__, "layers": [own.to_dict() for own in (first, *others)]}


def trained_length_of(config: Config) -> int:
    """The longest sequence seen in training, as far as the config tells: before any scaling of its positions."""
    lengths = (getattr(scheme, "original_length", None) for scheme in config.positions)
    return min((n for n in lengths if n is not None), default=config.max_position_embeddings)


def own_schemes(config: Config) -> tuple[Scheme, ...]:
    """The model's different schemes where another one would take their place: in the layers that rotate."""
    return tuple(dict.fromkeys(config.positions[layer] for layer in config.rotating_layers))


def default_schemes(config: Config) -> tuple[str, ...]:
    """The model's own scheme, then those that can help; plain RoPE only where it is not the model's own."""
    plain = all(isinstance(scheme, RoPE) for scheme in own_schemes(config))
    return tuple(name for name in named.COMPARED if name != "rope" or not plain)
