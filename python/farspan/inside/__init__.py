"""What a model makes of a text on the way from layer to layer: `farspan.lens`, `farspan.train_lens`,
`farspan.attribution`."""

from __future__ import annotations

from farspan.inside.reading import Lens, lens
from farspan.inside.shares import attribution
from farspan.inside.training import train_lens
from farspan.inside.translators import Translators

__all__ = ["Lens", "Translators", "attribution", "lens", "train_lens"]
