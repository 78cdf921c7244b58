"""What benches/gpu/run.py times: shapes of the models that people run, and what else computes them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import farspan

Call = Callable[[], Any]


@dataclass
class Sides:
    """farspan's call and the others', on the same tensors."""

    farspan: Call
    peers: dict[str, Call] = field(default_factory=dict)
    read: float = 0.0
    """Bytes that must be read once."""
    flop: float = 0.0
    """Operations of the products."""


@dataclass(frozen=True)
class Case:
    """A line of the results. Its tensors are made when it is measured."""

    operation: str
    name: str
    build: Callable[[], Sides]
    quick: bool = False
    """Whether the short run has it too."""
    captures: bool = True
    """Whether a graph can hold it: the host decides nothing in it."""


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


def bytes_of(*tensors: torch.Tensor) -> int:
    return sum(tensor.numel() * tensor.itemsize for tensor in tensors)


def _sdpa(backend: SDPBackend, *tensors: torch.Tensor, **options: bool) -> Any:
    with sdpa_kernel(backend):
        return F.scaled_dot_product_attention(*tensors, enable_gqa=True, **options)


def _peers(*tensors: torch.Tensor, **options: bool) -> dict[str, Call]:
    backends = {"cuDNN": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}
    return {f"sdpa {name}": partial(_sdpa, backend, *tensors, **options) for name, backend in backends.items()}


def _rotary(dim: int) -> farspan.Rotary:
    return farspan.Rotary(1e4 ** -(torch.arange(0, dim, 2, device="cuda") / dim))


def _turned(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """The rotation as models do it in torch."""
    first, second = x.float().chunk(2, -1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1).to(x.dtype)


# ------------------------------------------------------------------------------------------------------------ attention


def _prefill(heads: int, groups: int, dim: int, time: int) -> Sides:
    query, key, value = normal(1, heads, time, dim), normal(1, groups, time, dim), normal(1, groups, time, dim)
    ours = partial(farspan.attention, query, key, value, causal=True)
    return Sides(ours, _peers(query, key, value, is_causal=True), flop=2 * heads * time * time * dim)


def _rotary_prefill(heads: int, groups: int, dim: int, time: int) -> Sides:
    query, key, value = normal(1, heads, time, dim), normal(1, groups, time, dim), normal(1, groups, time, dim)
    rotary = _rotary(dim)
    angles = torch.arange(time, device="cuda")[:, None] * rotary.inv_freq

    def eager() -> Any:
        turned = _turned(query, angles), _turned(key, angles), value
        return F.scaled_dot_product_attention(*turned, enable_gqa=True, is_causal=True)

    return Sides(
        partial(farspan.attention, query, key, value, causal=True, rotary=rotary),
        {
            "rotation and sdpa of torch": eager,
            "farspan without rotation": partial(farspan.attention, query, key, value, causal=True),
        },
        flop=2 * heads * time * time * dim,
    )


def _windowed_prefill(heads: int, groups: int, dim: int, time: int, window: int) -> Sides:
    query, key, value = normal(1, heads, time, dim), normal(1, groups, time, dim), normal(1, groups, time, dim)
    ours = partial(farspan.attention, query, key, value, causal=True, window=window)
    whole = {f"{name}, whole": call for name, call in _peers(query, key, value, is_causal=True).items()}
    return Sides(ours, whole, flop=4 * heads * time * window * dim)


def _ragged_prefill(heads: int, groups: int, dim: int, lengths: tuple[int, ...]) -> Sides:
    total = sum(lengths)
    query, key, value = normal(total, heads, dim), normal(total, groups, dim), normal(total, groups, dim)
    offsets = torch.tensor([0, *itertools.accumulate(lengths)], device="cuda")
    apart = [
        [x[None, start : start + length].transpose(1, 2).contiguous() for x in (query, key, value)]
        for start, length in zip(itertools.accumulate(lengths, initial=0), lengths, strict=False)
    ]

    def one_by_one() -> Any:
        return [F.scaled_dot_product_attention(*x, enable_gqa=True, is_causal=True) for x in apart]

    ours = partial(farspan.attention, query, key, value, causal=True, query_offsets=offsets, key_offsets=offsets)
    flop = sum(2 * heads * length * length * dim for length in lengths)
    return Sides(ours, {"sdpa one by one": one_by_one}, flop=flop)


def _decode(batch: int, heads: int, groups: int, keys: int, rotated: bool = False) -> Sides:
    query, key, value = normal(batch, heads, 1, 128), normal(batch, groups, keys, 128), normal(batch, groups, keys, 128)
    rotary = _rotary(128) if rotated else None
    ours = partial(farspan.attention, query, key, value, causal=True, rotary=rotary)
    plain = {"farspan without rotation": partial(farspan.attention, query, key, value, causal=True)} if rotated else {}
    return Sides(ours, plain | _peers(query, key, value), read=bytes_of(key, value))


def _paged_decode(batch: int, heads: int, groups: int, keys: int, size: int) -> Sides:
    query, pages = normal(batch, heads, 1, 128), batch * keys // size
    key, value = normal(pages, groups, size, 128), normal(pages, groups, size, 128)
    table = torch.randperm(pages, device="cuda").view(batch, -1)
    whole = normal(batch, groups, keys, 128), normal(batch, groups, keys, 128)
    peers = {"farspan without pages": partial(farspan.attention, query, *whole, causal=True)}
    ours = partial(farspan.attention, query, key, value, causal=True, block_table=table)
    return Sides(ours, peers | _peers(query, *whole), read=bytes_of(key, value))


def _backward(heads: int, groups: int, dim: int, time: int) -> Sides:
    """Forward and backward of all three gradients: two products, then five."""
    shapes = (heads, groups, groups)
    query, key, value = (normal(1, count, time, dim).requires_grad_() for count in shapes)
    upstream = normal(1, heads, time, dim)

    def step(attention: Call) -> None:
        torch.autograd.grad(attention(), (query, key, value), upstream)

    peers = _peers(query, key, value, is_causal=True)
    ours = partial(farspan.attention, query, key, value, causal=True)
    return Sides(
        partial(step, ours),
        {name: partial(step, call) for name, call in peers.items()},
        flop=7 * heads * time * time * dim,
    )


def attention_cases() -> Iterator[Case]:
    """Prefill and training, bound by products, and decode, bound by reading keys and values."""
    for at, shape in enumerate(((64, 8, 128, 8192), (32, 8, 128, 2048), (32, 32, 64, 4096))):
        name = "bf16 causal heads {}/{} D {} T {}".format(*shape)
        yield Case("prefill", name, partial(_prefill, *shape), quick=at == 0)
    large = (32, 8, 128, 8192)
    name = "bf16 causal heads {}/{} D {} T {}".format(*large)
    yield Case("prefill", f"{name}, rotary", partial(_rotary_prefill, *large), quick=True)
    yield Case("prefill", f"{name}, window 1024", partial(_windowed_prefill, *large, 1024), quick=True)
    lengths = tuple(256 * (1 + at % 8) for at in range(32))
    name = f"bf16 causal heads 32/8 D 128, 32 sequences of {min(lengths)} to {max(lengths)}"
    yield Case("prefill", name, partial(_ragged_prefill, 32, 8, 128, lengths), quick=True)
    for at, shape in enumerate(((32, 8, 128, 4096), (32, 32, 64, 4096))):
        name = "bf16 causal heads {}/{} D {} T {}".format(*shape)
        yield Case("backward", name, partial(_backward, *shape), quick=at == 0, captures=False)
    for at, shape in enumerate(((1, 32, 8, 32768), (1, 32, 4, 1024), (8, 32, 8, 8192), (32, 32, 8, 4096))):
        name = "bf16 B {} heads {}/{} D 128 keys {}".format(*shape)
        yield Case("decode", name, partial(_decode, *shape), quick=at in (0, 2))
    shape = (8, 32, 8, 8192)
    name = "bf16 B {} heads {}/{} D 128 keys {}".format(*shape)
    yield Case("decode", f"{name}, rotary", partial(_decode, *shape, rotated=True), quick=True)
    for size in (16, 64):
        yield Case("decode", f"{name}, pages of {size}", partial(_paged_decode, *shape, size), quick=size == 16)


def _statistics(heads: int, groups: int, dim: int, time: int) -> Sides:
    query, key = normal(1, heads, time, dim), normal(1, groups, time, dim)
    forward = partial(farspan.attention, query, key, key, causal=True)
    ours = partial(farspan.attention_statistics, query, key, causal=True)
    return Sides(ours, {"farspan.attention": forward}, flop=heads * time * time * dim)


def statistics_cases() -> Iterator[Case]:
    """What attention looks at, beside attention itself: a product less, and sums of the weights more."""
    shape = (32, 8, 128, 4096)
    yield Case("statistics", "bf16 causal heads {}/{} D {} T {}".format(*shape), partial(_statistics, *shape), True)


# ---------------------------------------------------------------------------------------------------------- unembedding


def _eager(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """A softmax, and the race of exponentials that gpt-fast draws by."""
    p = torch.softmax((hidden @ weight.T).float() / 0.8, -1)
    return (p / torch.empty_like(p).exponential_(1)).argmax(-1)


def _draw(vocab: int, dim: int, batch: int, compiled: bool) -> Sides:
    hidden, weight = normal(batch, dim), normal(vocab, dim) * dim**-0.5
    peers = {"torch": partial(_eager, hidden, weight), "product alone": lambda: hidden @ weight.T}
    if compiled:
        peers["torch.compile"] = partial(torch.compile(_eager), hidden, weight)
    draws = _draws(batch)
    ours = partial(farspan.sample, hidden, weight, **draws)
    return Sides(ours, peers, read=bytes_of(weight), flop=2 * batch * vocab * dim)


def _draw_with_settings(vocab: int, dim: int, batch: int) -> Sides:
    hidden, weight = normal(batch, dim), normal(vocab, dim) * dim**-0.5
    draw = partial(farspan.sample, hidden, weight, **_draws(batch))
    flop = 2 * batch * vocab * dim
    return Sides(partial(draw, top_k=50, top_p=0.9), {"plain draw": draw}, read=bytes_of(weight), flop=flop)


def _draws(batch: int) -> dict[str, Any]:
    return {"seed": 1, "position": 5, "stream": torch.arange(batch, device="cuda"), "temperature": 0.8}


def unembedding_cases(compiled: bool = True) -> Iterator[Case]:
    """A draw and a draw with settings at two sizes of model, by batch."""
    for (vocab, dim), batch in itertools.product(((151_936, 4096), (128_256, 8192)), (1, 8, 64, 128, 256)):
        name, quick = f"bf16 B {batch} V {vocab} D {dim}", dim == 4096 and batch in (1, 64)
        yield Case("sample", name, partial(_draw, vocab, dim, batch, compiled), quick)
        yield Case("settings", name, partial(_draw_with_settings, vocab, dim, batch), quick, captures=False)


# --------------------------------------------------------------------------------------------------------------- losses


def _cross_entropy(rows: int, vocab: int, dim: int) -> Sides:
    """Forward and backward. The logits are computed twice, so their products are four; torch's are three."""
    hidden, weight = normal(rows, dim).requires_grad_(), (normal(vocab, dim) * dim**-0.5).requires_grad_()
    targets = torch.randint(vocab, (rows,), device="cuda")

    def step(loss: Callable[[], torch.Tensor]) -> None:
        torch.autograd.grad(loss(), (hidden, weight))

    def eager() -> torch.Tensor:
        return F.cross_entropy((hidden @ weight.T).float(), targets)

    def ours() -> torch.Tensor:
        return farspan.linear_cross_entropy(hidden, weight, targets)

    return Sides(partial(step, ours), {"torch": partial(step, eager)}, flop=6 * rows * vocab * dim)


def loss_cases() -> Iterator[Case]:
    """A training step's loss with both gradients, at two sizes of model."""
    for at, shape in enumerate(((4096, 128_256, 4096), (8192, 151_936, 896))):
        yield Case("loss", "bf16 rows {} V {} D {}".format(*shape), partial(_cross_entropy, *shape), quick=at == 0)


# ------------------------------------------------------------------------------------------------------------- generate


def _generate(batch: int, new: int) -> Sides:
    config = farspan.Config(
        vocab_size=128_256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
        num_key_value_heads=8, head_dim=64, max_position_embeddings=8192, tie_word_embeddings=True,
    )  # fmt: skip
    model = farspan.Transformer(config, dtype="bfloat16", device="cuda")
    prompts = torch.randint(config.vocab_size, (batch, 100)).tolist()
    write = partial(model.generate, prompts, new, temperature=0.8)
    read = new * bytes_of(*model.parameters())
    return Sides(write, {"without graphs": partial(write, graphs=False)}, read=read)


def generate_cases() -> Iterator[Case]:
    """Whole steps of a model of a billion weights, which are random: what graphs save of the host's work."""
    for batch, new in ((1, 64), (8, 64)):
        name = f"bf16 1.2 G weights B {batch}, 100 tokens and {new} more"
        yield Case("generate", name, partial(_generate, batch, new), quick=batch == 1, captures=False)


def all_cases(quick: bool) -> list[Case]:
    cases = [
        *attention_cases(),
        *statistics_cases(),
        *unembedding_cases(compiled=not quick),
        *loss_cases(),
        *generate_cases(),
    ]
    return [case for case in cases if case.quick or not quick]
