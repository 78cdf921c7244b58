"""How the learning rate moves over a run: warm-up, then a cosine, or a plateau and a decay. All of these are factors of
the largest rate, for steps counted from 1."""

from __future__ import annotations

import math
from collections.abc import Callable


def warming(step: int, warmup: int) -> float:
    """The rise: 1 from step `warmup` on."""
    return min(step / warmup, 1.0) if warmup else 1.0


def decaying(step: int, steps: int, decay_from: int) -> float:
    """The straight fall over the steps after `decay_from`; the last of them still moves the weights."""
    return min(1.0, (steps - step + 1) / (steps - decay_from))


def cosine(step: int, steps: int, warmup: int, decay: float, final: float) -> float:
    """Half a cosine from the end of the warm-up towards `final`."""
    if step <= warmup:
        return warming(step, warmup)
    share = (step - warmup) / (steps - warmup + 1)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * share))


def plateau(step: int, steps: int, warmup: int, decay: float, final: float) -> float:
    """The full rate, then a fall towards `final` over the last `decay` of the steps."""
    decay_from = steps - max(1, int(steps * decay))
    return min(warming(step, warmup), final + (1 - final) * decaying(step, steps, decay_from))


Schedule = Callable[[int, int, int, float, float], float]
SCHEDULES: dict[str, Schedule] = {"cosine": cosine, "plateau": plateau}
