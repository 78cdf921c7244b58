"""`farspan.lens` beside its bound and beside torch, which builds each layer's logits; and attention's statistics.

The bound is one pass of the model, and one `score` of the rows of every layer that is read: what no lens that looks at
the whole vocabulary can do without. torch is given the states of all layers by farspan, in one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F

import farspan
from attention import tensor
from memory import Memory
from timing import Case

TOP = 5
LENS_GOAL, TORCH_GOAL, STATISTICS_GOAL = 1 / 1.2, 3.0, 1 / 0.7
EMBEDDED, QWEN = "embedded model", "Qwen2.5-0.5B's shape, random"
SHALLOW = "Qwen2.5-0.5B's width, random, 4 layers, a quarter of V"
SHAPES = {QWEN: (24, 151_936), SHALLOW: (4, 151_936 // 4)}


def model_of(name: str) -> farspan.Transformer:
    if name == EMBEDDED:
        return farspan.load_embedded()[0].requires_grad_(False)
    torch.manual_seed(0)
    layers, vocab = SHAPES[name]
    config = farspan.Config(
        vocab_size=vocab, hidden_size=896, intermediate_size=4864, num_hidden_layers=layers, num_attention_heads=14,
        num_key_value_heads=2, attention_bias=True, tie_word_embeddings=True,
    )  # fmt: skip
    return farspan.Transformer(config).requires_grad_(False)


def ids_of(model: farspan.Transformer, tokens: int) -> torch.Tensor:
    return torch.randint(model.config.vocab_size, (1, tokens), generator=torch.Generator().manual_seed(0))


def bound(model: farspan.Transformer, ids: torch.Tensor, *, with_pass: bool) -> None:
    """`score` of as many rows as there are layers and tokens, layer by layer."""
    hidden = model(ids)[0] if with_pass else torch.ones(ids.shape[1], model.config.hidden_size)
    for _ in range(model.config.num_hidden_layers + 1):
        farspan.score(hidden, model.unembedding, ids[0], top=TOP)


@torch.no_grad()
def with_logits(model: farspan.Transformer, ids: torch.Tensor) -> list[tuple[torch.Tensor, ...]]:
    """The fields of a lens from logits, those of one layer at a time and of the last."""
    states, weight, targets = model.hidden_states(ids)[:, 0], model.unembedding, ids[0].roll(-1)
    last = F.linear(model.final_norm(states[-1]), weight).log_softmax(-1)
    share = last.exp()
    fields = []
    for state in states:
        said = F.linear(model.final_norm(state), weight).log_softmax(-1)
        logprob = said.gather(-1, targets[:, None])
        entropy = -(said.exp() * said).sum(-1)
        kl = (share * (last - said)).sum(-1)
        fields.append((entropy, kl, logprob, (said > logprob).sum(-1), *said.topk(TOP)))
    return fields


def reading(name: str, tokens: int, who: str) -> tuple[list[torch.Tensor], Callable[[], object]]:
    """A model's weights, and a call that reads it: what the memory of is measured."""
    model = model_of(name)
    read = {"farspan": partial(farspan.lens, top=TOP), "torch": with_logits}[who]
    return list(model.parameters()), partial(read, model, ids_of(model, tokens))


def cases(full: bool) -> Iterator[Case | Memory]:
    sizes = ((EMBEDDED, 2048), (QWEN, 512)) if full else ((EMBEDDED, 512), (SHALLOW, 128))
    for name, tokens in sizes:
        model = model_of(name)
        ids = ids_of(model, tokens)
        peers: dict[str, tuple[Callable[[], object], float | None]] = {
            "the bound: a pass, score of every layer": (partial(bound, model, ids, with_pass=True), LENS_GOAL),
            "score of every layer alone": (partial(bound, model, ids, with_pass=False), None),
            "torch, logits layer by layer": (partial(with_logits, model, ids), TORCH_GOAL),
        }
        for peer, (other, goal) in peers.items():
            yield Case(
                operation="lens",
                case=f"f32 {name}, T {tokens}",
                peer=peer,
                farspan=partial(farspan.lens, model, ids, top=TOP),
                other=other,
                goal=goal if full else None,
                rounds=2 if name == QWEN else None,
            )
        del model, peers, other
        for who, operation in (("farspan", "lens, peak"), ("torch", "torch, logits layer by layer, peak")):
            yield Memory(
                operation=operation,
                case=f"f32 {name}, T {tokens}",
                suite="lens",
                maker="reading",
                arguments=(name, tokens, who),
                warm=(EMBEDDED, 8, who),
                peak=True,
            )
    for tokens in (1024, 4096) if full else (512,):
        for dtype, label in ((torch.float32, "f32"), (torch.bfloat16, "bf16")):
            query, key, value = (tensor((1, 8, tokens, 64), dtype, seed) for seed in range(3))
            yield Case(
                operation="attention_statistics",
                case=f"{label} 8 heads T {tokens} D 64 causal",
                peer="farspan.attention",
                farspan=partial(farspan.attention_statistics, query, key, causal=True),
                other=partial(farspan.attention, query, key, value, causal=True),
                goal=STATISTICS_GOAL if full else None,
            )
