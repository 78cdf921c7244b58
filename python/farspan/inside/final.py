"""How far other distributions over tokens are from those that a model ends with."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from farspan._results import Score
from farspan.loss import divergence
from farspan.unembed import score


class FinalDistributions:
    """The distributions p that rows `[rows, dim]` of final hidden states stand for.

    Their divergence from another row's distribution q needs one number of q alone, its logsumexp, where logits are
    linear in hidden states: with the expected row of the unembedding under p,

        mu = softmax(weight @ last) @ weight
        KL(p, q) = lse(q) - lse(p) - (hidden - last) @ mu

    so that a layer costs one pass over the vocabulary. mu is the gradient of p's logsumexp, which `score` has on the
    CPU. A soft cap bends the logits, and half precision would round mu: `divergence` computes both sides then.
    """

    def __init__(self, last: Tensor, weight: Tensor, targets: Tensor, settings: dict[str, Any], top: int) -> None:
        self._last, self._weight, self._settings = last, weight, settings
        self._linear = last.is_cpu and last.dtype == torch.float32 and "softcap" not in settings
        with torch.set_grad_enabled(self._linear):
            self._leaf = last.detach().requires_grad_(self._linear)
            found = score(self._leaf, weight, targets, top=top, **settings)
        self._lse = found.lse
        self.said = Score(*(None if field is None else field.detach() for field in found))
        """What `score` says of p."""

    @cached_property
    def _expected(self) -> Tensor:
        """mu, for whoever asks for a divergence."""
        (expected,) = torch.autograd.grad(self._lse, self._leaf, torch.ones_like(self._lse))
        return expected

    def divergence(self, hidden: Tensor, lse: Tensor) -> Tensor:
        """KL(p, q) in nats for the rows q of `hidden` `[layers, rows, dim]`, whose logsumexps are known."""
        if not self._linear:
            last = self._last.expand(hidden.shape).contiguous()
            found: Tensor = divergence(hidden, self._weight, last, **self._settings)
            return found
        apart = hidden - self._last
        apart *= self._expected
        return (lse - self.said.lse - row_sums(apart)).clamp_(min=0)


def row_sums(x: Tensor) -> Tensor:
    """Sums over the last axis whose bits depend on the row alone, as the order of additions does."""
    while (width := x.shape[-1]) > 1:
        half = width // 2
        pairs = x[..., :half] + x[..., half : 2 * half]
        x = pairs if width % 2 == 0 else torch.cat((pairs, x[..., -1:]), -1)
    return x[..., 0]
