"""GGUF files as llama.cpp's converter writes them, of random models of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from support.models import SHAPE, enliven

BYTES = [*range(33, 127), *range(161, 173), *range(174, 256)]
LETTERS = {byte: chr(byte) for byte in BYTES} | {
    byte: chr(256 + i) for i, byte in enumerate(byte for byte in range(256) if byte not in BYTES)
}
"""What byte-level tokenizers write for each byte."""
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ w", "o r", "Ġw or", "l d", "Ġwor ld", "1 2", "Ġ Ġ"]
CONTROL = ["<|end|>", "<|turn|>"]
TOKENS = [LETTERS[byte] for byte in range(256)] + [merge.replace(" ", "") for merge in MERGES] + CONTROL
TEMPLATE = (
    "{% for m in messages %}{{ '<|turn|>' + m['role'] + '\n' + m['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn|>assistant\n' }}{% endif %}"
)
SIZES = {
    "context_length": 64, "embedding_length": SHAPE["hidden_size"], "block_count": SHAPE["num_hidden_layers"],
    "feed_forward_length": SHAPE["intermediate_size"], "attention.head_count": SHAPE["num_attention_heads"],
    "attention.head_count_kv": SHAPE["num_key_value_heads"], "attention.layer_norm_rms_epsilon": 1e-6,
}  # fmt: skip


def theirs(config: str, **settings: Any) -> Any:
    """A random model of transformers with the vocabulary above."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    nothing = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None, "rms_norm_eps": 1e-6}
    shape = {**SHAPE, **nothing, "vocab_size": len(TOKENS), "max_position_embeddings": 64, **settings}
    made = getattr(transformers, f"{config}Config")(**shape)
    made._attn_implementation = "eager"
    name = f"{config}LMHeadModel" if config == "GPT2" else f"{config.removesuffix('Text')}ForCausalLM"
    return enliven(getattr(transformers, name)(made))


def vocabulary() -> dict[str, Any]:
    """The settings of the tokenizer."""
    prefix = "tokenizer.ggml."
    return {
        f"{prefix}model": "gpt2", f"{prefix}pre": "gpt-2", f"{prefix}tokens": TOKENS,
        f"{prefix}token_type": [1] * (len(TOKENS) - len(CONTROL)) + [3] * len(CONTROL), f"{prefix}merges": MERGES,
        f"{prefix}bos_token_id": TOKENS.index("<|end|>"), f"{prefix}eos_token_id": TOKENS.index("<|end|>"),
        f"{prefix}add_bos_token": False, "tokenizer.chat_template": TEMPLATE,
    }  # fmt: skip


def write(path: Path, arch: str, settings: dict[str, Any], tensors: dict[str, np.ndarray], kind: str = "F32") -> Path:
    """A file of these settings, those of the architecture by their names behind its own, and of these tensors, the
    matrices of them in this kind. None is a setting that is left out."""
    gguf = pytest.importorskip("gguf", reason="gguf is not installed")
    writer = gguf.GGUFWriter(path, arch)
    types = {bool: "add_bool", int: "add_uint32", float: "add_float32", str: "add_string", list: "add_array"}
    for name, value in settings.items():
        full = name if name.startswith("tokenizer.") else f"{arch}.{name}"
        if value is not None:
            getattr(writer, types[type(value)])(full, value)
    for name, x in tensors.items():
        code = gguf.GGMLQuantizationType[kind if x.ndim > 1 else "F32"]
        writer.add_tensor(name, gguf.quants.quantize(np.ascontiguousarray(x, np.float32), code), raw_dtype=code)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tensors_of(model: Any, arch: str) -> dict[str, np.ndarray]:
    """The weights under llama.cpp's names and as its converter lays them out."""
    gguf = pytest.importorskip("gguf", reason="gguf is not installed")
    number = {name: arch_ for arch_, name in gguf.MODEL_ARCH_NAMES.items()}[arch]
    names = gguf.get_tensor_name_map(number, model.config.num_hidden_layers)
    found = {}
    for label, tensor in model.state_dict().items():
        base, _, kind = label.rpartition(".")
        name = names.get_name(base)
        if name is None or (label == "lm_head.weight" and model.config.tie_word_embeddings):
            continue
        x = tensor.float().numpy()
        if arch in ("llama", "granite") and ("attn_q." in f"{name}." or "attn_k." in f"{name}."):
            x = _neighbours(x, model.config.hidden_size // model.config.num_attention_heads)
        elif arch == "gemma3" and "norm" in name:
            x = x + 1
        elif arch == "gpt2" and x.ndim == 2 and "blk." in name:
            x = x.T
        found[f"{name}.{kind}"] = x
    return found


def _neighbours(x: np.ndarray, dim: int) -> np.ndarray:
    """Pairs that turn together, (i, i + dim / 2), become (2i, 2i + 1)."""
    return x.reshape(-1, 2, dim // 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)


def llama_file(path: Path, model: Any = None, kind: str = "F32", without: tuple[str, ...] = (), **more: Any) -> Path:
    """A small Llama; `more` are settings beside those or instead of those it has."""
    model = model or theirs("Llama")
    tensors = {name: x for name, x in tensors_of(model, "llama").items() if name not in without}
    return write(path, "llama", {**SIZES, **vocabulary(), **more}, tensors, kind)


def ids(batch: int, time: int) -> torch.Tensor:
    return torch.randint(0, len(TOKENS), (batch, time), generator=torch.Generator().manual_seed(batch))
