"""transformers' loop of generation with farspan's samplers, as `custom_generate` takes it."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import numpy as np
import torch
from transformers.generation import GenerateDecoderOnlyOutput, GenerationMode

from farspan._backend import arrays
from farspan._errors import ArgumentError, message
from farspan.integrations.transformers.heads import head_of
from farspan.integrations.transformers.processors import settings_of
from farspan.reference.noise import noise
from farspan.unembed import sample


@torch.no_grad()
def generate(
    model: Any,
    input_ids: torch.Tensor,
    logits_processor: Any,
    stopping_criteria: Any,
    generation_config: Any,
    seed: Any = 0,
    **model_kwargs: Any,
) -> Any:
    """Draw with farspan's samplers: `model.generate(..., custom_generate=generate, seed=1)`.

    `seed` is an int, and row b draws with stream b then, or one seed per row, all with stream 0. The position of a
    token is its index in the sequence, padding not counted. So a row with a seed of its own draws the same tokens in
    any batch, up to what the model's own products make of the batch.

    The head is not run where it is a plain linear layer of a known model: `farspan.sample` reads its weight. Logits
    are built for other models, and for processors that `farspan.sample` does not know; they are obeyed.

    Raises:
        ArgumentError: what this loop does not do, as beams, scores in the result, or prompts as embeddings.
    """
    _check(model, input_ids, generation_config, model_kwargs)
    real = _real_tokens(input_ids, generation_config, model_kwargs)
    seeds, streams = _keys(seed, len(input_ids))
    head, padding = head_of(model), (~real).cumprod(1).sum(1).tolist()
    settings = settings_of(logits_processor, padding)
    if settings is not None and not generation_config.do_sample:
        settings["temperature"] = 0.0
    fused = head is not None and settings is not None
    pads = any(hasattr(criterion, "eos_token_id") for criterion in stopping_criteria)
    unfinished = torch.ones(len(input_ids), dtype=torch.bool, device=input_ids.device)
    inputs = model.prepare_inputs_for_generation(
        input_ids, next_sequence_length=_lacking(input_ids, model_kwargs), is_first_iteration=True, **model_kwargs
    )
    while True:
        key = {"seed": seeds, "stream": streams, "position": real.sum(1).cpu()}
        if fused:
            outputs = model.base_model(**{k: v for k, v in inputs.items() if k != "logits_to_keep"}, return_dict=True)
            hidden = outputs.last_hidden_state[:, -1]
            tokens = _draw(hidden, head, {**(settings or {}), **_history(settings, input_ids, real)}, key)
        else:
            outputs = model(**inputs, return_dict=True)
            logits = outputs.logits[:, -1].to(torch.float32, copy=True).to(input_ids.device)
            tokens = _draw_from(logits_processor(input_ids, logits), key if generation_config.do_sample else None)
        tokens = tokens.to(input_ids.device)
        if (tokens[unfinished] < 0).any():
            rows = (unfinished & (tokens < 0)).nonzero()[:, 0].tolist()
            raise ArgumentError(message("logits", "one that is finite and none that is NaN", f"others in rows {rows}"))
        if pads:
            tokens = torch.where(unfinished, tokens, generation_config._pad_token_tensor.to(tokens.device))
        input_ids = torch.cat([input_ids, tokens[:, None]], dim=1)
        real = torch.cat([real, torch.ones_like(real[:, :1])], dim=1)
        model_kwargs = model._update_model_kwargs_for_generation(outputs, model_kwargs, is_encoder_decoder=False)
        unfinished = unfinished & ~stopping_criteria(input_ids, None)
        if not unfinished.any():
            break
        newest = 1 if model_kwargs.get("use_cache") else None
        inputs = model.prepare_inputs_for_generation(input_ids, next_sequence_length=newest, **model_kwargs)
    if generation_config.return_dict_in_generate:
        result: Any = GenerateDecoderOnlyOutput
        return result(sequences=input_ids, cache=model_kwargs.get("cache"))
    return input_ids


def _check(model: Any, input_ids: torch.Tensor, config: Any, model_kwargs: dict[str, Any]) -> None:
    """Refuse what would be ignored otherwise."""
    mode = config.get_generation_mode()
    if mode not in (GenerationMode.SAMPLE, GenerationMode.GREEDY_SEARCH):
        raise ArgumentError(message("custom_generate", "sampling or greedy search", f"{mode.value} in its settings"))
    if model.config.is_encoder_decoder:
        raise ArgumentError(message("custom_generate", "a model that is a decoder alone", type(model).__name__))
    if model_kwargs.get("inputs_embeds") is not None or input_ids.shape[1] == 0:
        raise ArgumentError(message("input_ids", "prompts of at least one token, as ids", "inputs_embeds or none"))
    names = ("output_scores", "output_logits", "output_attentions", "output_hidden_states", "prefill_chunk_size")
    for name in names:
        if getattr(config, name, None):
            raise ArgumentError(message(name, "nothing with farspan's custom_generate", getattr(config, name)))


def _real_tokens(input_ids: torch.Tensor, config: Any, model_kwargs: dict[str, Any]) -> torch.Tensor:
    """Which of the ids are no padding. transformers drops a mask of ones and keeps its length."""
    mask = model_kwargs.get("attention_mask")
    length = getattr(config, "_mask_length", input_ids.shape[1]) if mask is None else mask.shape[1]
    if length != input_ids.shape[1]:
        expected = f"the prompts whole, also with a cache: {length} ids as the mask has"
        raise ArgumentError(message("input_ids", expected, input_ids.shape[1]))
    return torch.ones_like(input_ids, dtype=torch.bool) if mask is None else mask.bool().to(input_ids.device)


def _lacking(input_ids: torch.Tensor, model_kwargs: dict[str, Any]) -> int | None:
    """How many last tokens of the prompts a given cache lacks. None for all."""
    cache = model_kwargs.get("cache")
    held = 0 if cache is None or all(cache.is_linear) else int(cache.get_seq_length())
    return input_ids.shape[1] - held if held else None


def _keys(seed: Any, rows: int) -> tuple[Any, Any]:
    """Seeds and streams, one a row."""
    if isinstance(seed, (int, np.integer)):
        return torch.full((rows,), _signed(int(seed))), torch.arange(rows)
    seeds = torch.as_tensor(seed).cpu()
    if seeds.dtype not in (torch.int32, torch.int64) or seeds.shape != (rows,):
        raise ArgumentError(message("seed", f"an integer, or one for each of {rows} rows", arrays.describe(seeds)))
    return seeds.long(), torch.zeros(rows, dtype=torch.int64)


def _signed(seed: int) -> int:
    if not -(2**63) <= seed < 2**64:
        raise ArgumentError(message("seed", "64 bits", seed))
    return seed - 2**64 if seed >= 2**63 else seed


def _history(settings: dict[str, Any] | None, input_ids: torch.Tensor, real: torch.Tensor) -> dict[str, Any]:
    """The rows' tokens without padding, where a penalty asks for them."""
    if not settings or not settings.keys() & {"repetition_penalty", "no_repeat_ngram"}:
        return {}
    offsets = torch.tensor([0, *accumulate(real.sum(1).tolist())])
    return {"history": (input_ids[real].cpu(), offsets)}


def _draw(hidden: torch.Tensor, head: Any, settings: dict[str, Any], key: dict[str, Any]) -> torch.Tensor:
    """Tokens from hidden states, without logits."""
    arguments = {name: head[name] for name in head if name != "weight"} | settings | key
    token: torch.Tensor = sample(hidden, head["weight"], **arguments).token
    return token


def _draw_from(scores: torch.Tensor, key: dict[str, Any] | None) -> torch.Tensor:
    """Tokens from processed logits, by the same noise. -1 where a row has nothing to draw."""
    empty = scores.isnan().any(1) | scores.isneginf().all(1)
    if key is not None:
        seed, position, stream = (key[name].numpy() for name in ("seed", "position", "stream"))
        gumbel = noise(seed, position, stream, np.arange(scores.shape[1]))
        scores = scores.double() + torch.from_numpy(gumbel).to(scores.device)
    return scores.argmax(1).masked_fill(empty, -1)
