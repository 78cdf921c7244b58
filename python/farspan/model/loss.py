"""`Transformer.loss`: from ids and targets to one number, or one for each target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from farspan._errors import ArgumentError, DtypeError, message
from farspan.model.arguments import counted_lengths
from farspan.model.decoder import Decoder, as_ids
from farspan.model.operations import FUNCTIONS


def loss(
    model: Decoder, ids: Any, targets: Any, lengths: Sequence[int] | None, ignore_index: int, reduction: str,
    recompute: bool, positions: Any = None,
) -> Tensor:  # fmt: skip
    """The meaning of `Transformer.loss`."""
    ids = as_ids(ids, 2 if lengths is None else 1)
    if targets is None:
        model.require_causal("targets")
    wanted = None if targets is None else as_targets(targets, ids)
    hidden = model(ids, lengths=lengths, recompute=recompute, positions=positions)
    if wanted is None:
        hidden, wanted = _next_tokens(hidden, ids, lengths)
    # Autograd keeps the weight, and takes none that was made in inference mode.
    weight = model.unembedding if model.wants_gradient else model.unembedding.detach()
    found: Tensor = FUNCTIONS[model.backend].linear_cross_entropy(
        hidden, weight, wanted.to(hidden.device), ignore_index=ignore_index, reduction=reduction,
        **model.logit_settings,
    )  # fmt: skip
    return found


def _next_tokens(hidden: Tensor, ids: Tensor, lengths: Sequence[int] | None) -> tuple[Tensor, Tensor]:
    """The hidden states that have a next token in their sequence, and those tokens. A position scheme may look at the
    length of a sequence, so its last token is read, although it predicts nothing."""
    if lengths is None:
        return hidden[:, :-1], ids[:, 1:]
    last = torch.tensor(counted_lengths(lengths, len(ids))).cumsum(0) - 1
    predicting = torch.ones(len(ids), dtype=torch.bool).index_fill(0, last, False)
    return hidden[predicting], ids[1:][predicting[:-1]]


def as_targets(targets: Any, ids: Tensor) -> Tensor:
    """int64, one for each id."""
    found = torch.as_tensor(targets)
    if found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
        raise DtypeError(message("targets", "integers, one for each id", found.dtype))
    if found.shape != ids.shape:
        expected = f"shape {list(ids.shape)}, that of ids"
        raise ArgumentError(message("targets", expected, f"shape {list(found.shape)}"))
    return found.to(torch.int64)
