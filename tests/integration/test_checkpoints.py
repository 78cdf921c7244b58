"""Model folders: written, read by both libraries, damaged."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.models import SHAPE, ids, small_model, transformers_model

import farspan
from farspan import positions as P
from farspan.model import Config, Transformer, safetensors
from farspan.model.places import named_tensors
from farspan.testing import assert_same_bits

pytestmark = pytest.mark.usefixtures("no_gradients")

KINDS: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": True, "attention_output_bias": True, "rope_theta": 5e5, "positions": P.RoPE(5e5)},
    "mistral": {"windows": 9},
    "qwen2": {"attention_bias": True, "tie_word_embeddings": True, "windows": (None, 4, 4)},
    "qwen3": {"qk_norm": True, "head_dim": 24, "eos_token_ids": (3, 4)},
    "smollm3": {"positions": (P.RoPE(2e6), P.NoPE(), P.RoPE(2e6)), "tie_word_embeddings": True},
    "farspan": {"norm": "layer", "gated_mlp": False, "positions": P.LogN(9, inner=P.ALiBi()), "hidden_act": "relu"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_written_and_read_again(kind: str, tmp_path: Path) -> None:
    model = small_model(**KINDS[kind])
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == kind
    again = Transformer.from_pretrained(tmp_path)
    assert again.config == model.config
    assert_same_bits(again(ids(2, 20)).numpy(), model(ids(2, 20)).numpy(), f"{kind} from its own folder")
    half = Transformer.from_pretrained(str(tmp_path), dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert torch.equal(half.unembedding, model.unembedding.bfloat16())


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "farspan"])
def test_transformers_reads_what_we_write(kind: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    model = small_model(**KINDS[kind])
    model.save_pretrained(tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    with torch.no_grad():
        logits = theirs(ids(1, 20)).logits
    assert torch.allclose(logits, model.logits(ids(1, 20)), atol=2e-4)


SCHEMES = [
    P.RoPE(5e5), P.LinearInterpolation(4.0, base=1e4), P.DynamicNTK(2.0, 256, base=1e4),
    P.YaRN(4.0, 64, beta_fast=16, attention_factor=1.1, base=1e4), P.YaRN(4.0, 64, truncate=False, base=1e4),
    P.Llama3(8.0, 1.0, 4.0, 64, base=5e5), P.LongRoPE([1.0] * 6, [2.0] * 6, 64, 256.0, base=1e4), P.NoPE(), P.ALiBi(),
    P.SelfExtend(4, 8, inner=P.YaRN(2, 64, base=1e4)), P.ReRoPE(9), P.Streaming(4, 16), P.LogN(64, inner=P.NoPE()),
]  # fmt: skip


@pytest.mark.parametrize("scheme", SCHEMES, ids=repr)
def test_config_round_trip(scheme: P.Scheme) -> None:
    config = Config(**SHAPE, positions=scheme, eos_token_ids=(1, 2))
    written = json.loads(json.dumps(config.to_dict()))
    assert Config.from_dict(written) == config
    assert Config.from_dict(written).to_dict() == config.to_dict()


def test_ends_of_sequence_come_from_the_generation_config(tmp_path: Path) -> None:
    small_model(eos_token_ids=(5,)).save_pretrained(tmp_path)
    assert Config.from_pretrained(tmp_path).eos_token_ids == (5,)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 6]}))
    assert Config.from_pretrained(tmp_path).eos_token_ids == (5, 6)


def test_shards_of_transformers(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    theirs = transformers_model("Llama")
    theirs.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    ours = Transformer.from_pretrained(tmp_path)
    assert torch.equal(ours.unembedding, theirs.lm_head.weight)
    assert torch.equal(ours.layers[2].mlp.up.weight[:50], theirs.model.layers[2].mlp.gate_proj.weight)


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    tensors = {
        "a": torch.randn(3, 5), "b": torch.randn(7).bfloat16(), "c": torch.randn(2, 2).half(), "d": torch.zeros(0, 4),
        "e": torch.tensor(2.5, dtype=torch.float64), "rows of a": torch.randn(6, 5)[2:4],
    }  # fmt: skip
    safetensors.write(tmp_path / "x.safetensors", tensors)
    stored = safetensors.open_file(tmp_path / "x.safetensors")
    assert stored.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert stored[name].shape == tensor.shape
        assert stored[name].read().dtype == tensor.dtype
        assert torch.equal(stored[name].read(), tensor), name


# --------------------------------------------------------------------------------------------------------------- damage


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    small_model().save_pretrained(folder)
    return folder


def edit_header(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])


def edit_config(folder: Path, **changes: Any) -> None:
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, **changes}))


def truncate(folder: Path, missing: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-missing])


def append(folder: Path, data: bytes) -> None:
    with (folder / "model.safetensors").open("ab") as file:
        file.write(data)


def repeat_in_header(folder: Path, name: str) -> None:
    """The entry of `name` once more, so that the last of the two holds and is sound."""
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    first = json.dumps({name: {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}})[:-1].encode() + b","
    header = first + raw[9 : 8 + length]
    path.write_bytes(len(header).to_bytes(8, "little") + header + raw[8 + length :])


def rename_tensor(header: dict[str, Any], old: str, new: str) -> None:
    header[new] = header.pop(old)


def write_header(folder: Path, text: bytes, length: int | None = None) -> None:
    length = len(text) if length is None else length
    (folder / "model.safetensors").write_bytes(length.to_bytes(8, "little") + text)


def write_index(folder: Path, index: Any) -> None:
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


Q, NORM = "model.layers.1.self_attn.q_proj.weight", "model.norm.weight"
NAMES = [Q, NORM]

DAMAGE: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "truncated": ("model.safetensors", lambda f: truncate(f, 9)),
    "empty": ("model.safetensors", lambda f: (f / "model.safetensors").write_bytes(b"")),
    "header longer than the file": ("model.safetensors", lambda f: write_header(f, b"{}", 2**63)),
    "header is not JSON": ("model.safetensors", lambda f: write_header(f, b"{'a'")),
    "header is no text": ("model.safetensors", lambda f: write_header(f, b"\xff\xfe{}")),
    "header is a list": ("model.safetensors", lambda f: write_header(f, b"[]")),
    "header nested without end": ("model.safetensors", lambda f: write_header(f, b"[" * 100_000)),
    "overlapping tensors": ("offset", lambda f: edit_header(f, lambda h: h[NORM].update(data_offsets=[0, 192]))),
    "a hole between tensors": ("invalid offset", lambda f: edit_header(f, lambda h: h.pop(Q))),
    "negative offsets": ("-192", lambda f: edit_header(f, lambda h: h[NORM].update(data_offsets=[-192, 0]))),
    "offsets past the end": (NORM, lambda f: edit_header(f, lambda h: h[NORM].update(data_offsets=[2**62, 2**63]))),
    "shape and bytes overflow": ("overflow", lambda f: edit_header(f, lambda h: h[NORM].update(shape=[2**40, 2**40]))),
    "shape and bytes disagree": ("invalid shape", lambda f: edit_header(f, lambda h: h[NORM].update(shape=[47]))),
    "negative shape": ("-48", lambda f: edit_header(f, lambda h: h[NORM].update(shape=[-48]))),
    "shape is text": ("header", lambda f: edit_header(f, lambda h: h[NORM].update(shape="48"))),
    "dtype is a list": ("header", lambda f: edit_header(f, lambda h: h[NORM].update(dtype=["F32"]))),
    "unknown dtype": ("I7", lambda f: edit_header(f, lambda h: h[NORM].update(dtype="I7"))),
    "dtype of integers": ("I32", lambda f: edit_header(f, lambda h: h[NORM].update(dtype="I32"))),
    "entry is a number": ("header", lambda f: edit_header(f, lambda h: h.update({NORM: 3}))),
    "a name twice": (f"duplicate field '{NORM}'", lambda f: repeat_in_header(f, NORM)),
    "bytes behind the last tensor": ("not fully covered", lambda f: append(f, b"0")),
    "a pointer to a file that was not fetched": ("git lfs pull", lambda f: (f / "model.safetensors").write_bytes(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 93212\n")),
    "a pointer in place of config.json": ("git lfs pull", lambda f: (f / "config.json").write_text(
        "version https://git-lfs.github.com/spec/v1\n")),
    "missing tensor": (Q, lambda f: edit_header(f, lambda h: rename_tensor(h, Q, NORM[:-1]))),
    "left-over tensor": ("extra.weight", lambda f: edit_header(f, lambda h: h.update({
        "extra.weight": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}))),
    "wrong shape": (NORM, lambda f: edit_header(f, lambda h: h[NORM].update(shape=[1, 48]))),
    "no weights": ("safetensors", lambda f: (f / "model.safetensors").unlink()),
    "index without shards": ("weight_map", lambda f: write_index(f, {"weight_map": {}})),
    "index is a list": ("weight_map", lambda f: write_index(f, [])),
    "index that leaves the folder": ("beside it", lambda f: write_index(f, {"weight_map": {Q: "../w.safetensors"}})),
    "index to no name at all": ("beside it", lambda f: write_index(f, {"weight_map": {Q: "a\0b.safetensors"}})),
    "index to a missing shard": ("gone.safetensors", lambda f: write_index(f, {"weight_map": {Q: "gone.safetensors"}})),
    "index of fewer tensors": ("index.json", lambda f: write_index(f, {"weight_map": {Q: "weights.safetensors"}})),
    "config is not there": ("config.json", lambda f: (f / "config.json").unlink()),
    "config is not JSON": ("config.json", lambda f: (f / "config.json").write_text("{")),
    "config is a number": ("config.json", lambda f: (f / "config.json").write_text("3")),
    "unknown family": ("gpt_bigcode", lambda f: edit_config(f, model_type="gpt_bigcode")),
    "not a causal model": ("LlamaForTokenSorting", lambda f: edit_config(f, architectures=["LlamaForTokenSorting"])),
    "unknown rope type": ("mrope", lambda f: edit_config(f, rope_scaling={"type": "mrope"})),
    "rope without its factor": ("factor", lambda f: edit_config(f, rope_parameters={"rope_type": "yarn"})),
    "rope factors of the wrong number": ("short_factor", lambda f: edit_config(f, rope_parameters={
        "rope_type": "longrope", "short_factor": "x", "long_factor": [1.0]})),
    "rope by layer type": ("rope_parameters", lambda f: edit_config(f, rope_parameters={"full_attention": {}})),
    "part of each head turns": ("partial_rotary_factor", lambda f: edit_config(f, partial_rotary_factor=0.5)),
    "unknown activation": ("hidden_act", lambda f: edit_config(f, hidden_act="tanhshrink")),
    "heads that do not divide": ("num_key_value_heads", lambda f: edit_config(f, num_key_value_heads=3)),
    "no hidden size": ("hidden_size", lambda f: edit_config(f, hidden_size=None)),
    "text for a size": ("vocab_size", lambda f: edit_config(f, vocab_size="many")),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named(name: str, sound: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sound, tmp_path / "model")
    word, damage = DAMAGE[name]
    damage(folder)
    with pytest.raises(farspan.CheckpointError, match=word):
        Transformer.from_pretrained(folder)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(farspan.CheckpointError, match="nowhere"):
        Transformer.from_pretrained(tmp_path / "nowhere")


def test_float64_is_refused_where_it_is_read_unless_the_backend_computes_in_it(tmp_path: Path) -> None:
    small_model(dtype="float64", backend="reference").save_pretrained(tmp_path)
    with pytest.raises(farspan.DtypeError, match=r"dtype: expected float32.*dtype='float32' converts.*given float64"):
        Transformer.from_pretrained(tmp_path)
    with pytest.raises(farspan.DtypeError, match="dtype: expected float32"):
        small_model(dtype="float64")
    assert Transformer.from_pretrained(tmp_path, backend="reference").dtype == torch.float64
    assert Transformer.from_pretrained(tmp_path, dtype="float32").dtype == torch.float32


def test_missing_setting() -> None:
    settings = small_model().config.to_dict()
    del settings["vocab_size"]
    with pytest.raises(farspan.CheckpointError, match="vocab_size"):
        Config.from_dict(settings)


def test_what_old_checkpoints_carry_beside_the_model(tmp_path: Path) -> None:
    model = small_model(tie_word_embeddings=True)
    model.save_pretrained(tmp_path)
    angles = 10000.0 ** (-torch.arange(0, 12, 2) / 12)
    extra = {"lm_head.weight": model.embedding.clone(), "model.layers.0.self_attn.rotary_emb.inv_freq": angles.half()}
    safetensors.write(tmp_path / "model.safetensors", named_tensors(model) | extra)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(Transformer.from_pretrained(tmp_path).unembedding, model.embedding)
