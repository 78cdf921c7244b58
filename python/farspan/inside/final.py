"""How far other distributions over tokens are from those that a model ends with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

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

    def __init__(self, last: Tensor, weight: Tensor, settings: dict[str, Any]) -> None:
        self._last, self._weight, self._settings = last, weight, settings
        self._linear = last.is_cpu and last.dtype == torch.float32 and "softcap" not in settings
        if self._linear:
            with torch.enable_grad():
                leaf = last.detach().requires_grad_()
                lse = score(leaf, weight, 0, **settings).lse
                (self._expected,) = torch.autograd.grad(lse.sum(), leaf)
            self._lse = lse.detach()

    def divergence(self, hidden: Tensor, lse: Tensor) -> Tensor:
        """KL(p, q) in nats for the rows q of `hidden`, whose logsumexps are known."""
        if not self._linear:
            found: Tensor = divergence(hidden, self._weight, self._last, **self._settings)
            return found
        apart = row_sums((hidden - self._last) * self._expected)
        return (lse - self._lse - apart).clamp_(min=0)


def row_sums(x: Tensor) -> Tensor:
    """Sums over the last axis whose bits depend on the row alone, as the order of additions does."""
    while (width := x.shape[-1]) > 1:
        half = width // 2
        pairs = x[..., :half] + x[..., half : 2 * half]
        x = pairs if width % 2 == 0 else torch.cat((pairs, x[..., -1:]), -1)
    return x[..., 0]
