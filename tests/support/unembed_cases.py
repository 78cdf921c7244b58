"""Random unembedding problems."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st

from support.arrays import DTYPES, lay_out

VOCABS = st.one_of(st.integers(1, 70), st.sampled_from([127, 128, 129, 255, 256, 257, 511, 700, 1025, 3000]))
ROWS = st.sampled_from([(), (0,), (1,), (2,), (3, 2), (7,), (8,), (9,), (17,), (40,)])


@dataclass
class Case:
    """Tensors, and the arguments that one operation or another takes beside them."""

    hidden: torch.Tensor
    weight: torch.Tensor
    rules: dict[str, Any]
    draws: dict[str, torch.Tensor | float]
    targets: torch.Tensor
    k: int

    def arguments(self, operation: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments behind hidden and weight."""
        if operation == "sample":
            return (), {**self.draws, **self.rules}
        if operation == "score":
            return (self.targets,), {"top": min(self.k, 128), **self.rules}
        return {"greedy": (), "top": (self.k,)}[operation], self.rules


@st.composite
def unembed_cases(draw: st.DrawFn) -> Case:
    """A problem whose numbers come from one drawn seed, so that hypothesis shrinks the structure."""
    make = torch.Generator().manual_seed(draw(st.integers(0, 2**32), label="numbers"))
    rows, vocab = draw(ROWS, label="rows"), draw(VOCABS, label="vocab")
    dim = draw(st.sampled_from([1, 2, 7, 8, 15, 16, 17, 33, 64, 100, 128, 300]), label="dim")
    dtype = DTYPES[draw(st.sampled_from(list(DTYPES)), label="dtype")]
    hidden = torch.randn(*rows, dim, generator=make)
    weight = (
        torch.randn(vocab, dim, generator=make)
        * draw(st.sampled_from([0.1, 1.0, 5.0, 40.0]), label="sharp")
        * dim**-0.5
    )
    if draw(st.integers(0, 3), label="ties") == 3:  # whole numbers make equal logits, decided by the id
        hidden, weight = (hidden * 2).round(), (weight * 2).round()
    layout = draw(st.sampled_from(["plain", "padded", "expanded"] if rows else ["plain", "padded"]), label="layout")
    hidden, weight = (
        lay_out(hidden.to(dtype), layout),
        lay_out(weight.to(dtype), draw(st.sampled_from(["plain", "padded"]))),
    )

    rules: dict[str, Any] = {}
    if draw(st.booleans(), label="scale"):
        rules["scale"] = draw(st.sampled_from([0.0, 0.3, -1.0, 2.0]))
    if draw(st.booleans(), label="softcap"):
        rules["softcap"] = draw(st.sampled_from([0.5, 10.0, 50.0]))
    if draw(st.booleans(), label="valid_vocab"):
        rules["valid_vocab"] = draw(st.integers(1, vocab))
    if draw(st.booleans(), label="bias"):
        banned = torch.rand(vocab, generator=make) < draw(st.sampled_from([0.0, 0.2, 1.0]), label="banned")
        rules["bias"] = torch.randn(vocab, generator=make).masked_fill(banned, -torch.inf)

    def setting(low: int, high: int, label: str) -> Any:
        per_row = torch.randint(low, high, rows, generator=make)
        return per_row if draw(st.booleans(), label=label) else int(torch.randint(low, high, (), generator=make))

    hot = torch.tensor([0.0, 0.3, 1.0, 1.0, 2.0, 1e-6, 1e6])
    temperature = hot[torch.randint(0, len(hot), rows, generator=make)]
    draws = {
        "seed": setting(-(2**63), 2**63 - 1, "seed per row"),
        "position": setting(0, 2**32, "position per row"),
        "stream": setting(0, 2**32, "stream per row"),
        "temperature": temperature if draw(st.booleans(), label="temperature per row") else 1.0,
    }
    exist = rules.get("valid_vocab", vocab)
    targets = torch.randint(0, exist, rows, generator=make)
    if draw(st.integers(0, 4), label="nan") == 4 and rows and rows[0] and layout != "expanded":
        hidden = hidden.clone()
        hidden.reshape(-1, dim)[torch.randint(0, hidden.numel() // dim, (), generator=make)] = torch.nan
    return Case(hidden, weight, rules, draws, targets, draw(st.integers(0, min(exist, 300)), label="k"))
