"""What `generate` and a drafter do again and again: a pass over the newest tokens, and the draw behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from farspan.model import arguments
from farspan.model.cache import Cache
from farspan.model.decoder import Decoder
from farspan.model.generation.drawing import Drawing
from farspan.model.generation.restrictions import Text
from farspan.model.operations import DeviceOperations
from farspan.model.passes import plan_pass

Place = tuple[int, Text]
"""A sequence, and all of it up to the token that is to be drawn."""


class Steps:
    """The steps of one `generate`, between which nobody changes the model. `graphs`: on a GPU those whose shapes repeat
    are captured and replayed. Those of experts do not: how many rows each has is known only as they run. Those of FIRE
    do not: each sequence is given no more keys than it has."""

    def __init__(self, model: Decoder, drawing: Drawing, graphs: bool, positions: Any = None) -> None:
        self._model, self._drawing, self._operations = model, drawing, model.choose_operations()
        self._positions = positions
        self._repeated: Any = None
        by_rows = any(kind.scheme.by_rows for kind in model.config.attention_kinds)
        if isinstance(self._operations, DeviceOperations) and not by_rows:
            from farspan.model.generation.graphs import RepeatedPasses

            steady = not model.instrumented and not model.config.num_experts
            self._repeated = RepeatedPasses(model, self._operations, graphs and steady)

    def __call__(self, new: Mapping[int, Sequence[int]], cache: Cache, places: Sequence[Place]) -> Any:
        """Appends `new[row]` to the sequences of the cache, and draws a token for each of `places`: one behind every
        new token, or one behind the last new token of each sequence. A `farspan.Sample`, valid until the next step."""
        model, operations = self._model, self._operations
        tokens = np.array([token for row in sorted(new) for token in new[row]], np.int64)
        if not operations.refuses_unknown_ids:
            arguments.check_ids(tokens, model.config.vocab_size)
        counts = [len(new.get(row, ())) for row in range(cache.batch)]
        last = None if len(places) == len(tokens) else np.cumsum([count for count in counts if count]) - 1
        held = [old + more for old, more in zip(cache.counts, counts, strict=True)]
        standing = None if self._positions is None else self._standing(held, places)
        plan = plan_pass(model.config, counts, cache, buckets=self._repeated is not None, positions=standing)
        if self._repeated is None:
            hidden = model.run(tokens, plan, operations)
            hidden = hidden if last is None else hidden[last]
        elif self._drawing.plain:
            return self._repeated.drawn(tokens, plan, last, self._arguments(places))
        else:
            hidden = self._repeated.hidden(tokens, plan, last)
        return operations.draw(hidden, model.unembedding, self._arguments(places), model.logit_settings)

    def _standing(self, lengths: Sequence[int], places: Sequence[Place]) -> list[np.ndarray] | None:
        """Where all tokens of each sequence stand; of one without new tokens nobody asks."""
        texts = {row: text.tolist() for row, text in places}  # of a row's places the last has all of its tokens
        at = [self._positions(texts[row]) if row in texts else [0] * length for row, length in enumerate(lengths)]
        return self._model.placed(at, lengths)

    def _arguments(self, places: Sequence[Place]) -> dict[str, Any] | None:
        return self._drawing.arguments(*zip(*places, strict=True))


def lacking(texts: Mapping[int, Text], cache: Cache) -> dict[int, Text]:
    """Of each text what the cache does not hold."""
    return {row: text[cache.counts[row] :] for row, text in texts.items()}
