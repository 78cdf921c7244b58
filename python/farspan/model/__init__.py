"""The transformer around the operations: configuration, weights, cache, generation."""

from __future__ import annotations

from farspan.model.cache import Cache
from farspan.model.config import Config
from farspan.model.generation.generate import Completion
from farspan.model.transformer import Transformer

__all__ = ["Cache", "Completion", "Config", "Transformer"]
