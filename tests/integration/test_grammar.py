"""A grammar engine of its own drives `generate` through packed masks: what comes out parses."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import farspan

llguidance = pytest.importorskip("llguidance", reason="the grammar engine llguidance is not installed")

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 10},
        "size": {"type": "integer", "minimum": 0, "maximum": 999},
        "flags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
    },
    "required": ["name", "size", "flags"],
    "additionalProperties": False,
    "x-guidance": {"whitespace_flexible": False},
}
PROMPTS = ["record = ", "import json\n", "def dump():\n    return "]


class ByteVocabulary:
    """The embedded model's 256 tokens as the engine wants to see them: each is one byte, NUL ends a text."""

    eos_token_id, bos_token_id, special_token_ids = 0, None, (0,)
    tokens = tuple(bytes([byte]) for byte in range(256))

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


class Grammar:
    """One matcher per row. It is taken back where the tokens do not continue those it has read: guesses come and go."""

    def __init__(self, schema: dict[str, Any]) -> None:
        wrapper = llguidance.TokenizerWrapper(ByteVocabulary())
        self.tokenizer = llguidance.LLTokenizer(wrapper, n_vocab=256, eos_token=0)
        self.grammar = llguidance.LLMatcher.grammar_from_json_schema(schema)
        self.rows: dict[int, tuple[Any, list[int]]] = {}

    def __call__(self, row: int, tokens: list[int]) -> np.ndarray:
        from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask

        matcher, read = self.rows.get(row) or (llguidance.LLMatcher(self.tokenizer, self.grammar), [])
        common = next((i for i, (a, b) in enumerate(zip(read, tokens, strict=False)) if a != b), None)
        common = min(len(read), len(tokens)) if common is None else common
        assert matcher.rollback(len(read) - common)
        assert matcher.consume_tokens(tokens[common:]), matcher.get_error()
        self.rows[row] = matcher, tokens
        words = allocate_token_bitmask(1, 256)
        fill_next_token_bitmask(matcher, words)
        return words


def as_text(completion: farspan.Completion) -> str:
    return bytes(completion.tokens[:-1]).decode()


@pytest.mark.parametrize("draft", [None, "prompt-lookup"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_embedded_model_writes_json_of_a_schema(temperature: float, draft: str | None) -> None:
    model, tokenizer = farspan.load_embedded()
    prompts = [tokenizer.encode(prompt) for prompt in PROMPTS]
    grammar = Grammar(SCHEMA)
    out = model.generate(
        prompts, max_new_tokens=120, temperature=temperature, seed=3, top_p=0.95, mask=grammar, draft=draft
    )
    for completion in out:
        assert completion.finish_reason == "stop", "the engine allows nothing but the end behind the last brace"
        document = json.loads(as_text(completion))
        assert list(document) == ["name", "size", "flags"]
        assert len(document["name"]) <= 10
        assert 0 <= document["size"] <= 999
        assert all(isinstance(flag, bool) for flag in document["flags"])


def test_a_drafter_does_not_change_what_the_grammar_lets_through() -> None:
    model, tokenizer = farspan.load_embedded()
    prompts = [tokenizer.encode('{"name":"a","size":1,"flags":[true]}\n' * 2)]
    texts = [
        model.generate(prompts, max_new_tokens=80, temperature=0.8, seed=1, mask=Grammar(SCHEMA), draft=draft)[0]
        for draft in (None, "prompt-lookup", model)
    ]
    assert texts[0].tokens == texts[1].tokens == texts[2].tokens
    assert texts[1].accepted > 10, "keys and punctuation stand in the prompt"
    assert texts[2].acceptance == 1.0


def test_without_the_mask_it_is_no_json() -> None:
    model, tokenizer = farspan.load_embedded()
    (free,) = model.generate([tokenizer.encode(PROMPTS[0])], max_new_tokens=60, temperature=1.0, seed=3, stop=())
    with pytest.raises(json.JSONDecodeError):
        json.loads(bytes(free.tokens).decode(errors="replace"))
