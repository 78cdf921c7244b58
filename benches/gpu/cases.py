"""What benches/gpu/run.py times: shapes of the models that people run, and what else computes them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import farspan

BANDWIDTH = 4.8e12
"""Bytes a second of an H200, by its data sheet: what bounds are made of. Other GPUs read another share of it."""


@dataclass
class Case:
    """farspan's call and the others', on the same tensors."""

    operation: str
    case: str
    farspan: Callable[[], object]
    peers: dict[str, Callable[[], object]] = field(default_factory=dict)
    bound_ms: float = 0.0
    """What the bytes need that must be read once."""
    tflop: float = 0.0
    """Products, where they and not the bytes are the bound."""


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


def _sdpa(backend: SDPBackend, *tensors: torch.Tensor, **options: bool) -> Callable[[], object]:
    def call() -> object:
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(*tensors, enable_gqa=True, **options)

    return call


def _available(peers: dict[str, Callable[[], object]]) -> dict[str, Callable[[], object]]:
    """Those that run here: a build of torch may lack a backend, a backend may refuse a shape."""
    found = {}
    for name, call in peers.items():
        try:
            call()
            torch.cuda.synchronize()
        except RuntimeError:
            continue
        found[name] = call
    return found


def _peers(*tensors: torch.Tensor, **options: bool) -> dict[str, Callable[[], object]]:
    backends = {"cuDNN": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}
    return _available({f"sdpa {name}": _sdpa(backend, *tensors, **options) for name, backend in backends.items()})


def attention_cases() -> Iterator[Case]:
    """Prefill, bound by products, and decode, bound by reading keys and values."""
    for heads, groups, dim, time in ((64, 8, 128, 8192), (32, 8, 128, 2048), (32, 32, 64, 4096)):
        query, key, value = normal(1, heads, time, dim), normal(1, groups, time, dim), normal(1, groups, time, dim)
        yield Case(
            "prefill", f"bf16 causal heads {heads}/{groups} D {dim} T {time}",
            lambda q=query, k=key, v=value: farspan.attention(q, k, v, causal=True),
            _peers(query, key, value, is_causal=True),
            tflop=2 * heads * time * time * dim / 1e12,
        )  # fmt: skip
    for batch, heads, groups, keys in ((1, 32, 4, 1024), (1, 32, 8, 32768), (8, 32, 8, 8192), (32, 32, 8, 4096)):
        query, key = normal(batch, heads, 1, 128), normal(batch, groups, keys, 128)
        value = normal(batch, groups, keys, 128)
        yield Case(
            "decode", f"bf16 B {batch} heads {heads}/{groups} D 128 keys {keys}",
            lambda q=query, k=key, v=value: farspan.attention(q, k, v),
            _peers(query, key, value),
            bound_ms=2 * key.numel() * 2 / BANDWIDTH * 1e3,
        )  # fmt: skip


def _eager(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """A softmax, and the race of exponentials that gpt-fast draws by."""
    p = torch.softmax((hidden @ weight.T).float() / 0.8, -1)
    return (p / torch.empty_like(p).exponential_(1)).argmax(-1)


def unembedding_cases() -> Iterator[Case]:
    """A draw and a draw with settings at two sizes of model, by batch."""
    compiled = torch.compile(_eager)
    for (vocab, dim), batch in itertools.product(((151_936, 4096), (128_256, 8192)), (1, 8, 64, 128, 256)):
        hidden, weight = normal(batch, dim), normal(vocab, dim) * dim**-0.5
        draws = {"seed": 1, "position": 5, "stream": torch.arange(batch, device="cuda"), "temperature": 0.8}
        bound = weight.numel() * 2 / BANDWIDTH * 1e3
        peers = {
            "torch": lambda h=hidden, w=weight: _eager(h, w),
            "torch.compile": lambda h=hidden, w=weight: compiled(h, w),
            "product alone": lambda h=hidden, w=weight: h @ w.T,
        }
        name = f"bf16 B {batch} V {vocab} D {dim}"
        yield Case("sample", name, lambda h=hidden, w=weight, d=draws: farspan.sample(h, w, **d), peers, bound_ms=bound)
        yield Case(
            "settings", name,
            lambda h=hidden, w=weight, d=draws: farspan.sample(h, w, **d, top_k=50, top_p=0.9),
            {"plain draw": lambda h=hidden, w=weight, d=draws: farspan.sample(h, w, **d)}, bound_ms=bound,
        )  # fmt: skip


def generate_cases() -> Iterator[Case]:
    """Whole steps of a model of a billion weights, which are random: what graphs save of the host's work."""
    config = farspan.Config(
        vocab_size=128_256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
        num_key_value_heads=8, head_dim=64, max_position_embeddings=8192, tie_word_embeddings=True,
    )  # fmt: skip
    model = farspan.Transformer(config, dtype="bfloat16", device="cuda")
    read = sum(weight.numel() for weight in model.parameters()) * 2 / BANDWIDTH * 1e3
    for batch, new in ((1, 64), (8, 64)):
        prompts = torch.randint(config.vocab_size, (batch, 100)).tolist()
        yield Case(
            "generate", f"bf16 1.2 G weights B {batch}, 100 tokens and {new} more",
            lambda p=prompts, n=new: model.generate(p, n, temperature=0.8),
            {"without graphs": lambda p=prompts, n=new: model.generate(p, n, temperature=0.8, graphs=False)},
            bound_ms=new * read,
        )  # fmt: skip
