"""The whole model: ids to hidden states, logits or text."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from farspan import reference
from farspan._backend.compiler import cuda_status
from farspan._errors import ArgumentError, BackendError, DtypeError, message
from farspan.model.arguments import check_ids, unknown_id
from farspan.model.cache import Cache
from farspan.model.config import DTYPES, Config
from farspan.model.generation.generate import Completion, Streamer, generate
from farspan.model.kernels import ArrayKernels, DeviceKernels, TensorKernels, activation_dtype
from farspan.model.layers import Block, Linear, Norm
from farspan.model.passes import Pass, plan_pass
from farspan.model.staging import on_device
from farspan.positions import Scheme

BACKENDS = ("fused", "reference")
INITIAL_DEVIATION = 0.02


class Transformer(nn.Module):
    """A pre-norm decoder of the shape `config` describes, with random weights.

    `backend` "fused" computes with `farspan.attention`, `farspan.linear` and `farspan.sample`; its parameters ask for
    no gradient, and one that is asked for is an error. "reference" computes with `farspan.reference`: slow,
    differentiable, the oracle for tests and what small models are trained with.

    Half-precision weights stay half precision, and everything between them is float32: `farspan.linear` widens weights
    as it reads them, which for many rows takes as long as float32 copies would, and for the few rows of decoding, where
    the reading is all, a quarter to a half of that. torch's bfloat16 products are no way out on CPUs that lack them. On
    a GPU everything is what the weights are, and products are torch's.
    """

    def __init__(
        self, config: Config, *, backend: str = "fused", dtype: torch.dtype | str | None = None,
        device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        super().__init__()
        if not isinstance(config, Config):
            raise ArgumentError(message("config", "a farspan.Config", repr(config)))
        self._prepare(config, backend, torch_dtype(config.dtype if dtype is None else dtype), torch_device(device))
        self.reset_parameters()

    def _prepare(self, config: Config, backend: str, dtype: torch.dtype, device: torch.device) -> None:
        if backend not in BACKENDS:
            raise ArgumentError(message("backend", f"one of {', '.join(BACKENDS)}", repr(backend)))
        self.backend = backend
        self.config = dataclasses.replace(config, dtype=str(dtype).removeprefix("torch."))
        with torch.device(device):
            self.embedding = nn.Parameter(torch.empty(config.vocab_size, config.hidden_size))
            self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
            self.norm = Norm(config.norm, config.hidden_size, config.norm_eps)
            if not config.tie_word_embeddings:
                self.head = nn.Parameter(torch.empty(config.vocab_size, config.hidden_size))
        self.to(dtype).requires_grad_(backend == "reference")

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Random weights: normal with deviation 0.02, projections back into the residual stream narrower with depth."""
        back = INITIAL_DEVIATION / (2 * self.config.num_hidden_layers) ** 0.5
        for module in self.modules():
            if isinstance(module, Norm):
                module.weight.fill_(1)
            elif isinstance(module, Linear):
                module.weight.normal_(std=INITIAL_DEVIATION)
            if isinstance(module, (Norm, Linear)) and module.bias is not None:
                module.bias.zero_()
        for block in self.layers:
            for narrowed in (block.attention.out, block.mlp.down):  # type: ignore[union-attr]
                narrowed.weight.normal_(std=back)  # type: ignore[union-attr, operator]
        self.embedding.normal_(std=INITIAL_DEVIATION)
        if not self.config.tie_word_embeddings:
            self.head.normal_(std=INITIAL_DEVIATION)

    @classmethod
    def from_pretrained(
        cls, folder: str | os.PathLike[str], dtype: torch.dtype | str | None = None,
        device: torch.device | str = "cpu", *, backend: str = "fused",
    ) -> Transformer:  # fmt: skip
        """The model of a folder with `config.json` and safetensors weights, in one file or in shards.

        `dtype` None: the one the checkpoint names. CheckpointError: anything missing, damaged, left over or unknown.
        """
        from farspan.model import checkpoint

        opened = checkpoint.Checkpoint(folder)
        wanted = torch_dtype(opened.config.dtype if dtype is None else dtype)
        with torch.device("meta"):
            shape = cls.__new__(cls)
            nn.Module.__init__(shape)
            shape._prepare(opened.config, backend, wanted, torch.device("meta"))
        opened.check(shape)
        model = shape.to_empty(device=torch_device(device))
        opened.load(model)
        return model

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Writes `config.json` and `model.safetensors` under Hugging Face's names; weights keep their dtype."""
        from farspan.model import checkpoint

        checkpoint.save(self, folder)

    @property
    def config(self) -> Config:
        """The shape; its dtype is the one that the weights have now, whatever has been done to them."""
        name = str(self.embedding.dtype).removeprefix("torch.")
        if self._config.dtype != name and name in DTYPES:
            self._config = dataclasses.replace(self._config, dtype=name)
        return self._config

    @config.setter
    def config(self, config: Config) -> None:
        self._config = config

    @property
    def unembedding(self) -> Tensor:
        """`[vocab, dim]`: the embedding itself where the two are tied."""
        return self.embedding if self.config.tie_word_embeddings else self.head

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding.dtype

    @property
    def device(self) -> torch.device:
        return self.embedding.device

    @property
    def activations(self) -> torch.dtype:
        """What this model computes and caches in: on a GPU what its weights are, elsewhere float32 at least."""
        on_gpu = self.backend == "fused" and self.device.type == "cuda"
        return self.dtype if on_gpu else activation_dtype(self.dtype)

    @property
    def kernels(self) -> TensorKernels | ArrayKernels:
        """What this model computes with now: its backend, on arrays where nobody traces or differentiates."""
        if self.backend == "reference":
            return TensorKernels(reference, self.activations)
        wants_gradient = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in self.parameters())
        if wants_gradient or torch.compiler.is_compiling():
            import farspan

            return TensorKernels(farspan, self.activations)
        return ArrayKernels() if self.device.type == "cpu" else DeviceKernels(self.activations)

    def with_positions(self, scheme: Scheme) -> Transformer:
        """This model, its weights shared, with another position scheme in every layer; caches fit both.

        A scheme that only scales a RoPE takes over the base of this model's own.
        """
        twin = copy.copy(self)
        twin.config = self.config.with_positions(scheme)
        return twin

    def new_cache(self, batch: int, capacity: int | None = None) -> Cache:
        """An empty cache for `batch` sequences. `capacity` None: it grows; a number: that many tokens, never more."""
        for name, value, least in (("batch", batch, 1), ("capacity", capacity, 0)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise ArgumentError(message(name, f"an integer, at least {least}", repr(value)))
        c = self.config
        return Cache(c.num_hidden_layers, batch, c.kv_heads, c.dim_per_head, self.activations, self.device, capacity)

    def forward(self, ids: Any, cache: Cache | None = None) -> Tensor:
        """`[batch, time]` ids -> `[batch, time, dim]` hidden states after the final norm, before the unembedding.

        With a cache, the ids are the next tokens of the sequences it holds, and it takes them in.
        """
        ids = _as_ids(ids)
        batch, time = ids.shape
        if cache is not None:
            self.check_cache(cache, batch)
        if not batch or not time:
            return torch.empty(batch, time, self.config.hidden_size, dtype=self.dtype, device=self.device)
        kernels = self.kernels
        if isinstance(kernels, DeviceKernels) or self.device.type == "cuda":
            _check_before_device(ids, self.config.vocab_size)
        now = plan_pass(self.config, (time,) * batch, cache)
        tokens: Any = ids.reshape(-1).to(self.device)
        if isinstance(kernels, ArrayKernels):
            hidden = torch.from_numpy(self.run(tokens.numpy(), now, kernels))
        else:
            hidden = self.run(tokens, now, kernels)
        return hidden.to(self.dtype).view(batch, time, -1)

    def run(self, tokens: Any, now: Pass, kernels: TensorKernels | ArrayKernels) -> Any:
        """Packed ids `[tokens]` -> hidden states `[tokens, dim]` after the final norm; the cache takes them in."""
        ready = on_device(now, self.device) if isinstance(kernels, DeviceKernels) else now
        hidden = self.compute(tokens, ready, kernels)
        now.take_in()
        return hidden

    def compute(self, tokens: Any, now: Pass, kernels: TensorKernels | ArrayKernels) -> Any:
        """What `run` gives. Keys and values are written, but the cache does not yet count them."""
        try:
            x: Any = kernels.embed(tokens, self.embedding)
        except IndexError:
            raise unknown_id(tokens, self.config.vocab_size) from None
        for index, block in enumerate(self.layers):
            x = block(x, index, now, kernels)
        return kernels.norm(x, self.norm)

    def check_cache(self, cache: Any, batch: int) -> None:
        """ArgumentError unless this is a cache for `batch` sequences."""
        if not isinstance(cache, Cache):
            raise ArgumentError(message("cache", "a farspan.Cache of model.new_cache", repr(cache)))
        if cache.batch != batch:
            raise ArgumentError(message("cache", f"{batch} sequences, as ids has", f"{cache.batch} sequences"))

    def generate(
        self, prompts: Any, max_new_tokens: int = 64, temperature: Any = 0.0, seed: Any = 0,
        stop: Iterable[int] | int | None = None, streamer: Streamer | None = None, cache: Cache | None = None, *,
        draft: Transformer | str | None = None, draft_length: int = 4, graphs: bool = True, **settings: Any,
    ) -> list[Completion]:  # fmt: skip
        """Up to `max_new_tokens` new tokens for each prompt: one `Completion(tokens, logprobs, finish_reason)` each.

        `prompts`: id lists of any lengths, or `[batch, time]`. `temperature` 0 is greedy; a number, or one per prompt.
        `seed`: an integer (row b draws with stream b) or one per prompt (stream 0); a token's position is its index in
        its sequence, so that a text depends neither on its batch mates nor on how it was resumed. `stop`: ids that end
        a sequence; None: the checkpoint's end-of-sequence ids, `()`: none. `streamer(row, token)` hears every token as
        it is drawn; a true result stops that row. `cache`: may hold the first tokens of the prompts, which are then
        not computed again; afterwards it holds all tokens but each sequence's last.

        `draft`: "prompt-lookup", or a model of the same vocabulary, guesses up to `draft_length` tokens ahead, which
        are checked in one pass. The text is the same as without, token by token; a completion counts the guesses.

        `graphs`: on a GPU, passes whose shapes repeat are captured in CUDA graphs and replayed, which gives the same
        bits with less work for the CPU; a RuntimeWarning says where that is not possible. False: never.

        `settings`: those of `farspan.sample`, each a number or one per prompt; `order` and `top`, one for all. A
        penalty's history is the sequence so far, the prompt included. These are convenient forms:

            logit_bias    {id: value}, or a list of one such dict per prompt
            banned        ids, or a list of id lists, one per prompt
            allowed       likewise; no ids restrict nothing
            bad_words     a list of id lists, or a list of such lists: the last id of each is banned behind the others
            min_tokens    the ids that end a sequence are banned until so many new tokens have come
            mask          int32 words `[words]` or `[prompts, words]`, or a callable `(row, tokens)` that is asked
                          before each draw for the words of a prompt whose new tokens these are; None allows all. With
                          a drafter it is asked about guesses too: it may depend on nothing but row and tokens

        ArgumentError, DtypeError: an unknown setting, or a value that cannot be. Error: a sequence that no token can
        continue, its logits NaN or all of them banned.
        """
        return generate(
            self, prompts, max_new_tokens, temperature, seed, stop, streamer, cache, draft, draft_length, graphs,
            settings,
        )  # fmt: skip

    def logits(self, ids: Any) -> Tensor:
        """`[batch, time]` ids -> float32 logits `[batch, time, vocab]`, all of them: for tests and small inputs."""
        return reference.logits(self(ids), self.unembedding)


def torch_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """A floating dtype of farspan from its name or itself."""
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise DtypeError(message("dtype", f"one of {', '.join(DTYPES)}", repr(dtype)))
    found: torch.dtype = getattr(torch, name)
    return found


def torch_device(device: torch.device | str) -> torch.device:
    """A device from its name or itself, if torch can use it."""
    found = torch.device(device)
    if found.type == "cuda" and not torch.cuda.is_available():
        reason = cuda_status()["reason"] or f"torch {torch.__version__}, which has no CUDA"
        raise BackendError(message("device", "cpu, or a GPU that torch can use", f"{found}; {reason}"))
    return found


def _check_before_device(ids: Tensor, vocab: int) -> None:
    """A GPU that looks up an unknown id ends all work of the process. Ids that lie there already are waited for, and
    are not checked where that is forbidden."""
    capturing = ids.is_cuda and torch.cuda.is_current_stream_capturing()
    if not (capturing or ids.is_meta or torch.compiler.is_compiling()):
        check_ids(ids, vocab)


def _as_ids(ids: Any) -> Tensor:
    """`[batch, time]` int64 from a tensor, a numpy array or nested lists."""
    if not isinstance(ids, Tensor):
        try:
            ids = torch.from_numpy(np.asarray(ids))
        except (TypeError, ValueError) as error:
            raise ArgumentError(message("ids", "integers [batch, time]", error)) from None
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise DtypeError(message("ids", "integers [batch, time]", ids.dtype))
    if ids.ndim != 2:
        raise ArgumentError(message("ids", "shape [batch, time]", f"shape {list(ids.shape)}"))
    return ids.to(torch.int64)
