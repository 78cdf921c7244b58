"""A `farspan.Lens` in a notebook: the page inline, and a table for pandas."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

from farspan._errors import missing_package
from farspan.inside.page import document_of, page_of

PAGES = 4
"""Sequences that a notebook shows."""
HEIGHT = 560


def inline_pages(lens: Any) -> str:
    """A frame with the page of each of the first sequences. It can run the page's script and nothing else."""
    frames = []
    for sequence in range(min(PAGES, len(lens.tokens))):
        document = document_of(lens, text_of(lens), "the model", sequence=sequence)
        page = html.escape(page_of(document), quote=True)
        style = f"width: 100%; height: {HEIGHT}px; border: 0"
        frames.append(f'<iframe sandbox="allow-scripts" style="{style}" srcdoc="{page}"></iframe>')
    left = len(lens.tokens) - len(frames)
    return "\n".join(frames) + (f"\n<p>and {left} more sequences</p>" if left else "")


def frame_of(lens: Any) -> Any:
    """What `Lens.to_frame` says."""
    try:
        import pandas
    except ImportError:
        raise missing_package("Lens.to_frame", "pandas") from None
    layers, batch, time, top = lens.top_token.shape
    write = text_of(lens)
    tokens = lens.tokens.flatten().tolist()
    columns: dict[str, list[Any]] = {
        "layer": [layer for layer in lens.layers for _ in range(batch * time)],
        "sequence": [sequence for sequence in range(batch) for _ in range(time)] * layers,
        "position": list(lens.positions) * (batch * layers),
        "token": tokens * layers,
        "text": [write(token) for token in tokens] * layers,
    }
    for name in ("entropy", "kl", "logprob", "rank"):
        columns[name] = getattr(lens, name).flatten().tolist()
    for place in range(top):
        likeliest = lens.top_token[..., place].flatten().tolist()
        columns[f"top_{place + 1}"] = [write(token) for token in likeliest]
        columns[f"top_{place + 1}_logprob"] = lens.top_logprob[..., place].flatten().tolist()
    return pandas.DataFrame(columns)


def text_of(lens: Any) -> Callable[[int], str]:
    """How ids are written."""
    tokenizer = lens.tokenizer
    return str if tokenizer is None else lambda token: tokenizer.decode([token])
