"""A draw of which each process sees a part of the vocabulary: parts are read, exchanged and merged.

Nearly every row is decided by one exchange. A row whose cuts lie behind its largest logits, which is the same row for
every process, takes a second one with all of its logits.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from farspan import _core
from farspan._backend import cpu
from farspan._backend.arrays import describe
from farspan._backend.settings import Draws, Rules, Settings
from farspan._backend.threads import follow_torch
from farspan._errors import BackendError, DtypeError, message
from farspan.parallel.vocabulary import VocabularyShard

_HELD = 1 << 20
"""Logits of undecided rows that are exchanged at a time."""


class Draw:
    """A call of `farspan.sample` with a shard. Arrays of either kind; the fields of the result are NumPy's."""

    def __init__(
        self, dtype: str, hidden: Any, weight: Any, draws: Draws, rules: Rules, settings: Settings,
        shard: VocabularyShard,
    ) -> None:  # fmt: skip
        follow_torch()
        hidden, weight = _array("hidden", hidden), _array("weight", weight)
        self._leading, rows = cpu.rows_of("hidden", hidden, "weight", weight)
        self._problem = (dtype, rows, weight, rules._replace(bias=_array("bias", rules.bias)))
        self._draws = Draws(*(cpu.column(_array("settings", x), rows.shape[0]) for x in draws))
        self._settings = Settings(*(_array("settings", x) for x in settings))
        self._given = cpu.given(self._settings)
        self._exist = shard.vocab if rules.valid_vocab is None else rules.valid_vocab
        self._gather = shard.gather
        self._place = (shard.first, shard.vocab)

    def fields(self) -> tuple[np.ndarray, ...]:
        """Those of `farspan.Sample`, the same in every process."""
        out = cpu.sample_fields(self._leading, self._settings.samples, self._settings.top)
        flat = [x.reshape(-1) for x in out]
        undecided = self._exchange(None, flat)
        at_once = max(1, _HELD // max(1, self._exist))
        for start in range(0, len(undecided), at_once):
            self._exchange(undecided[start : start + at_once], flat)
        return out

    def _exchange(self, undecided: list[int] | None, flat: list[np.ndarray]) -> list[int]:
        part = _core.sample_part(self._problem, self._draws, self._given, self._place, undecided)
        parts = self._gathered(part)
        return _core.sample_merge(parts, self._draws, self._given, self._exist, undecided, flat)

    def ranks(self, token: Any, logit: Any, known: Any) -> np.ndarray:
        """`farspan.Sample.rank`: the tokens before a draw are counted in every part."""
        token, logit, known = (np.asarray(_array("rank", x)) for x in (token, logit, known))
        counts = known.copy()
        drawn = [token.reshape(-1), logit.reshape(-1)]
        _core.rank(self._problem, self._given, self._place, drawn, counts.reshape(-1))
        every = [np.frombuffer(part, np.int64).reshape(known.shape) for part in self._gathered(counts.tobytes())]
        return np.where(known == cpu.UNRANKED, sum(every), known)

    def _gathered(self, part: bytes) -> list[bytes]:
        parts = self._gather(part)
        if not (isinstance(parts, (list, tuple)) and all(isinstance(x, bytes) for x in parts)):
            raise DtypeError(message("gather", "a function that gives a list of bytes", describe(parts)))
        return list(parts)


def like(fields: tuple[np.ndarray, ...], hidden: Any) -> Any:
    """Arrays of the kind of hidden."""
    if isinstance(hidden, np.ndarray):
        return fields
    return tuple(sys.modules["torch"].from_numpy(x) for x in fields)


def _array(name: str, x: Any) -> Any:
    """The memory of a tensor, half types by their bits; anything else as it is."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(x, torch.Tensor):
        return cpu.bits(x) if isinstance(x, np.ndarray) else x
    if x.requires_grad and torch.is_grad_enabled():
        raise BackendError(message(name, "no gradient: sample has none", "a tensor that requires one"))
    if not x.is_cpu:
        raise BackendError(message(name, "a tensor on the CPU, where parts are merged", f"one on {x.device}"))
    x = x.detach()
    return (x.view(torch.uint16) if x.dtype in (torch.bfloat16, torch.float16) else x).numpy()
