"""A pass with somebody who looks at the attention of its layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from farspan.model.operations import Operations

Look = Callable[..., Any]
"""What looks at the attention of a layer: `(operations, mixed, query, key, hooks, sink, learned)`, `mixed` being what
it gave. Numbers are of the kind of the operations, and must not be written to."""


class ObservedOperations:
    """Operations of a model whose calls of attention are shown, in the order of the layers."""

    def __init__(self, operations: Operations, look: Look) -> None:
        self._operations, self._look = operations, look

    def __getattr__(self, name: str) -> Any:
        return getattr(self._operations, name)

    def attention(self, query: Any, key: Any, value: Any, hooks: Any, sink: Tensor | None, learned: Any = None) -> Any:
        mixed = self._operations.attention(query, key, value, hooks, sink, learned)
        self._look(self._operations, mixed, query, key, hooks, sink, learned)
        return mixed
