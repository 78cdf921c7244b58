"""What `generate` and a drafter do again and again: a pass over the newest tokens, and the draw behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from farspan.model import arguments
from farspan.model.cache import Cache
from farspan.model.generation.drawing import Drawing
from farspan.model.generation.restrictions import Text
from farspan.model.kernels import ArrayKernels, DeviceKernels
from farspan.model.passes import plan_pass

if TYPE_CHECKING:
    from farspan.model.transformer import Transformer

Place = tuple[int, Text]
"""A sequence, and all of it up to the token that is to be drawn."""


class Steps:
    """The steps of one `generate`, between which nobody changes the model. `graphs`: on a GPU those whose shapes repeat
    are captured and replayed."""

    def __init__(self, model: Transformer, drawing: Drawing, graphs: bool) -> None:
        self._model, self._drawing, self._kernels = model, drawing, model.kernels
        self._repeated: Any = None
        if isinstance(self._kernels, DeviceKernels):
            from farspan.model.generation.graphs import RepeatedPasses

            self._repeated = RepeatedPasses(model, self._kernels, graphs)

    def __call__(self, new: Mapping[int, Sequence[int]], cache: Cache, places: Sequence[Place]) -> Any:
        """Appends `new[row]` to the sequences of the cache, and draws a token for each of `places`: one behind every
        new token, or one behind the last new token of each sequence. A `farspan.Sample`, valid until the next step."""
        model, kernels = self._model, self._kernels
        tokens = np.array([token for row in sorted(new) for token in new[row]], np.int64)
        if not isinstance(kernels, ArrayKernels):  # on a GPU an unknown id would end all work of the process
            arguments.check_ids(tokens, model.config.vocab_size)
        counts = [len(new.get(row, ())) for row in range(cache.batch)]
        last = None if len(places) == len(tokens) else np.cumsum([count for count in counts if count]) - 1
        now = plan_pass(model.config, counts, cache, buckets=self._repeated is not None)
        if self._repeated is None:
            hidden = model.run(tokens, now, kernels)
            hidden = hidden if last is None else hidden[last]
        elif self._drawing.plain:
            return self._repeated.drawn(tokens, now, last, self._arguments(places))
        else:
            hidden = self._repeated.hidden(tokens, now, last)
        return kernels.draw(hidden, model.unembedding, self._arguments(places))

    def _arguments(self, places: Sequence[Place]) -> dict[str, Any] | None:
        return self._drawing.arguments(*zip(*places, strict=True))


def lacking(texts: Mapping[int, Text], cache: Cache) -> dict[int, Text]:
    """Of each text what the cache does not hold."""
    return {row: text[cache.counts[row] :] for row, text in texts.items()}
