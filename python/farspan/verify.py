"""Speculative decoding without probabilities: a draft is right when it is the token that the target draws itself."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from farspan._backend import arrays
from farspan._errors import ArgumentError, DtypeError, message
from farspan.unembed import sample

__all__ = ["Verified", "verify"]


class Verified(NamedTuple):
    """One row per sequence, int64 arrays of the kind and device of `hidden`."""

    accepted: Any
    """`[rows]`: how many of the first drafts are the tokens that `sample` draws in their places."""
    token: Any
    """`[rows]`: the token that `sample` draws in the next place."""


def verify(
    hidden: Any, weight: Any, draft_tokens: Any, *, seed: Any, position: Any, stream: Any = 0, **settings: Any
) -> Verified:
    """Check drafts of the next n tokens of each sequence against the tokens that `sample` draws.

        own = sample(hidden, weight, position=position + arange(n + 1), ...).token
        accepted = (own[:, :n] == draft_tokens).cumprod(-1).sum(-1)
        token = own.gather(-1, accepted)

    The noise is a function of seed, stream, position and token id, so `own` is what drawing one by one would give. The
    text does not depend on the drafter, and no probabilities of the drafter are needed.

    Args:
        hidden: `[rows, n + 1, dim]`, the states from which the n drafted tokens and the one after them are drawn.
        weight: `[vocab, dim]`.
        draft_tokens: `[rows, n]`, int32 or int64. What is no id of the vocabulary, as -1 where a row has fewer drafts
            than others, is never accepted.
        seed, stream: as in `sample`, a scalar or `[rows]`.
        position: of the first draft, a scalar or `[rows]`.
        settings: everything else that `sample` takes, except `samples` and `top`. Per-row values are `[rows]`, with one
            list or mask per row. A history ends before the first draft, and grows with the drafts.

    Returns:
        A `Verified`. The token of a row is -1 if `sample` would flag it.

    Raises:
        ArgumentError, DtypeError, BackendError: as in `sample`.

    Source: coupling by Gumbel noise, Daliri, Musco and Suresh 2024 (arXiv 2408.07978).
    """
    arrays.large("hidden", hidden)
    arrays.rank("hidden", hidden, "[rows, drafts + 1, dim]")
    for name in ("samples", "top"):
        if name in settings:
            raise ArgumentError(
                message(name, "no such setting of verify, which checks one draw a place", settings[name])
            )
    rows, places = hidden.shape[:2]
    draft = _draft(draft_tokens, hidden)
    first = arrays.per_row("position", position, hidden, (rows,), integer=True, high=2**32).reshape(-1, 1)
    if isinstance(hidden, np.ndarray):
        positions = np.broadcast_to(first + np.arange(places), (rows, places))
    else:
        positions = (first + arrays.small("position", np.arange(places), hidden)).expand(rows, places)
    vocab = _vocabulary(weight, **settings)
    spread = {name: _per_place(name, x, draft, vocab) for name, x in settings.items() if x is not None}
    seed, stream = _spread("seed", seed, draft), _spread("stream", stream, draft)
    own = sample(hidden, weight, seed=seed, position=positions, stream=stream, **spread).token
    accepted = agreement(own, draft)
    if isinstance(hidden, np.ndarray):
        return Verified(accepted.astype(np.int64), np.take_along_axis(own, accepted[:, None], 1)[:, 0])
    return Verified(accepted, own.gather(-1, accepted[:, None])[:, 0])


def agreement(own: Any, draft: Any) -> Any:
    """`[rows]`: how many of the first drafts `[rows, n]` are what was drawn in their places, `own` `[rows, n + 1]`, in
    which -1 says that nothing was."""
    return ((own[:, :-1] == draft) & (draft >= 0)).cumprod(-1).sum(-1)


def _vocabulary(weight: Any, valid_vocab: Any = None, shard: Any = None, **_: Any) -> int:
    """How many ids there are, of arguments that `sample` has yet to check."""
    vocab = getattr(shard, "vocab", len(weight))
    return vocab if valid_vocab is None else arrays.count("valid_vocab", valid_vocab)


def _draft(draft_tokens: Any, hidden: Any) -> Any:
    draft = arrays.small("draft_tokens", draft_tokens, hidden)
    if arrays.dtype_name(draft) not in ("int32", "int64") and 0 not in draft.shape:
        raise DtypeError(message("draft_tokens", "int32 or int64", arrays.describe(draft)))
    expected = (hidden.shape[0], hidden.shape[1] - 1)
    if tuple(draft.shape) != expected:
        given = f"{list(draft.shape)} beside hidden {list(hidden.shape)}"
        raise ArgumentError(message("draft_tokens", "shape [rows, drafts], one less than the places of hidden", given))
    return draft


def _per_place(name: str, x: Any, draft: Any, vocab: int) -> Any:
    """A setting of one value per row as one of one value per place."""
    rows, places = draft.shape[0], draft.shape[1] + 1
    if name == "history":
        ids, spans = _spans(name, x, rows)
        drafts = _numpy(draft)
        # Place i of a row has seen the row's history and its first i drafts. Places behind one that is no token are
        # never reached.
        seen = ((drafts >= 0) & (drafts < vocab)).cumprod(-1).sum(-1)
        lists = [
            np.concatenate([ids[span], drafts[row, : min(i, seen[row])]])
            for row, span in enumerate(spans) for i in range(places)
        ]  # fmt: skip
        return np.concatenate([ids[:0], *lists]), np.cumsum([0, *map(len, lists)])
    if name in ("banned", "allowed", "logit_bias"):
        *columns, spans = _spans(name, x, rows)
        repeated = [span for span in spans for _ in range(places)]
        lengths = [span.stop - span.start for span in repeated]
        return (*(np.concatenate([c[:0], *(c[span] for span in repeated)]) for c in columns), np.cumsum([0, *lengths]))
    if name in ("mask", "prompt_lengths"):
        return np.repeat(_numpy(x), places, 0)
    return x if name in ("bias", "order", "shard", "scale", "softcap", "valid_vocab") else _spread(name, x, draft)


def _spans(name: str, lists: Any, rows: int) -> list[Any]:
    """The columns of ragged lists, then the span of each row."""
    if not isinstance(lists, (tuple, list)) or len(lists) < 2:
        raise DtypeError(message(name, "(ids [total], offsets [rows + 1])", arrays.describe(lists)))
    *columns, offsets = (column if column.size else column.astype(np.int64) for column in map(_numpy, lists))
    ends = offsets.tolist()
    total = len(columns[0])
    if len(ends) != rows + 1 or ends[0] != 0 or ends[-1] != total or sorted(ends) != ends:
        raise ArgumentError(message(name, f"{rows + 1} offsets that rise from 0 to {total}", ends[:8]))
    return [*columns, [slice(a, b) for a, b in pairwise(ends)]]


def _spread(name: str, x: Any, draft: Any) -> Any:
    """`[rows]` as `[rows, places]`; a scalar stays one."""
    rows, places = draft.shape[0], draft.shape[1] + 1
    x = np.asarray(x) if isinstance(x, (list, tuple)) else x
    if not getattr(x, "ndim", 0):
        return x
    if tuple(x.shape) != (rows,):
        raise ArgumentError(message(name, f"a scalar or shape [{rows}], one per row of drafts", list(x.shape)))
    return np.repeat(x[:, None], places, 1) if isinstance(x, np.ndarray) else x[:, None].expand(-1, places)


def _numpy(x: Any) -> np.ndarray:
    return x.cpu().numpy() if arrays.is_tensor(x) else np.asarray(x)


for _public in (Verified, verify):
    _public.__module__ = "farspan"
