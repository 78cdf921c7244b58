"""Generation with the embedded model beside an eager torch loop, with a key-value cache, over the same weights."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from safetensors.torch import load_file

import farspan
from farspan.embedded import FOLDER
from farspan.lab.eager import EagerLlama, weights_of
from timing import Case

PROMPT = "def read_lines(path):\n"
NEW_TOKENS = 128
GOAL = 1.5


def cases(full: bool) -> Iterator[Case]:
    model, tokenizer = farspan.load_embedded()
    eager = EagerLlama(weights_of(load_file(FOLDER / "model.safetensors"), torch.float32), model.config)
    prompt = tokenizer.encode(PROMPT)
    for rows in (1, 8) if full else (1,):
        prompts = [prompt] * rows
        yield Case(
            operation="generate, one step",
            case=f"embedded model, B {rows}, {NEW_TOKENS} new tokens",
            peer="eager torch with a cache",
            farspan=partial(model.generate, prompts, max_new_tokens=NEW_TOKENS, temperature=1.0, stop=()),
            other=partial(eager.generate, torch.tensor(prompts), NEW_TOKENS, temperature=1.0),
            calls=NEW_TOKENS,
            goal=GOAL if rows == 1 else None,
        )
