"""GGUF files: every architecture beside transformers, tokenizers, packages, memory, and damage of any kind."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.gguf_files import CONTROL, LETTERS, SIZES, TOKENS, ids, llama_file, tensors_of, theirs, vocabulary, write
from support.models import SHAPE

import farspan
from farspan import ArgumentError, BackendError, CheckpointError
from farspan.cli import main
from farspan.model import Config, Transformer
from farspan.model.gguf.splitting import SPLITTINGS
from farspan.positions import YaRN

gguf = pytest.importorskip("gguf", reason="gguf is not installed")
pytest.importorskip("tokenizers", reason="tokenizers is not installed")

SHORT, LONG = [1.0, 1.2, 1.5], [1.0, 2.5, 4.0]
ARCHITECTURES: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    # architecture: transformers' class and its settings, settings of the file, further tensors
    "llama": ("Llama", {"attention_bias": True, "mlp_bias": True}, {}, {}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}, {}, {}),
    "qwen3": ("Qwen3", {"head_dim": 16}, {"attention.key_length": 16, "attention.value_length": 16}, {}),
    "gemma3": (
        "Gemma3Text", {
            "num_hidden_layers": 7, "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 5,
            "final_logit_softcapping": 3.0, "tie_word_embeddings": True, "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}},
        }, {
            "block_count": 7, "attention.key_length": 16, "attention.value_length": 16, "rope.freq_base": 1e6,
            "attention.sliding_window": 5, "final_logit_softcapping": 3.0, "rope.scaling.type": "linear",
            "rope.scaling.factor": 8.0,
        }, {},
    ),
    "phi3": (
        "Phi3", {
            "sliding_window": 30, "original_max_position_embeddings": 24, "rope_parameters": {
                "rope_type": "longrope", "rope_theta": 1e4, "partial_rotary_factor": 0.5, "short_factor": SHORT,
                "long_factor": LONG, "attention_factor": 1.25},
        }, {
            "attention.sliding_window": 30, "rope.dimension_count": 6, "rope.scaling.original_context_length": 24,
            "rope.scaling.attn_factor": 1.25,
        }, {
            "rope_factors_short.weight": np.array(SHORT, np.float32),
            "rope_factors_long.weight": np.array(LONG, np.float32),
        },
    ),
    "gpt2": (
        "GPT2", {"n_positions": 64, "n_inner": SHAPE["intermediate_size"], "layer_norm_epsilon": 1e-6}, {
            "attention.layer_norm_rms_epsilon": None, "attention.layer_norm_epsilon": 1e-6,
            "attention.head_count_kv": SHAPE["num_attention_heads"],
        }, {},
    ),
    "olmo2": ("Olmo2", {}, {}, {}),
    "granite": (
        "Granite", {"embedding_multiplier": 12.0, "residual_multiplier": 0.25, "attention_multiplier": 0.125,
                    "logits_scaling": 6.0},
        {"embedding_scale": 12.0, "residual_scale": 0.25, "attention.scale": 0.125, "logit_scale": 6.0}, {},
    ),
}  # fmt: skip


@pytest.mark.usefixtures("no_gradients")
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_an_architecture_beside_transformers(arch: str, tmp_path: Path) -> None:
    config, settings, own, more = ARCHITECTURES[arch]
    other = theirs(config, **settings)
    if arch.startswith("gemma"):
        for name, parameter in other.named_parameters():
            if "norm" in name:
                parameter.sub_(1)
    tensors = {**tensors_of(other, arch), **more}
    path = write(tmp_path / "m.gguf", arch, {**SIZES, **vocabulary(), **own}, tensors)
    model = Transformer.from_pretrained(path, dtype="float32")
    for time in (9, 40):
        truth = other(ids(2, time)).logits
        assert torch.allclose(model.logits(ids(2, time)), truth, atol=1e-4 * float(1 + truth.abs().max()))
    model.save_pretrained(tmp_path / "saved")
    assert torch.equal(Transformer.from_pretrained(tmp_path / "saved")(ids(1, 9)), model(ids(1, 9)))


def test_scaled_rotations(tmp_path: Path) -> None:
    scaled = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 16}
    (scheme,) = set(Transformer.from_pretrained(llama_file(tmp_path / "a.gguf", **scaled)).config.positions)
    assert scheme == YaRN(4.0, 16, base=10_000.0)
    for wrong in ({"rope.scaling.attn_factor": 2.0}, {"rope.scaling.type": "warp"}, {"rope.scaling.type": "longrope"}):
        with pytest.raises(CheckpointError, match=r"rope\.scaling"):
            Transformer.from_pretrained(llama_file(tmp_path / "b.gguf", **(scaled | wrong)))


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"expert_count": 4}, "llama.expert_count"),
        ({"attention.value_length": 4}, "value_length"),
        ({"rope.dimension_count": 4}, "rope.dimension_count"),
        ({"warp.factor": 4}, "llama.warp.factor"),
        ({"attention.causal": False}, "llama.attention.causal"),
        ({"embedding_length": 50}, "a multiple of 4"),
        ({"vocab_size": 9}, "token_embd.weight"),
        ({"attention.head_count_kv": 3}, "num_key_value_heads"),
        ({"attention.head_count": "four"}, "head_count.*'four'"),
    ],
)
def test_a_setting_that_means_something_else_is_an_error(more: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=told) as caught:
        Transformer.from_pretrained(llama_file(tmp_path / "m.gguf", **more))
    assert "m.gguf" in str(caught.value)


# ------------------------------------------------------------------------------------------------------------ damage


def test_no_damage_is_anything_but_a_checkpoint_error(tmp_path: Path) -> None:
    """Cut anywhere, or with other bytes anywhere in its first part: never another exception, and soon."""
    whole = llama_file(tmp_path / "m.gguf").read_bytes()
    header = whole.index(b"blk.0.attn_norm.weight")
    path, chance = tmp_path / "damaged.gguf", random.Random(5)
    refused = 0
    for attempt in range(300):
        data = bytearray(whole)
        if attempt % 3 == 0:
            del data[chance.randrange(len(data)) :]
        for _ in range(attempt % 3 * 4):
            data[chance.randrange(header + 2000)] = chance.choice((0, 1, 7, 127, 128, 255))
        path.write_bytes(data)
        try:
            farspan.load(path)
        except CheckpointError:
            refused += 1
    assert refused > 200


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(CheckpointError, match="git lfs pull"):
        farspan.load(tmp_path / "m.gguf")
    (tmp_path / "m.bin").write_bytes(b"PK\x03\x04")
    with pytest.raises(CheckpointError, match=r"m\.bin.*GGUF"):
        farspan.load(tmp_path / "m.bin")


def test_without_the_package_its_name_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = llama_file(tmp_path / "m.gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    monkeypatch.setattr("farspan.model.gguf.weights._kinds", lambda: farspan.model.gguf.weights._library())
    with pytest.raises(BackendError, match="pip install gguf"):
        farspan.load(path)


def test_a_tensor_is_widened_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never a second copy of a whole matrix: here a few rows at a time, which gives the same bits."""
    path = llama_file(tmp_path / "m.gguf", kind="Q8_0", model=theirs("Llama", hidden_size=64, intermediate_size=96),
                      embedding_length=64, feed_forward_length=96)  # fmt: skip
    whole = Transformer.from_pretrained(path)
    monkeypatch.setattr("farspan.model.gguf.weights.AT_ONCE", 300)
    most = 0

    def watched(data: np.ndarray, code: Any, original: Any = gguf.quants.dequantize) -> np.ndarray:
        nonlocal most
        numbers: np.ndarray = original(data, code)
        most = max(most, numbers.size)
        return numbers

    monkeypatch.setattr(gguf.quants, "dequantize", watched)
    parts = Transformer.from_pretrained(path)
    assert most <= 64 * 16 * 2, "two rows of matrices; of queries and keys what one head has"
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), parts.parameters(), strict=True))


# --------------------------------------------------------------------------------------------------------- tokenizers


def tokenizer_of(path: Path, **more: Any) -> Any:
    settings = {f"tokenizer.ggml.{name}": value for name, value in more.items()}
    return farspan.load(llama_file(path, **settings))[1]


def pieces(tokenizer: Any, text: str) -> list[str]:
    return [tokenizer.decode([token]) for token in tokenizer.encode(text)]


TEXT = "I'll pay 12345 DOLLARs!!\n\n  don't"
CUTS = {
    "gpt-2": ["I", "'ll", " pay", " 12345", " DOLLARs", "!!", "\n\n ", " don", "'t"],
    "smollm": ["I", "'ll", " pay", " ", "1", "2", "3", "4", "5", " DOLLARs", "!!", "\n\n ", " don", "'t"],
    "llama-bpe": ["I", "'ll", " pay", " ", "123", "45", " DOLLARs", "!!\n\n", " ", " don", "'t"],
    "qwen2": ["I", "'ll", " pay", " ", "1", "2", "3", "4", "5", " DOLLARs", "!!\n\n", " ", " don", "'t"],
    "gpt-4o": ["I'll", " pay", " ", "123", "45", " DOLLARs", "!!\n\n", " ", " don't"],
    "tekken": ["I", "'ll", " pay", " ", "1", "2", "3", "4", "5", " DOLLARs", "!!\n\n", " ", " don", "'t"],
    "default": ["I", "'", "ll", " pay", " ", "123", "45", " DOLLARs", "!!", "\n\n ", " don", "'", "t"],
    "falcon": ["I", "'", "ll", " pay", " ", "123", "45", " DOLLARs", "!!", "\n\n ", " don", "'", "t"],
}


@pytest.mark.parametrize("name", CUTS)
def test_words_are_cut_by_the_name_of_the_tokenizer(name: str) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    splits = [tokenizers.pre_tokenizers.Split(tokenizers.Regex(p), "isolated") for p in SPLITTINGS[name].patterns]
    found = [piece for piece, _ in tokenizers.pre_tokenizers.Sequence(splits).pre_tokenize_str(TEXT)]
    assert found == CUTS[name]
    assert "".join(found) == TEXT


def test_merges_stay_within_words_and_whole_words_are_tokens(tmp_path: Path) -> None:
    plain = tokenizer_of(tmp_path / "a.gguf")
    assert pieces(plain, "hello world 12") == ["hello", " world", " ", "12"]
    assert pieces(tokenizer_of(tmp_path / "b.gguf", pre="smollm"), "hello 12") == ["hello", " ", "1", "2"]
    fewer = [merge for merge in ("h e", "l l", "he ll")]
    assert pieces(tokenizer_of(tmp_path / "c.gguf", merges=fewer), "hello") == ["hell", "o"]
    assert pieces(tokenizer_of(tmp_path / "d.gguf", merges=fewer, pre="llama3"), "hello") == ["hello"]


def test_what_stands_around_a_text(tmp_path: Path) -> None:
    end = TOKENS.index("<|end|>")
    for name, more, before, behind in (
        ("a", {}, [], []),
        ("b", {"add_bos_token": True}, [end], []),
        ("c", {"add_bos_token": True, "add_eos_token": True}, [end], [end]),
        ("d", {"add_bos_token": None, "pre": "llama3"}, [end], []),
    ):
        tokenizer = tokenizer_of(tmp_path / f"{name}.gguf", **more)
        assert tokenizer.encode("h") == [ord("h")]
        assert tokenizer.encode("h", special=True) == [*before, ord("h"), *behind]


def test_control_tokens_are_seen_in_a_text_and_not_shown(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path / "m.gguf")
    assert tokenizer.encode("<|turn|>h") == [TOKENS.index("<|turn|>"), ord("h")]
    assert tokenizer.decode(tokenizer.encode("a<|end|>b")) == "ab"
    assert tokenizer.vocab_size == len(TOKENS) - len(CONTROL)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"pre": "warp"}, "tokenizer.ggml.pre.*'warp'"),
        ({"model": "bert"}, "tokenizer.ggml.model"),
        ({"merges": None}, "tokenizer.ggml.merges"),
        ({"merges": ["h"]}, "merges.*'h'"),
        ({"merges": ["h q"]}, "merges"),
        ({"tokens": TOKENS[:-1]}, f"tokens.*{len(TOKENS)}.*{len(TOKENS) - 1}"),
        ({"token_type": [1, 3]}, "token_type"),
        ({"eos_token_id": 99_999}, "eos_token_id"),
        ({"tokens": None}, "tokenizer.ggml.tokens"),
    ],
)
def test_a_tokenizer_that_cannot_be_is_named(more: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=told):
        tokenizer_of(tmp_path / "m.gguf", **more)


PIECES = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "c", "ab", "bc",
          "▁a", "abc", "ca", "\n\n", "<tool>"]  # fmt: skip
SCORES = {"ab": -2.0, "bc": -1.0, "▁a": -3.0, "abc": -4.0, "ca": -0.5}


def pieces_file(path: Path, **more: Any) -> Path:
    """A vocabulary of SentencePiece: pieces with scores, bytes, and two tokens of the user's."""
    kinds = [2, 3, 3] + [6] * 256 + [1] * 9 + [4] * 2
    settings = {
        "model": "llama", "pre": "default", "tokens": PIECES, "token_type": kinds, "merges": None,
        "scores": [SCORES.get(piece, -9.0) for piece in PIECES], "bos_token_id": 1, "eos_token_id": 2,
        "unknown_token_id": 0, "add_bos_token": None, **more,
    }  # fmt: skip
    named = {f"tokenizer.ggml.{name}": value for name, value in settings.items()}
    return llama_file(path, theirs("Llama", vocab_size=len(PIECES)), **named)


def test_pieces_join_by_their_scores(tmp_path: Path) -> None:
    _, tokenizer = farspan.load(pieces_file(tmp_path / "m.gguf"))
    named = lambda text, **how: [PIECES[token] for token in tokenizer.encode(text, **how)]  # noqa: E731
    assert named("abc") == ["▁a", "bc"], "bc scores best, and then ▁a leaves no b for ab"
    assert named("bca") == ["▁", "b", "ca"], "ca scores best, though bc stands before it"
    assert named("babc") == ["▁", "b", "abc"], "bc first, and then a and bc, which are one piece"
    assert named("aé") == ["▁a", "<0xC3>", "<0xA9>"]
    assert named("b<tool>b\n\nb") == ["▁", "b", "<tool>", "▁", "b", "\n\n", "▁", "b"]
    assert named("a", special=True) == ["<s>", "▁a"], "pieces begin a text with <s> unless the file says no"
    assert tokenizer.decode(tokenizer.encode("ab é b", special=True)) == "ab é b"
    _, plain = farspan.load(pieces_file(tmp_path / "n.gguf", add_space_prefix=False, add_bos_token=False))
    assert [PIECES[token] for token in plain.encode("abc", special=True)] == ["abc"]
    with pytest.raises(CheckpointError, match=r"tokenizer\.ggml\.scores"):
        farspan.load(pieces_file(tmp_path / "o.gguf", scores=None))


def test_the_letters_of_the_bytes_are_complete() -> None:
    assert len(set(LETTERS.values())) == 256


# ----------------------------------------------------------------------------------------------- packages and commands


def test_a_package_carries_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not imported: that would run what it has."""
    package = tmp_path / "some_model"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    llama_file(package / "m.gguf")
    monkeypatch.syspath_prepend(str(tmp_path))
    named, _ = farspan.load("package:some-model")
    assert torch.equal(named.unembedding, farspan.load(package / "m.gguf")[0].unembedding)
    assert "some_model" not in sys.modules
    assert Config.from_pretrained("package:some_model") == named.config
    llama_file(package / "other.gguf")
    with pytest.raises(CheckpointError, match="some_model, which has 2"):
        farspan.load("package:some_model")
    for name in ("no_such_model", "json", "os.path", "../x", ""):
        with pytest.raises(CheckpointError, match="package:"):
            farspan.load(f"package:{name}")


def test_commands_take_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = llama_file(tmp_path / "m.gguf")
    assert main(["generate", "--model", str(path), "--prompt", "hello", "--max-new-tokens", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == "m.gguf"
    (tmp_path / "text.txt").write_text("hello world " * 60)
    train = ["train", "--model", path, "--data", tmp_path / "text.txt", "--steps", 1, "--context", 16, "--batch", 1]
    assert main([*map(str, train), "--out", str(tmp_path / "out"), "--json"]) == 0
    capsys.readouterr()
    model, tokenizer = farspan.load(tmp_path / "out")
    messages = [{"role": "user", "content": "hello"}]
    assert tokenizer.chat(messages) == farspan.load(path)[1].chat(messages)
    assert model.config.vocab_size == len(TOKENS)


def test_the_template_of_a_file(tmp_path: Path) -> None:
    _, tokenizer = farspan.load(llama_file(tmp_path / "m.gguf"))
    turn, end = TOKENS.index("<|turn|>"), TOKENS.index("<|end|>")
    expected = [turn, *tokenizer.encode("user\nhello"), end, turn, *tokenizer.encode("assistant\n")]
    assert tokenizer.chat([{"role": "user", "content": "hello"}]) == expected
    with pytest.raises(ArgumentError, match="messages"):
        tokenizer.chat("hello")
    without = {"tokenizer.chat_template": None}
    with pytest.raises(BackendError, match=r"template.*none in .*n\.gguf"):
        farspan.load(llama_file(tmp_path / "n.gguf", **without))[1].chat([{"role": "user", "content": "hello"}])
