"""`farspan.Transformer`: the decoder that is loaded from a folder, saved to one, and writes text."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from farspan.model import checkpoint, source
from farspan.model.borrowed import Borrowed
from farspan.model.cache import Cache
from farspan.model.config import Config
from farspan.model.decoder import Decoder, torch_device, torch_dtype
from farspan.model.generation.generate import Completion, Streamer, generate
from farspan.model.layers import shallow
from farspan.model.loss import loss
from farspan.positions import Scheme


class Transformer(Decoder):
    """A decoder of the shape `config` describes, with random weights.

    `backend` "fused" computes with `farspan.attention`, `farspan.linear` and `farspan.sample`. "reference" computes
    with `farspan.reference`: it is slow, and tests compare with it. Parameters ask for gradients in both. Nothing is
    recorded under `torch.no_grad()`, in `generate` and with a cache. A call is quickest then, with the same bits.

    On a CPU, half-precision weights stay half precision, and everything between them is float32: `farspan.linear`
    widens weights as it reads them. For many rows that takes as long as float32 copies would. For the few rows of
    decoding, where reading is all the work, it takes a quarter to a half of that. On a GPU everything has the weights'
    dtype, and products are torch's.
    """

    @classmethod
    def from_pretrained(
        cls, path: str | os.PathLike[str], dtype: torch.dtype | str | None = None,
        device: torch.device | str = "cpu", *, backend: str = "fused",
    ) -> Transformer:  # fmt: skip
        """The model of a folder with `config.json` and safetensors weights, in one file or in shards, of a GGUF file,
        of an installed package that carries one, as `package:NAME`, or of a name on the Hugging Face hub, as
        `organisation/model` or `organisation/model@revision`: then the files needed are fetched into that hub's cache.

        `dtype` None: the one the checkpoint names, bfloat16 for a GGUF file. CheckpointError: anything missing,
        damaged, left over or unknown.
        """
        return cls.from_checkpoint(source.open_checkpoint(path), dtype, device, backend=backend)

    @classmethod
    @torch.inference_mode(False)  # so that the weights can learn, wherever the model is loaded
    def from_checkpoint(
        cls, opened: source.Opened, dtype: torch.dtype | str | None = None, device: torch.device | str = "cpu", *,
        backend: str = "fused",
    ) -> Transformer:  # fmt: skip
        """The model of a checkpoint that `farspan.model.source` opened. Its weights are read one after the other."""
        shape = cls._on_meta(opened.config, torch_dtype(opened.config.dtype if dtype is None else dtype), backend)
        opened.check(shape)
        model = shape.to_empty(device=torch_device(device))
        opened.load(model)
        return model

    @classmethod
    @torch.inference_mode(False)
    def from_transformers(cls, model: Any, *, backend: str = "fused") -> Transformer:
        """A model of transformers that is in memory, of a family that `from_pretrained` reads, as one of farspan, in
        its dtype and on its device.

        Weights that both lay out alike are the same memory afterwards: embedding and head, norms, and projections that
        are one matrix in both. Others, such as queries, keys and values, which are one matrix here, are copied.

        ArgumentError, CheckpointError: no such model, or one of a family or with a setting that farspan lacks.
        """
        borrowed = Borrowed(model)
        shape = cls._on_meta(borrowed.config, borrowed.dtype, backend)
        borrowed.check(shape)
        borrowed.lend(shape)
        return shape

    @classmethod
    def _on_meta(cls, config: Config, dtype: torch.dtype, backend: str) -> Transformer:
        """The modules without memory."""
        with torch.device("meta"):
            shape = cls.__new__(cls)
            nn.Module.__init__(shape)
            shape._build(config, backend, dtype, torch.device("meta"))
        return shape

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Writes `config.json` and `model.safetensors` under Hugging Face's names; weights keep their dtype.

        Each file is replaced as a whole, so that a crash leaves the one that was there.
        """
        checkpoint.save(self, folder)

    @torch.inference_mode(False)
    def with_positions(self, scheme: Scheme) -> Transformer:
        """This model, its weights shared, with another position scheme in the layers that rotate; caches fit both.

        A scheme that only scales a RoPE takes over each layer's own base; any scaling that the layers had goes. Layers
        that were trained without a rotation (a quarter of SmolLM3's) stay as they are. A scheme that learns brings its
        parameters along, as they are before training, and they learn where the layer's projections do. Those that the
        layers have of it already are kept.
        """
        twin = shallow(self)
        twin.config = self.config.with_positions(scheme)
        twin.fit_positions()
        return twin

    def loss(
        self, ids: Any, targets: Any = None, *, lengths: Sequence[int] | None = None, ignore_index: int = -100,
        reduction: str = "mean", recompute: bool = False, positions: Any = None,
    ) -> Tensor:  # fmt: skip
        """Nats per token of predicting the targets, float32: the cross-entropy of logits that are never built.

        `ids`, `targets`: `[batch, time]`. Targets None: the next token of each but the last. `reduction`: "mean" over
        the targets that are not `ignore_index`, "sum", or "none" for each. `lengths`, `recompute`, `positions`: as in
        `forward`; with lengths, ids and targets are `[tokens]`, and no sequence predicts the next one.

        ArgumentError, DtypeError: targets of another shape, or outside the vocabulary.
        """
        return loss(self, ids, targets, lengths, ignore_index, reduction, recompute, positions)

    def generate(
        self, prompts: Any, max_new_tokens: int = 64, temperature: Any = 0.0, seed: Any = 0,
        stop: Iterable[int] | int | None = None, streamer: Streamer | None = None, cache: Cache | None = None, *,
        draft: Transformer | str | None = None, draft_length: int = 4, graphs: bool = True,
        positions: Callable[[list[int]], Sequence[int]] | None = None, **settings: Any,
    ) -> list[Completion]:  # fmt: skip
        """Up to `max_new_tokens` new tokens for each prompt: one `Completion(tokens, logprobs, finish_reason)` each.

        `prompts`: id lists of any lengths, or `[batch, time]`. `temperature`: a number, or one per prompt; 0 is greedy.
        `seed`: an integer (row b draws with stream b), or one per prompt (stream 0). A token's position is its index in
        its sequence. So a text depends neither on its batch mates nor on how it was resumed. `stop`: ids that end a
        sequence. None stands for the checkpoint's end-of-sequence ids, and `()` for none. `streamer(row, token)` hears
        every token as it is drawn, and a true result stops that row. `cache` may hold the first tokens of the prompts,
        which are then not computed again. Afterwards it holds all tokens except each sequence's last.

        `draft`: "prompt-lookup", or a model of the same vocabulary, guesses up to `draft_length` tokens ahead. One pass
        checks them. The text is the same as without a drafter, token by token. A completion counts the guesses.

        `graphs`: on a GPU, passes whose shapes repeat are captured in CUDA graphs and replayed. That gives the same
        bits with less work for the CPU. A RuntimeWarning says where it is not possible. False: never.

        `positions`: with a scheme that takes them (`farspan.positions.Coupled`), a function that gives a sequence's
        positions from its tokens, the prompt included. It is asked before each pass.

        `settings`: those of `farspan.sample`. Each is a number or one per prompt; `order` and `top` are one for all. A
        penalty's history is the sequence so far, the prompt included. Some settings have more convenient forms here:

            logit_bias    {id: value}, or a list of one such dict per prompt
            banned        ids, or a list of id lists, one per prompt
            allowed       the same; no ids restrict nothing
            bad_words     a list of id lists, or a list of such lists: the last id of each is banned after the others
            min_tokens    the ids that end a sequence are banned until this many new tokens have come
            mask          int32 words `[words]` or `[prompts, words]`, or a callable `(row, tokens)`. It is asked before
                          each draw for the words of a prompt whose new tokens these are; None allows all. With a
                          drafter it is asked about guesses too, so it may depend on nothing but row and tokens

        ArgumentError, DtypeError: an unknown setting, or a value that cannot be. Error: no token can continue a
        sequence, because its logits are NaN or all of them are banned.
        """
        return generate(
            self, prompts, max_new_tokens, temperature, seed, stop, streamer, cache, draft, draft_length, graphs,
            positions, settings,
        )  # fmt: skip
