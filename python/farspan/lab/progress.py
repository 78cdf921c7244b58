"""How a long computation says how far it is."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """What a long computation calls on its way."""

    def __call__(self, done: int, total: int, next_step: str) -> object:
        """`done` of `total` are done: tokens read, or steps; `next_step` says in words what comes now."""
