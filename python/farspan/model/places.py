"""Where the parameters of a model lie in a file, by the names that the file has for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from torch import Tensor

from farspan._errors import CheckpointError, message
from farspan.model.config import Config
from farspan.model.decoder import Decoder
from farspan.model.families import Family, Names, family_named
from farspan.model.families.layouts import Place, as_it_is, stacked

POSITIONS = "attention.positions."
"""What the paths of the parameters of a layer's position scheme begin with."""


class Stored(Protocol):
    """A tensor of a file, not yet read."""

    def require(self, shape: tuple[int, ...], why: str) -> None:
        """CheckpointError unless it has this shape."""
        ...


def named_tensors(model: Decoder, family: Family | None = None) -> dict[str, Tensor]:
    """The model's parameters as the files have them that it is written to, or those of this family: views of its
    memory wherever layouts agree."""
    family = family or family_named(model.config.to_dict()["model_type"])
    return {name: place.view.detach().reshape(place.shape) for name, place in places(model, family.names)}


def places(model: Decoder, names: Names) -> Iterator[tuple[str, Place]]:
    """The parameters' places in files that have these names."""
    for path, parameter in model.named_parameters():
        yield from places_of(path, parameter, names, model.config)


def places_of(path: str, parameter: Tensor, names: Names, config: Config) -> Iterator[tuple[str, Place]]:
    """Those of one parameter."""
    whole = {"embedding": names.embedding, "head": names.head, "places": names.places}
    if path in whole:
        yield whole[path], as_it_is(parameter)
    elif path.startswith("norm."):
        yield f"{names.norm}.{path.removeprefix('norm.')}", as_it_is(parameter)
    else:
        _, layer, part = path.split(".", 2)
        for name, place in _places_in_layer(part, parameter, names, config):
            yield names.layer.format(layer) + name, place


def _places_in_layer(path: str, parameter: Tensor, names: Names, config: Config) -> Iterator[tuple[str, Place]]:
    if path.startswith(POSITIONS):
        yield names.positions + path.removeprefix(POSITIONS), as_it_is(parameter)
        return
    module, kind = path.rsplit(".", 1)
    layout = names.layouts.get(module)
    if path in names.tensors:
        yield names.tensors[path], layout(parameter, config) if layout else as_it_is(parameter)
        return
    stored = [f"{name}.{kind}" for name in names.modules[module]]
    if layout is not None:
        yield stored[0], layout(parameter, config)
        return
    sizes = _stacks(config).get(module, [len(parameter)])
    if len(stored) > len(sizes):  # an MLP without a gate has the second of the two names
        stored = stored[-len(sizes) :]
    if "{}" not in stored[0]:
        yield from stacked(parameter, stored, sizes)
        return
    for expert, own in enumerate(parameter):
        yield from stacked(own, [name.format(expert) for name in stored], sizes)


def _stacks(config: Config) -> dict[str, list[int]]:
    """How many rows each projection has in the modules that stack several."""
    wide, narrow = config.num_attention_heads * config.dim_per_head, config.kv_heads * config.dim_per_head
    halves = 1 + config.gated_mlp
    return {
        "attention.qkv": [wide, narrow, narrow],
        "mlp.up": [config.intermediate_size] * halves,
        "mlp.expert_up": [config.moe_intermediate_size or 0] * halves,
    }


def check_tensors(slots: Mapping[str, Place], stored: Mapping[str, Stored], why: str) -> None:
    """CheckpointError unless the tensors of a file are exactly these, by name and shape; `why` says who wants that."""
    missing = [name for name in slots if name not in stored]
    if missing:
        raise CheckpointError(message("weights", f"a tensor {missing[0]}", _others(missing, "none")))
    extra = [name for name in stored if name not in slots]
    if extra:
        raise CheckpointError(message("weights", "only the model's tensors", extra[0] + _others(extra, "")))
    for name, slot in slots.items():
        stored[name].require(slot.shape, why)


def _others(names: list[str], none: str) -> str:
    return f"{none} (and {len(names) - 1} more like it)" if len(names) > 1 else none
