"""`farspan.sample` with the usual settings beside eager programs with the same features on stored logits."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F

import farspan
from attention import NAMES, tensor
from timing import Case
from unembed import DIM, VOCAB

TOP_K, TOP_P, TEMPERATURE, REPETITION, HISTORY = 50, 0.9, 0.7, 1.1, 256
SHARP = 4.0
"""Standard deviation of the logits: that of a language model, not of noise."""


def sorted_pipeline(hidden: torch.Tensor, weight: torch.Tensor, history: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Repetition penalty, temperature, top-k, top-p, exponential race and log-probabilities, by one sort."""
    logits = F.linear(hidden, weight).float()
    seen = logits.gather(1, history)
    logits.scatter_(1, history, torch.where(seen < 0, seen * REPETITION, seen / REPETITION))
    raw = torch.log_softmax(logits, -1)
    falling, ids = torch.sort(logits / TEMPERATURE, dim=-1, descending=True)
    falling[:, TOP_K:] = -torch.inf
    probabilities = torch.softmax(falling, -1)
    falling[probabilities.cumsum(-1) - probabilities >= TOP_P] = -torch.inf
    probabilities = torch.softmax(falling, -1)
    drawn = (probabilities / torch.empty_like(probabilities).exponential_()).argmax(-1, keepdim=True)
    token = ids.gather(1, drawn)
    return token, raw.gather(1, token), probabilities.gather(1, drawn).log()


def processors(hidden: torch.Tensor, weight: torch.Tensor, history: torch.Tensor) -> torch.Tensor:
    """transformers' own logits processors, then `torch.multinomial`, as its `generate` draws."""
    from transformers.generation import logits_process as p

    scores = F.linear(hidden, weight).float()
    chain = (
        p.RepetitionPenaltyLogitsProcessor(REPETITION),
        p.TemperatureLogitsWarper(TEMPERATURE),
        p.TopKLogitsWarper(TOP_K),
        p.TopPLogitsWarper(TOP_P),
    )
    for processor in chain:
        scores = processor(history, scores)
    return torch.multinomial(torch.softmax(scores, -1), 1)


def cases(full: bool) -> Iterator[Case]:
    dtype = torch.bfloat16
    weight = tensor((VOCAB, DIM), dtype, 0).mul_(SHARP * DIM**-0.5)
    for rows in (1, 64) if full else (1,):
        hidden = tensor((rows, DIM), dtype, rows)
        history = torch.randint(0, VOCAB, (rows, HISTORY), generator=torch.Generator().manual_seed(rows))
        offsets = torch.arange(rows + 1) * HISTORY
        plain = partial(farspan.sample, hidden, weight, seed=0, position=0, stream=torch.arange(rows))
        every = partial(
            plain, temperature=TEMPERATURE, top_k=TOP_K, top_p=TOP_P, repetition_penalty=REPETITION,
            history=(history.reshape(-1), offsets), top=5,
        )  # fmt: skip
        label = f"{NAMES[dtype]} B {rows} V {VOCAB} D {DIM}"
        peers = {
            "torch, one sort": (partial(sorted_pipeline, hidden, weight, history), {1: 3.0, 64: 6.0}[rows]),
            "transformers' processors": (partial(processors, hidden, weight, history), None),
            "farspan's plain draw": (plain, 1 / 1.15),
        }
        for peer, (other, goal) in peers.items():
            yield Case(operation="sample with settings", case=label, peer=peer, farspan=every, other=other, goal=goal)
