"""Which tensors of a folder become the model's: tied ones, dispensable ones, their dtype; damage at any byte."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.models import SHAPE, VOCAB, ids, small_model

import farspan
from farspan.model import Config, Transformer, safetensors
from farspan.model.places import named_tensors
from farspan.testing import assert_same_bits

pytestmark = pytest.mark.usefixtures("no_gradients")

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
ANGLES = "model.layers.0.self_attn.rotary_emb.inv_freq"
INV_FREQ = 10000.0 ** (-torch.arange(0, 12, 2) / 12)
Stored = dict[str, torch.Tensor]


def folder_of(folder: Path, change: Callable[[Stored], Any] = lambda tensors: None, **settings: Any) -> Path:
    """A tied model whose stored tensors are changed."""
    model = small_model(tie_word_embeddings=True)
    model.save_pretrained(folder)
    tensors = {name: tensor.clone() for name, tensor in named_tensors(model).items()}
    change(tensors)
    safetensors.write(folder / "model.safetensors", tensors)
    written = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**written, **settings}))
    return folder


def loaded(folder: Path) -> Transformer:
    """Loaded without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return Transformer.from_pretrained(folder)


# ------------------------------------------------------------------------------------------------------------ two, tied


def test_a_head_that_differs_from_the_tied_embedding_is_used(tmp_path: Path) -> None:
    other = torch.randn(VOCAB, 48)
    folder = folder_of(tmp_path, lambda tensors: tensors.update({HEAD: other}))
    with pytest.warns(UserWarning, match=r"tie_word_embeddings.*lm_head\.weight"):
        model = Transformer.from_pretrained(folder)
    assert torch.equal(model.unembedding, other)
    assert torch.equal(model.embedding, small_model(tie_word_embeddings=True).embedding)
    assert not model.config.tie_word_embeddings
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        assert torch.allclose(model.logits(ids(1, 9)), theirs(ids(1, 9)).logits, atol=1e-3)


@pytest.mark.parametrize(
    "wrong", [torch.zeros(3, 5), torch.zeros(VOCAB, 48, dtype=torch.int32)], ids=["shape", "dtype"]
)
def test_a_head_that_cannot_be(wrong: torch.Tensor, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, lambda tensors: tensors.update({HEAD: wrong}))
    with pytest.raises(farspan.CheckpointError, match=r"lm_head\.weight"):
        Transformer.from_pretrained(folder)


def test_the_same_numbers_in_two_dtypes_are_tied(tmp_path: Path) -> None:
    def halved(tensors: Stored) -> None:
        tensors[EMBEDDING] = tensors[EMBEDDING].half()
        tensors[HEAD] = tensors[EMBEDDING].float()

    assert loaded(folder_of(tmp_path, halved)).config.tie_word_embeddings


def test_either_of_two_tied_names_is_enough(tmp_path: Path) -> None:
    model = loaded(folder_of(tmp_path, lambda tensors: tensors.update({HEAD: tensors.pop(EMBEDDING)})))
    assert model.config.tie_word_embeddings
    assert torch.equal(model.unembedding, small_model(tie_word_embeddings=True).unembedding)


def test_none_of_two_tied_names(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, lambda tensors: tensors.pop(EMBEDDING))
    with pytest.raises(farspan.CheckpointError, match="embed_tokens"):
        Transformer.from_pretrained(folder)


def test_a_head_alone_that_is_not_tied(tmp_path: Path) -> None:
    folder = folder_of(
        tmp_path, lambda tensors: tensors.update({HEAD: tensors.pop(EMBEDDING)}), tie_word_embeddings=False
    )
    with pytest.raises(farspan.CheckpointError, match="embed_tokens"):
        Transformer.from_pretrained(folder)


# ----------------------------------------------------------------------------------------------------- index and shards


def in_shards(folder: Path, change: Callable[[dict[str, str], Stored], Any]) -> Path:
    """A tied model in two shards. `change` gets the index and the first shard's tensors."""
    model = small_model(tie_word_embeddings=True)
    model.save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    tensors = {name: tensor.clone() for name, tensor in named_tensors(model).items()}
    names = list(tensors)
    place_of = {name: "a.safetensors" if i < 9 else "b.safetensors" for i, name in enumerate(names)}
    first = {name: tensors[name] for name in names[:9]}
    change(place_of, first)
    safetensors.write(folder / "a.safetensors", first)
    safetensors.write(folder / "b.safetensors", {name: tensors[name] for name in names[9:]})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": place_of}))
    return folder


DISPENSABLE: dict[str, Callable[[dict[str, str], Stored], Any]] = {
    "as saved": lambda index, shard: None,
    "head listed, not stored": lambda index, shard: index.update({HEAD: "b.safetensors"}),
    "head stored, not listed": lambda index, shard: shard.update({HEAD: shard[EMBEDDING].clone()}),
    "embedding listed, head stored": lambda index, shard: shard.update({HEAD: shard.pop(EMBEDDING)}),
    "angles listed, not stored": lambda index, shard: index.update({ANGLES: "a.safetensors"}),
    "angles stored, not listed": lambda index, shard: shard.update({ANGLES: INV_FREQ}),
    "angles stored and listed": lambda index, shard: (
        index.update({ANGLES: "a.safetensors"}), shard.update({ANGLES: INV_FREQ})
    ),
    "angles in a shard that is missing": lambda index, shard: index.update({ANGLES: "gone.safetensors"}),
}  # fmt: skip


@pytest.mark.parametrize("case", DISPENSABLE)
def test_index_and_shards_may_disagree_on_what_nobody_needs(case: str, tmp_path: Path) -> None:
    model = loaded(in_shards(tmp_path, DISPENSABLE[case]))
    truth = small_model(tie_word_embeddings=True)
    assert_same_bits(model(ids(1, 9)).numpy(), truth(ids(1, 9)).numpy(), case)


def test_index_and_shards_may_not_disagree_on_what_is_needed(tmp_path: Path) -> None:
    name = "model.layers.1.input_layernorm.weight"
    (tmp_path / "listed").mkdir()
    with pytest.raises(farspan.CheckpointError, match="extra"):
        Transformer.from_pretrained(in_shards(tmp_path / "listed", lambda i, s: i.update(extra="a.safetensors")))
    with pytest.raises(farspan.CheckpointError, match="index"):
        Transformer.from_pretrained(in_shards(tmp_path / "stored", lambda i, s: s.update({name: torch.ones(48)})))


# ----------------------------------------------------------------------------------------------------- tables of angles


def test_angles_are_checked_too(tmp_path: Path) -> None:
    with pytest.raises(farspan.CheckpointError, match="inv_freq"):
        Transformer.from_pretrained(folder_of(tmp_path / "a", lambda t: t.update({ANGLES: torch.ones(5)})))
    past = ANGLES.replace("0", "3")
    with pytest.raises(farspan.CheckpointError, match="inv_freq"):
        Transformer.from_pretrained(folder_of(tmp_path / "b", lambda t: t.update({past: INV_FREQ})))
    for name in (ANGLES, "model.rotary_emb.inv_freq"):
        other = folder_of(tmp_path / name, lambda t, name=name: t.update({name: INV_FREQ / 2}))
        with pytest.warns(UserWarning, match=r"inv_freq.*config\.json"):
            Transformer.from_pretrained(other)
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        loaded(folder_of(tmp_path / str(dtype), lambda t, dtype=dtype: t.update({ANGLES: INV_FREQ.to(dtype)})))


# ---------------------------------------------------------------------------------------------------------------- dtype


def again(model: Transformer, folder: Path) -> Transformer:
    """Saved and read: the same numbers, of the dtype that config.json names."""
    model.save_pretrained(folder)
    read = Transformer.from_pretrained(folder, backend=model.backend)
    said = json.loads((folder / "config.json").read_text())["dtype"]
    assert str(model.dtype) == str(read.dtype) == f"torch.{said}"
    assert read.config == model.config
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, read.state_dict()[name]), name
    return read


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_the_saved_dtype_is_that_of_the_weights(dtype: str, tmp_path: Path) -> None:
    small_model(dtype="bfloat16").save_pretrained(tmp_path / "first")
    tuned = Transformer.from_pretrained(tmp_path / "first", dtype=dtype, backend="reference")
    with torch.no_grad():
        tuned.embedding.mul_(1.001)
    assert tuned.config.dtype == dtype
    again(tuned, tmp_path / "tuned")
    again(Transformer(Config(**SHAPE), dtype=dtype, backend="reference"), tmp_path / "made")
    moved = Transformer(Config(**SHAPE), backend="reference").to(getattr(torch, dtype))
    assert moved.config.dtype == dtype
    assert moved.with_positions(farspan.positions.NoPE()).config.dtype == dtype
    again(moved, tmp_path / "moved")


def test_weights_of_several_dtypes_lose_nothing(tmp_path: Path) -> None:
    model = small_model(dtype="bfloat16")
    model.norm.float()
    with torch.no_grad():
        model.norm.weight.add_(1e-5)
    model.save_pretrained(tmp_path)
    read = Transformer.from_pretrained(tmp_path)
    assert read.dtype == torch.float32
    assert torch.equal(read.norm.weight, model.norm.weight)
    assert torch.equal(read.embedding, model.embedding.float())


# ------------------------------------------------------------------------------------------------------- saving, damage


def test_a_save_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_model().save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def half_written(path: Path, tensors: Any) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(safetensors, "write", half_written)
    with pytest.raises(OSError, match="no space"):
        small_model(vocab_size=7).save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_model_may_be_saved_where_it_was_loaded(tmp_path: Path) -> None:
    small_model().save_pretrained(tmp_path)
    model = Transformer.from_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    again(model, tmp_path)


def test_random_damage_to_a_header_is_an_error_of_ours(tmp_path: Path) -> None:
    tiny = {"vocab_size": 3, "hidden_size": 4, "intermediate_size": 2, "num_hidden_layers": 1, "num_attention_heads": 1}
    Transformer(Config(**tiny, num_key_value_heads=1)).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    sound = path.read_bytes()
    end = 8 + int.from_bytes(sound[:8], "little")
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(400):
        damaged = bytearray(sound)
        for place in rng.integers(0, end, rng.integers(1, 4)):
            damaged[place] = rng.choice([rng.integers(256), ord('"'), ord("9"), ord("0"), ord("["), damaged[place] ^ 1])
        path.write_bytes(damaged[: rng.choice([len(sound), len(sound), rng.integers(len(sound))])])
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                Transformer.from_pretrained(tmp_path)
        except farspan.CheckpointError:
            refused += 1
    assert refused > 350


def test_without_the_package_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_model().save_pretrained(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "safetensors", None)
    with pytest.raises(farspan.BackendError, match="pip install safetensors"):
        Transformer.from_pretrained(tmp_path)
    with pytest.raises(farspan.BackendError, match="pip install safetensors"):
        small_model().save_pretrained(tmp_path / "new")
