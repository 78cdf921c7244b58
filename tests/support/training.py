"""Small models that learn in seconds, documents for them, and what a run left in its folder."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from farspan.model import Config, Transformer
from farspan.training import Recipe

VOCAB = 61
CONFIG = Config(
    vocab_size=VOCAB, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1, max_position_embeddings=64, tie_word_embeddings=True,
)  # fmt: skip
RECIPE = Recipe(steps=12, batch=2, context=16, learning_rate=1e-2, warmup=2, save_every=4, validate_every=5)
BACKEND = "fused"


def learner(dtype: str = "float32", **changes: Any) -> Transformer:
    """The same random weights at each call."""
    torch.manual_seed(5)
    return Transformer(Config(**{**settings(), **changes}), backend=BACKEND, dtype=dtype)


def settings() -> dict[str, Any]:
    """What `CONFIG` was made from."""
    return {field.name: getattr(CONFIG, field.name) for field in dataclasses.fields(CONFIG) if field.init}


def documents(count: int = 30, seed: int = 0) -> list[list[int]]:
    """Id lists of 2 to 39 tokens, each rising by one from token to token but for some noise."""
    random = np.random.default_rng(seed)
    return [
        ((random.integers(VOCAB) + np.arange(random.integers(2, 40)) + (random.random() < 0.1)) % VOCAB).tolist()
        for _ in range(count)
    ]


def log_of(folder: Path) -> list[dict[str, Any]]:
    """The lines of log.jsonl."""
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def without_time(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What two equal runs have in common."""
    return [{name: value for name, value in line.items() if name != "seconds"} for line in log]


def same_weights(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    """Bit for bit."""
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
