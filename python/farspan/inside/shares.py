"""`farspan.attribution`: what each part of a model gave to the logit of a token."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from farspan._errors import ArgumentError, BackendError, message
from farspan.inside.reading import require_model
from farspan.model import Transformer
from farspan.model.arguments import check_ids, integer
from farspan.model.decoder import as_ids
from farspan.model.layers import Block, Norm
from farspan.model.operations import Operations


@torch.no_grad()
def attribution(model: Transformer, ids: Any, position: int, token: int) -> Tensor:
    """The shares of each layer's parts in the logit of `token` at `position`: direct logit attribution.

    The residual stream is a sum: the embedding, and what each head and each MLP added. At one position the final norm
    divides all of it by one number, so the logit is a sum too, of one share for each part:

        share(part) = (part * gain / size of the stream) @ unembedding[token]

    Args:
        model: a `farspan.Transformer` whose modules nobody has replaced or hooked.
        ids: `[time]`, or `[1, time]`.
        position: which token's stream is looked at; its logits predict the next one. Negative ones count from the end.
        token: whose logit.

    Returns:
        float64 `[layers, 2 + heads]`, nats. Column 0 is what no part of the layer decides: the bias behind its heads,
        and in the first row also the embedding and the bias of the final norm. Column 1 is the MLP, column 2 + h the
        head h, with its values' bias. All of it adds up to the logit of `farspan.score`, before a soft cap of logits,
        which is no sum.

    Raises:
        ArgumentError, DtypeError: a position or a token that is not there, or several sequences.
        BackendError: hooked or replaced modules, such as adapters, whose share is not in the weights.

    Source: direct logit attribution, Elhage et al. 2021.
    """
    require_model(model)
    ids = as_ids(ids, 1)[None] if np.ndim(ids) == 1 else as_ids(ids, 2)
    if len(ids) != 1 or not ids.numel():
        raise ArgumentError(message("ids", "one sequence, [time] or [1, time]", f"shape {list(ids.shape)}"))
    check_ids(ids, model.config.vocab_size)
    time, vocab = ids.shape[1], model.config.vocab_size
    at, target = _index("position", position, -time, time) % time, _index("token", token, 0, vocab)
    if model.instrumented:
        expected = "one whose modules nobody has hooked or replaced, as their share is not in the weights"
        raise BackendError(message("model", expected, "one with hooks, adapters or other modules"))
    streams: list[Tensor] = []
    mixed: list[Tensor] = []

    def look(operations: Operations, found: Any, *_: Any) -> None:
        mixed.append(operations.as_tensor(found)[0, :, at].double())

    model(ids, tap=lambda _, stream: streams.append(stream[0, at].double()), look=look)
    final = _Linearised(model.norm, streams[-1])
    direction = model.unembedding[target].double() * model.logit_settings.get("scale", 1.0)
    rows = []
    for block, of_heads, before, after in zip(model.layers, mixed, streams[:-1], streams[1:], strict=True):
        heads, bias = _attention_parts(block, of_heads)
        mlp = after - before - heads.sum(0) - bias
        rows.append(final.parts(torch.cat((bias[None], mlp[None], heads))) @ direction)
    shares = torch.stack(rows)
    shares[0, 0] += (final.parts(streams[0]) + final.constant) @ direction
    return shares


def _attention_parts(block: Block, of_heads: Tensor) -> tuple[Tensor, Tensor]:
    """What each head adds to the stream `[heads, dim]`, and what none of them decides `[dim]`."""
    heads, width = of_heads.shape
    out = block.attention.out
    weight = out.weight.double().view(-1, heads, width)
    parts = torch.einsum("dhw,hw->hd", weight, of_heads)
    bias = torch.zeros_like(parts[0]) if out.bias is None else out.bias.double()
    if block.attention_post_norm is not None:
        norm = _Linearised(block.attention_post_norm, parts.sum(0) + bias)
        parts, bias = norm.parts(parts), norm.parts(bias) + norm.constant
    return parts * block.multiplier, bias * block.multiplier


class _Linearised:
    """A norm as it acts on the parts of one row: a factor for each dimension, and a constant."""

    def __init__(self, norm: Norm, row: Tensor) -> None:
        self._centres = norm.kind == "layer"
        centred = row - row.mean() if self._centres else row
        gain = norm.weight.double() + norm.adds_one
        self._factor = gain * (centred.square().mean() + norm.eps).rsqrt()
        self.constant = torch.zeros_like(row) if norm.bias is None else norm.bias.double()

    def parts(self, parts: Tensor) -> Tensor:
        """`[..., dim]`, without the constant."""
        centred = parts - parts.mean(-1, keepdim=True) if self._centres else parts
        return centred * self._factor


def _index(name: str, given: Any, low: int, high: int) -> int:
    try:
        found = integer(given)
    except TypeError:
        raise ArgumentError(message(name, "an integer", repr(given))) from None
    if not low <= found < high:
        raise ArgumentError(message(name, f"{low} to {high - 1}", found))
    return found


attribution.__module__ = "farspan"
