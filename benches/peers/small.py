"""One training step of the laboratory's small models beside the same model on torch.

A step is what the laboratory takes for bucket_sort: the loss of a batch that is read in slots, the backward pass,
clipping and AdamW. Memory that is freed stays with the process on both sides, as it does in the laboratory.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from farspan.lab.extrapolation import Settings, learning
from farspan.lab.extrapolation.subject import Subject
from farspan.lab.tasks.layout import Sequences
from farspan.model import Config
from farspan.training.heap import freed_memory_stays
from timing import Case
from train import step_of

GOAL = 1.5


def cases(full: bool) -> Iterator[Case]:
    with freed_memory_stays():
        yield from in_steady_memory(full)


def in_steady_memory(full: bool) -> Iterator[Case]:
    (trial,) = Settings("bucket_sort", schemes=("rope",), steps=400, seeds=1).trials()
    for length in (20, 40) if full else (40,):
        _, sequences = learning.sequences_of(trial, length, trial.settings.batch, seed=1)
        learner = learning.Learner(trial, Subject(trial), None)
        config = learner.subject.model.config
        eager = Eager(config)
        weights = list(eager.parameters())
        optimizer = torch.optim.AdamW(weights, lr=1e-4, betas=(0.9, 0.98), weight_decay=0.0)
        yield Case(
            operation="training step",
            case=f"f32 bucket_sort, {config.num_hidden_layers} layers of {config.hidden_size}, "
            f"batch {trial.settings.batch}, length {length}",
            peer="torch SDPA, cross_entropy",
            farspan=partial(learner.take, sequences),
            other=step_of(weights, partial(eager.loss, sequences), optimizer),
            goal=GOAL,
        )


class Eager(nn.Module):
    """A pre-norm transformer with GELU, rotary positions, and no bias."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.hidden_size
        self.embedding = nn.Embedding(config.vocab_size, width)
        self.blocks = nn.ModuleList(EagerBlock(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(width)
        self.head = nn.Linear(width, config.vocab_size, bias=False)
        frequencies = 10000.0 ** (-torch.arange(0, config.dim_per_head, 2) / config.dim_per_head)
        self.frequencies = torch.cat((frequencies, frequencies))

    def forward(self, tokens: Tensor) -> Tensor:
        angles = torch.arange(tokens.shape[1])[:, None] * self.frequencies
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, angles.cos(), angles.sin())
        out: Tensor = self.head(self.norm(x))
        return out

    def loss(self, sequences: Sequences) -> Tensor:
        tokens, targets = map(torch.from_numpy, (sequences.tokens, sequences.targets))
        return F.cross_entropy(self(tokens).flatten(0, 1), targets.flatten())


class EagerBlock(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.heads, self.causal = config.num_attention_heads, config.causal
        self.attention_norm, self.mlp_norm = nn.RMSNorm(width), nn.RMSNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, inner, bias=False), nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        parts = self.qkv(self.attention_norm(x)).unflatten(2, (3, self.heads, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        query, key = (z * cos + torch.cat((-z.chunk(2, -1)[1], z.chunk(2, -1)[0]), -1) * sin for z in (query, key))
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        out: Tensor = x + self.down(F.gelu(self.up(self.mlp_norm(x))))
        return out
