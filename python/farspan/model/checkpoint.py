"""A model folder as it lies on a hub: safetensors weights under Hugging Face's names, in one file or in shards."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from farspan._errors import CheckpointError, message
from farspan.model import safetensors
from farspan.model.config import read_json
from farspan.model.decoder import Decoder
from farspan.model.layers import Attention, Linear, Norm
from farspan.model.safetensors import StoredTensor

ONE_FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"


# --------------------------------------------------------------------------------------------------------------- names


def named_tensors(model: Decoder) -> dict[str, Tensor]:
    """The model's parameters under Hugging Face's names; the parts of a stacked projection are views of it."""
    return {name: tensor.detach() for name, tensor in _named(model)}


def _named(model: Decoder) -> Iterator[tuple[str, Tensor]]:
    yield "model.embed_tokens.weight", model.embedding
    for index, block in enumerate(model.layers):
        at = f"model.layers.{index}"
        yield from _norm(f"{at}.input_layernorm", block.attention_norm)  # type: ignore[arg-type]
        yield from _attention(f"{at}.self_attn", block.attention)  # type: ignore[arg-type]
        yield from _norm(f"{at}.post_attention_layernorm", block.mlp_norm)  # type: ignore[arg-type]
        mlp = block.mlp
        inner = model.config.intermediate_size
        stacked = {"gate_proj": inner, "up_proj": inner} if model.config.gated_mlp else {"up_proj": inner}
        yield from _stacked(f"{at}.mlp", mlp.up, stacked)  # type: ignore[arg-type, union-attr]
        down = {"down_proj": model.config.hidden_size}
        yield from _stacked(f"{at}.mlp", mlp.down, down)  # type: ignore[arg-type, union-attr]
    yield from _norm("model.norm", model.norm)
    if not model.config.tie_word_embeddings:
        yield "lm_head.weight", model.head


def _attention(at: str, attention: Attention) -> Iterator[tuple[str, Tensor]]:
    wide, narrow = attention.heads * attention.head_dim, attention.kv_heads * attention.head_dim
    yield from _stacked(at, attention.qkv, {"q_proj": wide, "k_proj": narrow, "v_proj": narrow})
    yield from _stacked(at, attention.out, {"o_proj": len(attention.out.weight)})
    for name in ("q_norm", "k_norm"):
        norm = getattr(attention, name)
        if norm is not None:
            yield from _norm(f"{at}.{name}", norm)


def _stacked(at: str, linear: Linear, sizes: Mapping[str, int]) -> Iterator[tuple[str, Tensor]]:
    start = 0
    for name, size in sizes.items():
        yield f"{at}.{name}.weight", linear.weight[start : start + size]
        if linear.bias is not None:
            yield f"{at}.{name}.bias", linear.bias[start : start + size]
        start += size


def _norm(at: str, norm: Norm) -> Iterator[tuple[str, Tensor]]:
    yield f"{at}.weight", norm.weight
    if norm.bias is not None:
        yield f"{at}.bias", norm.bias


# ------------------------------------------------------------------------------------------------------------- reading


def open_weights(folder: str | os.PathLike[str]) -> dict[str, StoredTensor]:
    """All tensors of a folder by name, checked but not read."""
    folder = Path(folder)
    if (folder / ONE_FILE).exists():
        return safetensors.read_header(folder / ONE_FILE)
    if not (folder / INDEX).exists():
        raise CheckpointError(message(str(folder), f"{ONE_FILE} or {INDEX}", "neither"))
    place_of = _read_index(folder / INDEX)
    shards = {file: safetensors.read_header(folder / file) for file in sorted(set(place_of.values()))}
    tensors: dict[str, StoredTensor] = {}
    for file, shard in shards.items():
        for name, tensor in shard.items():
            if place_of.get(name) != file:
                raise CheckpointError(message(f"{name} in {folder / file}", f"only what {INDEX} places there", "it"))
            tensors[name] = tensor
    for name, file in place_of.items():
        if name not in tensors:
            raise CheckpointError(message(name, f"in {folder / file}, where {INDEX} places it", "not there"))
    return tensors


def _read_index(path: Path) -> dict[str, str]:
    index = read_json(path)
    files = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(files, dict) or not files:
        raise CheckpointError(message(str(path), "a weight_map of tensor names to files", repr(files)))
    for name, file in files.items():
        if not isinstance(file, str) or Path(file).name != file:
            raise CheckpointError(message(f"{name} in {path}", "the name of a file beside it", repr(file)))
    return files


def check_weights(model: Decoder, weights: Mapping[str, StoredTensor]) -> None:
    """CheckpointError unless the weights are exactly the model's, by name and shape."""
    slots = named_tensors(model)
    missing = [name for name in slots if name not in weights]
    if missing:
        raise CheckpointError(message("weights", f"a tensor {missing[0]}", _others(missing, "none")))
    extra = [name for name in weights if name not in slots and not _dispensable(model, name)]
    if extra:
        raise CheckpointError(message("weights", "only the model's tensors", extra[0] + _others(extra, "")))
    for name, slot in slots.items():
        if weights[name].shape != slot.shape:
            found = f"{list(weights[name].shape)} in {weights[name].path}"
            raise CheckpointError(message(name, f"shape {list(slot.shape)}, as config.json says", found))


def _others(names: list[str], none: str) -> str:
    return f"{none} (and {len(names) - 1} more like it)" if len(names) > 1 else none


def _dispensable(model: Decoder, name: str) -> bool:
    """What old checkpoints carry beside the model: tables of angles, and a tied unembedding for a second time."""
    return name.endswith(".rotary_emb.inv_freq") or (name == "lm_head.weight" and model.config.tie_word_embeddings)


@torch.no_grad()
def load_weights(model: Decoder, weights: Mapping[str, StoredTensor]) -> None:
    """Copies the weights, which `check_weights` has passed, into the model, in its dtype."""
    for name, slot in named_tensors(model).items():
        slot.copy_(weights[name].read())


# ------------------------------------------------------------------------------------------------------------- writing


def save(model: Decoder, folder: str | os.PathLike[str]) -> None:
    """Writes what `from_pretrained` reads, and transformers too where it knows the family."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    settings = model.config.to_dict()
    (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    safetensors.write(folder / ONE_FILE, named_tensors(model))
