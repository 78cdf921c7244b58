"""A tokenizer as SentencePiece's models have: words begin with a space, bytes stand for what no word covers."""

from __future__ import annotations

from typing import Any

import pytest

WORDS = ("▁", "H", "e", "l", "o", "w", "r", "d", "He", "ll", "Hell", "Hello", "▁Hello", "▁w", "or", "ld", "▁wor")
MERGES = (
    ("H", "e"), ("l", "l"), ("He", "ll"), ("Hell", "o"), ("▁", "Hello"), ("▁", "w"), ("o", "r"), ("l", "d"),
    ("▁w", "or"), ("▁wor", "ld"),
)  # fmt: skip


def sentencepiece_like(*, bos: bool) -> Any:
    """A `tokenizers.Tokenizer` of a few words; `<s>` is 1 and begins every text with `bos`, `</s>` is 2."""
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    decoders, normalizers = tokenizers.decoders, tokenizers.normalizers
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *WORDS, "▁world"]
    vocab = {token: index for index, token in enumerate(tokens)}
    model = tokenizers.models.BPE(vocab, list(MERGES), unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    made = tokenizers.Tokenizer(model)
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.add_special_tokens(["<s>", "</s>", "<unk>"])
    if bos:
        template = tokenizers.processors.TemplateProcessing
        made.post_processor = template(single="<s> $A", special_tokens=[("<s>", 1)])
    return made
