"""A model of transformers that is in memory, as one of farspan: the same weights wherever both lay them out alike."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from farspan._backend.arrays import name_of
from farspan._errors import ArgumentError, CheckpointError, message
from farspan._gradients import is_inference
from farspan.model.config import Config
from farspan.model.decoder import Decoder, torch_dtype
from farspan.model.families import Family, family_named
from farspan.model.places import check_tensors, places, places_of


@dataclasses.dataclass(frozen=True)
class HeldTensor:
    """A tensor of the other model."""

    name: str
    tensor: Tensor

    def require(self, shape: tuple[int, ...], why: str) -> None:
        """CheckpointError unless it has this shape, which `why` gives a reason for."""
        if tuple(self.tensor.shape) != tuple(shape):
            given = f"shape {list(self.tensor.shape)}"
            raise CheckpointError(message(self.name, f"shape {list(shape)}, {why}", given))
        if not self.tensor.is_floating_point():
            raise CheckpointError(message(self.name, "floating-point numbers", self.tensor.dtype))


class Borrowed:
    """What there is to know of the other model. CheckpointError: a kind of model that farspan lacks.

    ArgumentError: no model of transformers.
    """

    def __init__(self, other: Any) -> None:
        config = getattr(other, "config", None)
        if not isinstance(other, nn.Module) or not hasattr(config, "to_dict") or isinstance(config, Config):
            raise ArgumentError(message("model", "a model of transformers", type(other).__name__))
        theirs: Any = other
        settings = {**theirs.config.to_dict(), "architectures": [type(other).__name__]}
        ends = getattr(getattr(other, "generation_config", None), "eos_token_id", None)
        if ends is not None:
            settings["eos_token_id"] = ends
        self.dtype, self.device = torch_dtype(theirs.dtype), torch.device(theirs.device)
        self.config = dataclasses.replace(Config.from_dict(settings), dtype=name_of(self.dtype))
        self._family = family_named(settings["model_type"])
        self._stored = _tensors(other, self._family)
        self._settle_tie()

    def _settle_tie(self) -> None:
        """Of tied tensors, which are one, the model wants the embedding alone."""
        if not self.config.tie_word_embeddings:
            return
        names = self._family.names
        head, embedding = self._stored.get(names.head), self._stored.get(names.embedding)
        if head is None or embedding is None:
            return
        if head.tensor.data_ptr() == embedding.tensor.data_ptr():
            del self._stored[names.head]
        else:  # somebody has given it a head of its own
            self.config = dataclasses.replace(self.config, tie_word_embeddings=False)

    def check(self, model: Decoder) -> None:
        """CheckpointError unless the tensors are exactly the model's, by name and shape."""
        check_tensors(dict(places(model, self._family.names)), self._stored, "as its config says")

    def lend(self, model: Decoder) -> None:
        """Gives a model on the meta device, which `check` has passed, its parameters: the other's own memory where one
        of its tensors is the whole parameter, else a copy."""
        # Weights that were made in inference mode cannot learn, and become parameters in that mode only. Copies are
        # made in it too then: a model some of whose weights learn would read with gradients. The mode stands before
        # `no_grad`, since leaving it turns gradients on.
        with torch.inference_mode(any(is_inference(held.tensor) for held in self._stored.values())), torch.no_grad():
            self._lend(model)

    def _lend(self, model: Decoder) -> None:
        for path, shape in list(model.named_parameters()):
            (first, place), *others = places_of(path, shape, self._family.names, model.config)
            tensor = self._stored[first].tensor.detach()
            if others or place.view is not shape or tensor.dtype != shape.dtype or not tensor.is_contiguous():
                tensor = torch.empty(shape.shape, dtype=shape.dtype, device=self.device)
                for name, place in places_of(path, tensor, self._family.names, model.config):
                    place.view.copy_(self._stored[name].tensor.reshape(place.view.shape))
            module, _, leaf = path.rpartition(".")
            setattr(model.get_submodule(module), leaf, nn.Parameter(tensor))


def _tensors(other: nn.Module, family: Family) -> dict[str, HeldTensor]:
    """By the names of the family."""
    apart = any("{}" in name for names in family.names.modules.values() for name in names)
    found: dict[str, HeldTensor] = {}
    for name, tensor in other.state_dict().items():
        parts = _experts(name, tensor) if apart else {name: tensor}
        known = {family.renamed(part): HeldTensor(name, own) for part, own in parts.items()}
        found |= {part: own for part, own in known.items() if part is not None}
    return found


def _experts(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """A stack of experts as the tensors that files have for each of them; any other tensor as it is."""
    before, _, kind = name.rpartition(".")
    if not before.endswith(".experts") or kind not in ("gate_up_proj", "down_proj"):
        return {name: tensor}
    names = ("gate_proj", "up_proj") if kind == "gate_up_proj" else (kind,)
    found: dict[str, Tensor] = {}
    for expert, own in enumerate(tensor):
        parts = zip(names, own.chunk(len(names)), strict=True)
        found |= {f"{before}.{expert}.{part}.weight": rows for part, rows in parts}
    return found
