"""The unembedding operations: `greedy`, `sample`, `score` and `top`, one streaming pass over the vocabulary each.

In all of them the logits are `l = softcap * tanh(scale * (hidden @ weight.T) / softcap) + bias`. They are accumulated
in float32 and never rounded to the inputs' dtype. Ids at or past `valid_vocab` do not exist. Nothing of size rows x
vocabulary is written.
"""

from __future__ import annotations

from typing import Any

from farspan._backend import arrays
from farspan._backend.settings import (
    Drawn,
    Listed,
    Longest,
    Targets,
    check_large,
    collect,
    draws_of,
    rules_of,
    tokens_of,
)  # fmt: skip
from farspan._compute import compute
from farspan._errors import ArgumentError, message
from farspan._results import FLAG_EMPTY, FLAG_NAN, Sample, Score, Top
from farspan.parallel import vocabulary
from farspan.parallel.vocabulary import VocabularyShard

__all__ = ["FLAG_EMPTY", "FLAG_NAN", "Sample", "Score", "Top", "greedy", "sample", "score", "top"]


def greedy(
    hidden: Any,
    weight: Any,
    *,
    scale: float = 1.0,
    softcap: float | None = None,
    bias: Any = None,
    valid_vocab: int | None = None,
    shard: VocabularyShard | None = None,
) -> Sample:
    """The most likely token of every row. Ties go to the lowest id.

        token = l.argmax(-1)

    Args:
        hidden: `[..., dim]`, float32, bfloat16 or float16, the last dimension contiguous.
        weight: `[vocab, dim]` of the same dtype.
        scale: factor of the products.
        softcap: bound of the scaled products, above 0.
        bias: `[vocab]` float32. -inf bans a token.
        valid_vocab: how many ids exist, by default all.
        shard: a `VocabularyShard` if `weight` and `bias` are a part of the vocabulary. Ids stay those of the whole.

    Returns:
        A `Sample` whose logprob is 0. A row with a NaN logit gives token -1 and `FLAG_NAN`. A row whose logits are all
        -inf gives token -1 and `FLAG_EMPTY`. Other rows are not affected.

    Raises:
        ArgumentError: shapes that do not fit, or a value out of its range.
        DtypeError: an element type or a kind of object that the argument cannot have.
        BackendError: a tensor that no backend of this build serves, or one that needs a gradient.
    """
    dtype = check_large(hidden, weight)
    rules = rules_of(hidden, scale, softcap, bias, valid_vocab)
    if shard is not None:
        return sample(
            hidden, weight, seed=0, position=0, temperature=0.0, scale=scale, softcap=softcap, bias=bias,
            valid_vocab=valid_vocab, shard=shard,
        )  # fmt: skip
    return _sampled(compute("greedy", dtype, (hidden, weight), (rules,)))


def sample(
    hidden: Any,
    weight: Any,
    *,
    seed: Any,
    position: Any,
    stream: Any = 0,
    temperature: Any = 1.0,
    scale: float = 1.0,
    softcap: float | None = None,
    bias: Any = None,
    valid_vocab: int | None = None,
    order: str = "hf",
    top_k: Any = 0,
    top_p: Any = 1.0,
    min_p: Any = 0.0,
    typical: Any = 1.0,
    epsilon: Any = 0.0,
    eta: Any = 0.0,
    top_h: Any = 1.0,
    top_n_sigma: Any = 0.0,
    xtc_probability: Any = 0.0,
    xtc_threshold: Any = 0.1,
    min_keep: Any = 1,
    repetition_penalty: Any = 1.0,
    frequency_penalty: Any = 0.0,
    presence_penalty: Any = 0.0,
    no_repeat_ngram: Any = 0,
    dry_multiplier: Any = 0.0,
    dry_base: Any = 1.75,
    dry_allowed_length: Any = 2,
    history: Any = None,
    prompt_lengths: Any = None,
    logit_bias: Any = None,
    banned: Any = None,
    allowed: Any = None,
    mask: Any = None,
    top: int = 0,
    samples: int = 1,
    shard: VocabularyShard | None = None,
) -> Sample:
    """Draw one token per row from `softmax(l / temperature)`, after penalties, bans and cuts.

        l = reference_sampler.changed(l, settings)
        kept = reference_sampler.kept(l, settings)
        g = noise(seed, position, stream, arange(vocab))
        token = (l / temperature + g).masked_fill(~kept, -inf).argmax(-1)

    The noise is `farspan.reference.noise`, version 1. It is a function of (seed, stream, position, token id) and of
    nothing else, so a token does not change with the batch, the slot or the number of threads. Settings are exact:
    cuts are decided on sorted logits and never approximated. Each setting is a scalar or one value per row.
    `docs/sampling.md` explains each, and the four orders.

    Args:
        hidden, weight, scale, softcap, bias, valid_vocab, shard: as in `greedy`.
        seed: any int64, taken by its bits. This and the following are a scalar or of the leading shape of hidden.
        position: of the drawn token, usually its index in the sequence: 0 to 2**32 - 1. Pass another one for each step.
        stream: tells sequences of one seed apart: 0 to 2**32 - 1.
        temperature: finite and at least 0. 0 is `greedy`, and no cut applies.
        order: the system whose chain of cuts is followed: "hf", "vllm", "sglang" or "llamacpp".
        top_k, top_p, min_p, typical, epsilon, eta, top_h, top_n_sigma: cuts. The defaults cut nothing.
        xtc_probability, xtc_threshold: how often XTC drops the tokens above the threshold, except the least likely one.
        min_keep: how many tokens the cuts of "hf" and "llamacpp" leave at least.
        repetition_penalty, frequency_penalty, presence_penalty, no_repeat_ngram, dry_multiplier, dry_base,
            dry_allowed_length: penalties over `history`.
        history: `(ids [total], offsets [rows + 1])`, the tokens of each row so far.
        prompt_lengths: `[rows]`, how many first ids of a history the frequency and presence penalties skip.
        logit_bias: `(ids, values, offsets)`, added to single logits before everything else. -inf bans.
        banned, allowed: `(ids, offsets)`. An empty list of allowed tokens restricts nothing.
        mask: int32 `[rows, words]`. Bit v % 32 of word v / 32 allows token v. Missing words ban.
        top: how many of the most likely tokens to report, at most 128.
        samples: how many draws to make from each row. Draw i has stream + i.

    Returns:
        A `Sample` with flags as in `greedy`. A row in which everything is banned has `FLAG_EMPTY`.

    Raises:
        ArgumentError, DtypeError, BackendError: as in `greedy`.

    Sources: the Gumbel maximum, Gumbel 1954 and Maddison et al. 2014; Philox, Salmon et al. 2011.
    `farspan.reference_sampler` names those of the settings.
    """
    dtype = check_large(hidden, weight)
    rules = rules_of(hidden, scale, softcap, bias, valid_vocab)
    draws = draws_of(hidden, seed, position, stream, temperature)
    settings = collect(
        hidden, order=order, top_k=top_k, top_p=top_p, min_p=min_p, typical=typical, epsilon=epsilon, eta=eta,
        top_h=top_h, top_n_sigma=top_n_sigma, xtc_probability=xtc_probability, xtc_threshold=xtc_threshold,
        min_keep=min_keep, repetition_penalty=repetition_penalty, frequency_penalty=frequency_penalty,
        presence_penalty=presence_penalty, no_repeat_ngram=no_repeat_ngram, dry_multiplier=dry_multiplier,
        dry_base=dry_base, dry_allowed_length=dry_allowed_length, history=history, prompt_lengths=prompt_lengths,
        logit_bias=logit_bias, banned=banned, allowed=allowed, mask=mask, top=top, samples=samples,
    )  # fmt: skip
    part = vocabulary.place(shard)
    fields = compute("sample", dtype, (hidden, weight), (draws, rules, settings), part)

    def rank(*drawn: Any) -> Any:
        return compute("ranks", dtype, (hidden, weight), (Drawn(*drawn), rules, settings), part)

    return _sampled(fields, settings.top, rank)


def _sampled(fields: Any, top: int = 0, rank: Any = None) -> Sample:
    """A `Sample` of what a backend gave; `rank(token, logit, known)` counts the ranks it did not know."""
    token, logprob, raw_logprob, lse, flag, known, logit, kept, kept_mass, entropy, top_token, top_logprob = fields
    if not top:
        top_token = top_logprob = None
    ranks = (lambda: known) if rank is None else (lambda: rank(token, logit, known))
    return Sample(
        token, logprob, raw_logprob, lse, flag, logit, kept, kept_mass, entropy, top_token, top_logprob, ranks
    )


def score(
    hidden: Any,
    weight: Any,
    targets: Any,
    *,
    scale: float = 1.0,
    softcap: float | None = None,
    bias: Any = None,
    valid_vocab: int | None = None,
    top: int = 0,
) -> Score:
    """What the model says about given tokens. The loss of a language model is `-score(...).logprob.mean()`.

        logprob = log_softmax(l).gather(-1, targets)
        rank = ((l > l[targets]) | ((l == l[targets]) & (ids < targets))).sum(-1)
        top_logprob, top_token = sort(log_softmax(l), descending=True, stable=True)[..., :top]
        entropy = -(softmax(l) * log_softmax(l)).sum(-1)

    Args:
        hidden, weight, scale, softcap, bias, valid_vocab: as in `greedy`.
        targets: int32 or int64 ids below `valid_vocab`, a scalar or of the leading shape of hidden.
        top: how many of the most likely tokens to report as well, at most 128.

    Returns:
        A `Score`. In a row with a NaN logit, ranks and tokens are -1 and all else is NaN.

    Raises:
        ArgumentError, DtypeError, BackendError: as in `greedy`.
    """
    dtype = check_large(hidden, weight)
    rules = rules_of(hidden, scale, softcap, bias, valid_vocab)
    exist = tokens_of(weight, rules)
    targets = arrays.per_row("targets", targets, hidden, hidden.shape[:-1], integer=True, high=exist)
    top = arrays.count("top", top)
    fields = compute("score", dtype, (hidden, weight), (Targets(targets), rules, Listed(top)))
    return Score(*(fields if top else fields[:4]))


def top(
    hidden: Any,
    weight: Any,
    k: int,
    *,
    scale: float = 1.0,
    softcap: float | None = None,
    bias: Any = None,
    valid_vocab: int | None = None,
) -> Top:
    """The k largest logits of every row, the largest first. Ties go to the lowest id.

        logit, token = sort(l, descending=True, stable=True)[..., :k]

    Args:
        hidden, weight, scale, softcap, bias, valid_vocab: as in `greedy`.
        k: 0 to `valid_vocab`.

    Returns:
        A `Top`. In a row with a NaN logit, every token is -1 and every logit is NaN.

    Raises:
        ArgumentError, DtypeError, BackendError: as in `greedy`.
    """
    dtype = check_large(hidden, weight)
    rules = rules_of(hidden, scale, softcap, bias, valid_vocab)
    k, exist = arrays.count("k", k), tokens_of(weight, rules)
    if k > exist:
        raise ArgumentError(message("k", f"0 to {exist}, the number of tokens", k))
    return Top(*compute("top", dtype, (hidden, weight), (Longest(k), rules)))


for _function in (greedy, sample, score, top):
    _function.__module__ = "farspan"
