"""The picture of a run: loss over steps, and the learning rate below it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from farspan._pictures import GREY, figure, plain_axes

SMOOTHING = 0.95


def draw_loss(log: Sequence[dict[str, Any]], path: str | os.PathLike[str]) -> None:
    """Draws the lines of a log, as PNG, SVG or PDF by the ending of `path`. BackendError: there is no matplotlib."""
    with figure(path, 8.6, 6.0) as drawn:
        upper, lower = drawn.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        steps = [line["step"] for line in log]
        losses = [line["loss"] for line in log]
        upper.plot(steps, losses, color="#BBBBBB", linewidth=0.8, label="each step")
        upper.plot(steps, running_mean(losses), color="#0077BB", linewidth=1.8, label="running mean")
        scored = [line for line in log if "validation_loss" in line]
        if scored:
            upper.plot(
                [line["step"] for line in scored], [line["validation_loss"] for line in scored], color="#CC3311",
                marker="o", markersize=4, linewidth=1.2, label="validation",
            )  # fmt: skip
        upper.set_ylabel("loss, nats per token")
        upper.legend(frameon=False)
        upper.set_title(f"{len(log):,} steps, {sum(line['tokens'] for line in log):,} tokens", loc="left", fontsize=11)
        lower.plot(steps, [line["learning_rate"] for line in log], color=GREY, linewidth=1.2)
        lower.set_ylabel("learning rate")
        lower.set_ylim(bottom=0)
        lower.set_xlabel("step")
        for axes in (upper, lower):
            plain_axes(axes)


def running_mean(values: Sequence[float]) -> list[float]:
    """Each value with those before it, which count less and less; the first ones count as much as there are of them."""
    sums = accumulate(values, lambda total, value: SMOOTHING * total + value)
    weights = accumulate([1.0] * len(values), lambda total, value: SMOOTHING * total + value)
    return [total / weight for total, weight in zip(sums, weights, strict=True)]
