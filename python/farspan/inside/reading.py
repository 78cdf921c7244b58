"""`farspan.lens`: what each layer's residual stream would say, if it were the last one."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from farspan._backend import arrays
from farspan._backend.settings import MAX_TOP
from farspan._errors import ArgumentError, DtypeError, message
from farspan._results import Score
from farspan.inside.final import FinalDistributions
from farspan.inside.notebook import frame_of, inline_pages
from farspan.inside.parts import Part, parts_of
from farspan.inside.translators import Translators
from farspan.model import Transformer
from farspan.model.arguments import check_ids, integers
from farspan.model.decoder import as_ids
from farspan.model.loss import as_targets
from farspan.model.passes import check_length
from farspan.tokenizer import Tokenizer
from farspan.unembed import score
from farspan.unembed import top as likeliest

ROWS = 512
"""States that are asked together what they say, of several layers where there are few of each."""


@dataclass(frozen=True, eq=False)
class Lens:
    """What `farspan.lens` read at each layer and position. The layer 0 is the embedding."""

    entropy: Tensor
    """float32 `[layers + 1, batch, time]`, nats: how undecided the layer is."""
    kl: Tensor
    """float32, nats: the divergence of the final distribution from the layer's, 0 for the last layer."""
    logprob: Tensor
    """float32, nats, of the target; NaN where there is none."""
    rank: Tensor
    """int64: how many tokens have a larger logit than the target, or an equal one and a lower id; -1 without target."""
    top_token: Tensor
    """int64 `[layers + 1, batch, time, top]`: the most likely tokens, ties by the lowest id."""
    top_logprob: Tensor
    """float32, nats, of those."""
    layers: tuple[int, ...]
    """The layers that were read."""
    positions: tuple[int, ...]
    """The positions that were read."""
    tokens: Tensor
    """int64 `[batch, time]`: the ids that stand there."""
    targets: Tensor
    """int64 `[batch, time]`: the ids that `logprob` and `rank` are of, -1 where there is none."""
    tokenizer: Tokenizer | None = field(default=None, repr=False)
    """What notebooks write ids by."""
    translated: bool = False
    """Whether translators moved the states."""

    def to_frame(self) -> Any:
        """A pandas DataFrame: a row for each layer, sequence and position, two columns for each of the likeliest
        tokens. BackendError: pandas is not installed."""
        return frame_of(self)

    def _repr_html_(self) -> str:
        """What notebooks show: the page of `farspan lens` for each of the first sequences."""
        return inline_pages(self)

    def __repr__(self) -> str:
        layers, batch, time, top = self.top_token.shape
        return f"Lens(layers={layers}, batch={batch}, time={time}, top={top})"


# A gradient is a part of how divergences are computed. `inference_mode(False)` stands above `no_grad`, since it turns
# gradients on.
@torch.inference_mode(False)
@torch.no_grad()
def lens(
    model: Transformer,
    ids: Any,
    *,
    top: int = 5,
    targets: Any = None,
    translators: Translators | None = None,
    layers: Iterable[int] | None = None,
    positions: Iterable[int] | None = None,
    tokenizer: Tokenizer | None = None,
) -> Lens:
    """What a model would predict if it stopped after each of its layers, without logits in memory.

        logits = unembed(model.final_norm(h))                                # of layer l's state h
        logits = unembed(model.final_norm(h + A[l] @ h + b[l]))              # with translators; never the last layer

    The model reads a long text in parts, and each part is read while the states of its layers are there. So beside the
    text's keys and values the memory does not grow with its length. A model that sees what is to come, one whose
    frequencies or positions depend on the length, one of the reference backend, or one with hooks or adapters reads a
    long text as a whole, and twice: for the final distributions, and for its layers in turn.

    Args:
        model: a `farspan.Transformer`.
        ids: `[batch, time]`.
        top: how many of the most likely tokens to report.
        targets: `[batch, time]` ids. None: the next token, and none for the last position.
        translators: a `farspan.Translators`, such as `farspan.train_lens` gives. None: the logit lens.
        layers: which layers to read, 0 (the embedding) to the number of layers; negative ones count from the end.
        positions: which positions to read, likewise.
        tokenizer: what notebooks and `Lens.to_frame` write ids by. None: numbers.

    Returns:
        A `Lens`. The last layer has the bits of `farspan.score` and `farspan.top` of `model(ids)`, and a sequence has
        the same bits in every batch.

    Raises:
        ArgumentError, DtypeError: shapes that do not fit, ids or targets outside the vocabulary, a top past it, or no
            targets for a model of both directions.

    Sources: the logit lens, nostalgebraist 2020; the tuned lens, Belrose et al. 2023.
    """
    require_model(model)
    if targets is None:
        model.require_causal("targets")
    depth, vocab = model.config.num_hidden_layers, model.config.vocab_size
    ids = as_ids(ids, 2)
    if not ids.numel():
        raise ArgumentError(message("ids", "at least one token", f"shape {list(ids.shape)}"))
    check_ids(ids, vocab)
    if arrays.count("top", top) > vocab:
        raise ArgumentError(message("top", f"0 to {vocab}, the number of tokens", top))
    if translators is not None:
        if not isinstance(translators, Translators):
            raise DtypeError(message("translators", "farspan.Translators or None", type(translators).__name__))
        translators.require_fit(model)
    read = _indices("layers", layers, depth + 1)
    if len(set(read)) < len(read):
        raise ArgumentError(message("layers", "each layer once", list(read)))
    places = _indices("positions", positions, ids.shape[1])
    check_length(model.config, [ids.shape[1]])
    batch, time = len(ids), len(places)
    wanted = _targets(targets, ids, vocab)[:, places]
    reader = _Reader(model, read, wanted.to(model.device), top, translators)
    for part in parts_of(model, len(ids), ids.shape[1], len(read)):
        if part.tokens.start <= max(places, default=-1):
            reader.read(part, ids[part.sequences, part.tokens], places)
    fields = {name: x.view(len(read), batch, time, *x.shape[2:]) for name, x in reader.fields.items()}
    return Lens(
        **fields, layers=read, positions=places, tokens=ids[:, places].cpu(), targets=wanted.cpu(), tokenizer=tokenizer,
        translated=translators is not None,
    )  # fmt: skip


class _Reader:
    """Reads parts of a text into the fields of a `Lens`."""

    def __init__(
        self, model: Transformer, read: tuple[int, ...], targets: Tensor, top: int, translators: Translators | None
    ) -> None:
        self._model, self._read, self._top, self._translators = model, read, top, translators
        self._targets, self._time = targets.reshape(-1), targets.shape[1]
        self._weight, self._settings = model.unembedding.detach(), model.logit_settings
        self._listed = top if top <= MAX_TOP else 0
        self._held: Tensor | None = None
        shape = (len(read), targets.numel())
        with targets.device:
            self.fields = {name: torch.empty(shape, dtype=torch.float32) for name in ("entropy", "kl", "logprob")}
            self.fields["rank"] = torch.empty(shape, dtype=torch.int64)
            self.fields["top_token"] = torch.empty(*shape, top, dtype=torch.int64)
            self.fields["top_logprob"] = torch.empty(*shape, top, dtype=torch.float32)

    def read(self, part: Part, ids: Tensor, places: tuple[int, ...]) -> None:
        """One part, of which the places that lie in it are read."""
        columns = [at for at, place in enumerate(places) if part.tokens.start <= place < part.tokens.stop]
        inside = tuple(places[at] - part.tokens.start for at in columns)
        sequences = torch.arange(part.sequences.start, part.sequences.stop)[:, None]
        to = (sequences * self._time + torch.tensor(columns, dtype=torch.int64)).flatten().to(self._targets.device)
        depths = [depth for depth in sorted(self._read) if depth < self._model.config.num_hidden_layers]
        space = self._space(len(depths) if part.held else 1, len(to))

        def keep(depth: int, stream: Tensor) -> None:
            if inside and depth in depths:
                space[depths.index(depth)] = self._normalised(depth, _rows(stream, inside))

        last = _rows(self._model(ids, part.cache, tap=keep if part.held else None), inside)
        finals = [(to[chunk], self._read_last(last[chunk], to[chunk])) for chunk in _chunks(len(to))]
        if part.held:
            self._read_early(depths, space, finals)
            return

        def read(depth: int, stream: Tensor) -> None:
            if inside and depth in depths:
                space[0] = self._normalised(depth, _rows(stream, inside))
                self._read_early([depth], space, finals)

        self._model(ids, tap=read)

    def _space(self, layers: int, rows: int) -> Tensor:
        """`[layers, rows, dim]` for normalised states. Parts use the same memory: small pieces that outlive what was
        allocated between them would keep the allocator from giving that out again."""
        shape = (layers, rows, self._model.config.hidden_size)
        if self._held is None or self._held.numel() < math.prod(shape):
            self._held = torch.empty(math.prod(shape), dtype=self._model.dtype, device=self._model.device)
        return self._held[: math.prod(shape)].view(shape)

    def _normalised(self, depth: int, rows: Tensor) -> Tensor:
        moved = rows if self._translators is None else self._translators.translate(depth, rows)
        return self._model.final_norm(moved)

    def _read_last(self, last: Tensor, to: Tensor) -> FinalDistributions:
        """Rows of final states, and what the last layer says if it is read."""
        targets = self._targets[to]
        final = FinalDistributions(last, self._weight, targets.clamp(min=0), self._settings, self._listed)
        depth = self._model.config.num_hidden_layers
        if depth in self._read:
            self._write([depth], to, last[None], Score(*(None if x is None else x[None] for x in final.said)), 0.0)
        return final

    def _read_early(self, depths: list[int], states: Tensor, finals: list[tuple[Tensor, FinalDistributions]]) -> None:
        """The states `[layers, rows, dim]` of layers before the last. Few rows of each are asked with those of other
        layers."""
        start = 0
        for to, final in finals:
            stop, together = start + len(to), max(1, ROWS // len(to))
            for first in range(0, len(depths), together):
                some = depths[first : first + together]
                hidden = states[first : first + len(some), start:stop].contiguous()
                targets = self._targets[to].clamp(min=0).expand(hidden.shape[:-1])
                said = score(hidden, self._weight, targets, top=self._listed, **self._settings)
                self._write(some, to, hidden, said, final.divergence(hidden, said.lse))
            start = stop

    def _write(self, depths: list[int], to: Tensor, hidden: Tensor, said: Score, kl: Tensor | float) -> None:
        """What layers say `[layers, rows]`, to its places."""
        without = self._targets[to] < 0
        found = {
            "entropy": said.entropy,
            "kl": torch.as_tensor(kl, dtype=torch.float32),
            "logprob": said.logprob.masked_fill(without, torch.nan),
            "rank": said.rank.masked_fill(without, -1),
        }
        if self._listed:
            found |= {"top_token": said.top_token, "top_logprob": said.top_logprob}
        elif self._top:
            longest = likeliest(hidden, self._weight, self._top, **self._settings)
            found |= {"top_token": longest.token, "top_logprob": longest.logit - longest.lse[..., None]}
        rows = torch.tensor([self._read.index(depth) for depth in depths], device=to.device)[:, None]
        for name, values in found.items():
            self.fields[name][rows, to] = values.to(to.device)


def require_model(model: Any) -> None:
    """DtypeError: this is no model of farspan."""
    if not isinstance(model, Transformer):
        raise DtypeError(message("model", "a farspan.Transformer", type(model).__name__))


def _chunks(rows: int) -> list[slice]:
    return [slice(start, min(start + ROWS, rows)) for start in range(0, rows, ROWS)]


def _rows(x: Tensor, places: tuple[int, ...]) -> Tensor:
    """`[batch, time, dim]` -> `[batch * positions, dim]`, without a copy where all positions are read."""
    kept = x if len(places) == x.shape[1] and places == tuple(range(len(places))) else x[:, places]
    return kept.reshape(-1, x.shape[-1])


def _indices(name: str, given: Iterable[int] | None, size: int) -> tuple[int, ...]:
    if given is None:
        return tuple(range(size))
    found = integers(name, given)
    for index in found:
        if not -size <= index < size:
            raise ArgumentError(message(name, f"indices from 0 to {size - 1}, or from the end", index))
    return tuple(index % size for index in found)


def _targets(targets: Any, ids: Tensor, vocab: int) -> Tensor:
    """int64, of the shape of the ids, -1 where there is none."""
    if targets is None:
        return torch.cat((ids[:, 1:], torch.full_like(ids[:, :1], -1)), 1)
    found = as_targets(targets, ids)
    if ((found < 0) | (found >= vocab)).any():
        wrong = found[(found < 0) | (found >= vocab)]
        raise ArgumentError(message("targets", f"ids of the vocabulary, 0 to {vocab - 1}", int(wrong[0])))
    return found.to(ids.device)


for _public in (Lens, lens):
    _public.__module__ = "farspan"
