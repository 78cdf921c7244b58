"""Training: `fit` a model to documents by a `Recipe`, with checkpoints that a kill cannot damage and exact resuming."""

from __future__ import annotations

from farspan.training.fit import Result, fit
from farspan.training.recipe import Recipe

__all__ = ["Recipe", "Result", "fit"]
