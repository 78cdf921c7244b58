"""Taking a model to longer texts, with evidence: which position scheme, after how much training, and at what cost.

    model, tokenizer = farspan.load_embedded()
    found = extend(model, tokens, to=1024)
    print(found.recommended, found.evidence)

`farspan extend` is the same on the command line, and writes a checkpoint.
"""

from __future__ import annotations

from farspan.lab.extension.extension import Extension, extend
from farspan.lab.extension.tuning import Tuning

__all__ = ["Extension", "Tuning", "extend"]
