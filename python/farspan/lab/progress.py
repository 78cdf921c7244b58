"""How a long computation says how far it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Progress(Protocol):
    """What a long computation calls on its way."""

    def __call__(self, done: int, total: int, next_step: str) -> object:
        """`done` of `total` are done: tokens read, or steps; `next_step` says in words what comes now."""


def part_of(progress: Progress | None, begun: int, total: int, said: str) -> Callable[[int], object]:
    """What hears how much is done of a part that is now done, where so much was done before it."""

    def tell(done: int) -> None:
        if progress is not None:
            progress(begun + done, total, said)

    return tell
