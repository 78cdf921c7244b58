"""The network itself: the tree of modules, and the pass from ids to hidden states."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from farspan import _transforms as transforms
from farspan import reference
from farspan._backend.arrays import name_of
from farspan._backend.compiler import cuda_status
from farspan._errors import ArgumentError, BackendError, DtypeError, message
from farspan._gradients import is_inference
from farspan._results import AttentionStatistics
from farspan.model.arguments import check_ids, counted_lengths, placed, unknown_id
from farspan.model.cache import Cache, CacheForm
from farspan.model.config import DTYPES, Config
from farspan.model.experts import ExpertLinear, MixtureOfExperts
from farspan.model.layers import Attention, Block, Norm, Part, hooks_everywhere, is_instrumented
from farspan.model.linear import Linear
from farspan.model.observed import Look, ObservedOperations
from farspan.model.operations import (
    FUNCTIONS,
    ArrayOperations,
    DeviceOperations,
    Operations,
    TensorOperations,
    activation_dtype,
)
from farspan.model.padding import sequences
from farspan.model.passes import PassPlan, plan_documents, plan_pass
from farspan.model.recorded_operations import tensor_operations
from farspan.positions import Forgetting

INITIAL_DEVIATION = 0.02
CONFIG_DTYPES = {getattr(torch, name): name for name in DTYPES}

Tap = Callable[[int, Any], Any]
"""What looks at a pass: `(depth, stream)`."""


class Decoder(nn.Module):
    """The modules of `farspan.Transformer`, which says what the arguments mean, and its pass."""

    embedding, places, layers, norm, head = Part(), Part(), Part(), Part(), Part()

    @torch.inference_mode(False)  # so that the weights can learn, wherever the model is made
    def __init__(
        self, config: Config, *, backend: str = "fused", dtype: torch.dtype | str | None = None,
        device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        super().__init__()
        if not isinstance(config, Config):
            raise ArgumentError(message("config", "a farspan.Config", repr(config)))
        self._build(config, backend, torch_dtype(config.dtype if dtype is None else dtype), torch_device(device))
        self.reset_parameters()

    def _build(self, config: Config, backend: str, dtype: torch.dtype, device: torch.device) -> None:
        """The modules, their memory uninitialised."""
        if backend not in FUNCTIONS:
            raise ArgumentError(message("backend", f"one of {', '.join(FUNCTIONS)}", repr(backend)))
        if backend == "fused" and dtype == torch.float64:
            expected = "float32, bfloat16 or float16 (dtype='float32' converts, backend='reference' computes so)"
            raise DtypeError(message("dtype", expected, "float64"))
        self._config, self.backend = config, backend
        with torch.device(device):
            self.embedding = nn.Parameter(torch.empty(config.vocab_size, config.hidden_size))
            if config.learned_positions:
                self.places = nn.Parameter(torch.empty(config.max_position_embeddings, config.hidden_size))
            self.layers = nn.ModuleList(Block(config, layer, backend) for layer in range(config.num_hidden_layers))
            self.norm = Norm(config.norm, config.hidden_size, config.norm_eps, backend, config.norm_adds_one)
            if not config.tie_word_embeddings:
                self.head = nn.Parameter(torch.empty(config.vocab_size, config.hidden_size))
        self.to(dtype)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Random weights: normal with deviation 0.02, projections back into the residual stream narrower with depth."""
        back = INITIAL_DEVIATION / (2 * self.config.num_hidden_layers) ** 0.5
        for module in self.modules():
            if isinstance(module, Norm):
                module.weight.fill_(1 - module.adds_one)
            elif isinstance(module, (Linear, ExpertLinear)):
                module.weight.normal_(std=INITIAL_DEVIATION)
            elif isinstance(module, Attention) and module.sink is not None:
                module.sink.normal_(std=INITIAL_DEVIATION)
            if isinstance(module, (Norm, Linear, ExpertLinear)) and module.bias is not None:
                module.bias.zero_()
        for block in self.layers:
            if block.attention.positions is not None:
                block.attention.positions.reset_parameters()
            down = block.mlp.expert_down if isinstance(block.mlp, MixtureOfExperts) else block.mlp.down
            for narrowed in (block.attention.out, down):
                narrowed.weight.normal_(std=back)
        self.embedding.normal_(std=INITIAL_DEVIATION)
        if self.config.learned_positions:
            self.places.normal_(std=INITIAL_DEVIATION)
        if not self.config.tie_word_embeddings:
            self.head.normal_(std=INITIAL_DEVIATION)

    @property
    def config(self) -> Config:
        """The shape; its dtype is the one that the weights have now, whatever has been done to them."""
        name = CONFIG_DTYPES.get(self.dtype)
        if name is not None and self._config.dtype != name:
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
    def logit_settings(self) -> dict[str, Any]:
        """Arguments of `farspan.sample`, `score` and `top` beside the unembedding, for models whose logits are scaled
        or soft-capped; else none."""
        return self.config.logit_settings

    @property
    def dtype(self) -> torch.dtype:
        found: torch.dtype = self.embedding.dtype
        return found

    @property
    def device(self) -> torch.device:
        found: torch.device = self.embedding.device
        return found

    @property
    def activations(self) -> torch.dtype:
        """What this model computes and caches in: on a GPU what its weights are, elsewhere float32 at least."""
        on_gpu = self.backend == "fused" and self.device.type == "cuda"
        return self.dtype if on_gpu else activation_dtype(self.dtype)

    def choose_operations(self) -> Operations:
        """What this model computes with now: its backend, on arrays where nobody traces, differentiates or listens."""
        traced = torch.compiler.is_compiling() or transforms.at_work()
        if self.backend == "reference" or self.wants_gradient or traced:
            return tensor_operations(self, traced)
        if self.device.type != "cpu":
            return DeviceOperations(self.activations)
        return TensorOperations(self.backend, self.activations) if self.instrumented else ArrayOperations()

    @property
    def wants_gradient(self) -> bool:
        """Whether a pass is recorded for gradients. Weights that were made in inference mode can have none."""
        return torch.is_grad_enabled() and any(p.requires_grad and not is_inference(p) for p in self.parameters())

    @property
    def instrumented(self) -> bool:
        """Whether somebody has hooked a module of this model, or replaced one: then all are called, with tensors."""
        return hooks_everywhere() or is_instrumented(self.layers) or is_instrumented(self.norm)

    def new_cache(self, batch: int, capacity: int | None = None) -> Cache:
        """An empty cache for `batch` sequences. `capacity` None: it grows; a number: that many tokens, never more."""
        self.require_causal("new_cache")
        for name, value, least in (("batch", batch, 1), ("capacity", capacity, 0)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise ArgumentError(message(name, f"an integer, at least {least}", repr(value)))
        return Cache(self._cache_form(), batch, capacity)

    def require_causal(self, name: str) -> None:
        """ArgumentError where every token sees those behind it, so that none can be read before the next ones."""
        if not self.config.causal:
            expected = "a model whose tokens see only those before them"
            raise ArgumentError(message(name, expected, "one whose config says causal=False"))

    def _require_shared_calls(self) -> None:
        """BackendError where a layer's rows are heads of their own, and no call of attention is the layer's."""
        schemes = [kind.scheme for kind in self.config.attention_kinds if kind.scheme.by_rows]
        if schemes:
            expected = "a scheme whose rows share one call of attention"
            raise BackendError(message("positions", expected, ", ".join(dict.fromkeys(map(str, schemes)))))

    def _cache_form(self) -> CacheForm:
        c = self.config
        forgets = any(isinstance(part, Forgetting) for scheme in c.positions for part in scheme.learned_parts)
        gates = c.num_attention_heads if forgets else 0
        return CacheForm(c.num_hidden_layers, c.kv_heads, c.dim_per_head, self.activations, self.device, gates)

    def check_cache(self, cache: Any, batch: int) -> None:
        """ArgumentError unless this model could have made the cache, for `batch` sequences."""
        if not isinstance(cache, Cache):
            raise ArgumentError(message("cache", "a farspan.Cache of model.new_cache", repr(cache)))
        if cache.batch != batch:
            raise ArgumentError(message("cache", f"one for {batch} sequences", f"one for {cache.batch}"))
        needed = self._cache_form()
        for name, own, given in zip(needed._fields, needed, cache.form, strict=True):
            if given != own:
                raise ArgumentError(message("cache", f"one of this model, {name} {own}", f"one with {name} {given}"))

    # ------------------------------------------------------------------------------------------------------- the pass

    def forward(
        self, ids: Any, cache: Cache | None = None, *, lengths: Sequence[int] | None = None, tap: Tap | None = None,
        look: Look | None = None, recompute: bool = False, attention_mask: Any = None, position_ids: Any = None,
        positions: Any = None,
    ) -> Tensor:  # fmt: skip
        """`[batch, time]` ids -> `[batch, time, dim]` hidden states after the final norm, before the unembedding.

        With a cache, the ids are the next tokens of the sequences it holds, and it takes them in. Nothing is recorded
        for gradients then: keys of earlier calls have none. With `lengths`, ids are sequences of so many tokens each,
        one behind the other, `[tokens]` -> `[tokens, dim]`: no padding, and no sequence sees another.

        `attention_mask` and `position_ids` `[batch, time]` say the same in transformers' way: 0 is padding, before or
        behind the tokens of a row, and a sequence begins where positions begin at 0. Each sequence has the bits that it
        has alone, and padding is 0 in the result.

        `tap(depth, stream)` is shown the residual stream, of the shape of the result, at depth 0, which is the
        embedding, and after each layer; the last under `model.norm` is what this returns. What it keeps it need not
        copy, and must not write to. `look` is shown the attention of each layer (`farspan.model.observed`).
        `recompute`: a backward pass computes each layer again instead of keeping what is inside. The gradients have the
        same bits. `positions`: integers of at least 0, of the shape of ids, where the
        tokens stand for a scheme that takes them from its caller (`farspan.positions.Coupled`). With a cache they are
        those of all tokens, the ones that it holds too.
        """
        ids = as_ids(ids, 2 if lengths is None else 1)
        if tap is not None and not callable(tap):
            raise ArgumentError(message("tap", "a callable (depth, stream)", repr(tap)))
        check_not_capturing(self.device)
        if attention_mask is not None or position_ids is not None:
            for name, value in {
                "cache": cache,
                "lengths": lengths,
                "tap": tap,
                "look": look,
                "positions": positions,
            }.items():
                if value is not None:
                    expected = "None beside attention_mask and position_ids"
                    raise ArgumentError(message(name, expected, type(value).__name__))
            return self._padded(ids, attention_mask, position_ids, recompute=recompute)
        if cache is not None:
            if lengths is not None:
                raise ArgumentError(message("lengths", "None, as there is a cache", repr(lengths)))
            self.check_cache(cache, len(ids))
            if torch.is_grad_enabled():
                with torch.no_grad():
                    return self.forward(ids, cache, tap=tap, look=look, positions=positions)
        shape = (*ids.shape, self.config.hidden_size)
        if not ids.numel():
            return torch.empty(shape, dtype=self.dtype, device=self.device)
        operations: Operations = self.choose_operations()
        if look is not None:
            self._require_shared_calls()
            operations = cast(Operations, ObservedOperations(operations, look))
        if not operations.refuses_unknown_ids or self.device.type == "cuda":
            check_before_device(ids, self.config.vocab_size)
        draw = self._draw(cache)
        if lengths is None:
            new = (ids.shape[1],) * len(ids)
            held = (0,) * len(ids) if cache is None else cache.counts
            places = self.placed(positions, [old + more for old, more in zip(held, new, strict=True)])
            plan = plan_pass(self.config, new, cache, draw=draw, positions=places)
        else:
            each = counted_lengths(lengths, len(ids))
            places = self.placed(positions, each)
            plan = plan_documents(self.config, each, draw, places)
        shown = tap and (lambda depth, x: tap(depth, operations.as_tensor(x).view(shape)))
        hidden = self.run(ids.reshape(-1).to(self.device), plan, operations, shown, recompute=recompute)
        return operations.as_tensor(hidden).to(self.dtype).view(shape)

    def placed(self, positions: Any, lengths: Sequence[int]) -> list[np.ndarray] | None:
        """Where the tokens of each sequence stand. ArgumentError: no scheme asks for that, or it cannot be."""
        if positions is None:
            return None
        if not any(kind.scheme.takes_positions for kind in self.config.attention_kinds):
            expected = "None, as no layer has a scheme that takes them (farspan.positions.Coupled)"
            raise ArgumentError(message("positions", expected, type(positions).__name__))
        return placed("positions", positions, lengths)

    def _padded(self, ids: Tensor, attention_mask: Any, position_ids: Any, *, recompute: bool) -> Tensor:
        """The sequences without their padding, in one pass, and where they were."""
        kept, lengths = sequences(ids, attention_mask, position_ids)
        hidden = torch.zeros(*ids.shape, self.config.hidden_size, dtype=self.dtype, device=self.device)
        if not lengths:
            return hidden
        packed = self.forward(ids[kept], lengths=lengths, recompute=recompute)
        return hidden.index_put((kept.to(self.device),), packed)

    def _draw(self, cache: Cache | None) -> int | None:
        """A number for a batch in training, from which schemes with random positions draw these."""
        draws = cache is None and any(kind.scheme.draws for kind in self.config.attention_kinds)
        if not (draws and self.training and self.wants_gradient):
            return None
        return int(torch.randint(2**31, ()))

    def fit_positions(self) -> None:
        """Gives each layer the parameters that its position scheme has in the config, and keeps those it has."""
        fitted = [block.with_positions(self.config, layer) for layer, block in enumerate(self.layers)]
        if any(new is not old for new, old in zip(fitted, self.layers, strict=True)):
            self.layers = nn.ModuleList(fitted).train(self.training)

    def hidden_states(self, ids: Any) -> Tensor:
        """`[batch, time]` ids -> `[layers + 1, batch, time, dim]`: the residual stream, the embedding first and
        then what each layer gives. It is as precise as what the model computes in: float32 on a CPU, or more."""
        ids = as_ids(ids, 2)
        streams: list[Tensor] = []
        self(ids, tap=lambda depth, stream: streams.append(stream))
        if not streams:  # no ids
            shape = (self.config.num_hidden_layers + 1, *ids.shape, self.config.hidden_size)
            return torch.empty(shape, dtype=self.activations, device=self.device)
        return torch.stack(streams)

    @torch.no_grad()
    def attention_statistics(self, ids: Any) -> AttentionStatistics:
        """`[batch, time]` ids -> what the heads of every layer look at: `farspan.AttentionStatistics`, each field
        float32 `[layers, batch, heads, time]`. Neither weights of attention nor logits are built."""
        ids = as_ids(ids, 2)
        layers: list[AttentionStatistics] = []

        def look(operations: Operations, _: Any, query: Any, key: Any, *settings: Any) -> None:
            found = operations.statistics(query, key, *settings)
            layers.append(AttentionStatistics(*map(operations.as_tensor, found)))

        self(ids, look=look)
        if not layers:  # no ids
            shape = (self.config.num_hidden_layers, len(ids), self.config.num_attention_heads, ids.shape[1])
            empty = torch.empty(shape, dtype=torch.float32, device=self.device)
            return AttentionStatistics(*[empty] * len(AttentionStatistics._fields))
        return AttentionStatistics(*(torch.stack(field).float() for field in zip(*layers, strict=True)))

    def final_norm(self, x: Tensor) -> Tensor:
        """`[..., dim]` -> the same: the norm that stands before the unembedding. The last of `hidden_states` gets the
        bits and the dtype of `forward`; a row does not depend on the others."""
        width = self.config.hidden_size
        if not isinstance(x, Tensor):
            raise DtypeError(message("x", "a tensor [..., dim]", type(x).__name__))
        if x.ndim == 0 or x.shape[-1] != width:
            raise ArgumentError(message("x", f"shape [..., {width}]", f"shape {list(x.shape)}"))
        rows = x.to(self.activations).reshape(-1, width).contiguous()
        return self.norm(rows).to(self.dtype).view(x.shape)

    def run(
        self, tokens: Any, plan: PassPlan, operations: Operations, tap: Tap | None = None, *, recompute: bool = False
    ) -> Any:
        """Packed ids `[tokens]` -> hidden states `[tokens, dim]` after the final norm; the cache takes them in."""
        hidden = self.compute(tokens, operations.prepared(plan, self.device), operations, tap, recompute=recompute)
        plan.commit()
        return hidden

    def compute(
        self, tokens: Any, plan: PassPlan, operations: Operations, tap: Tap | None = None, *, recompute: bool = False
    ) -> Any:
        """What `run` gives. Keys and values are written, but the cache does not yet count them. `tap` is shown what
        flows from layer to layer, `[tokens, dim]`, as the numbers are."""
        try:
            x: Any = self._embedded(tokens, plan, operations)
        except IndexError:
            raise unknown_id(tokens, self.config.vocab_size) from None
        if tap is not None:
            tap(0, x)
        for index, block in enumerate(self.layers):
            if recompute and torch.is_grad_enabled():
                x = checkpoint(operations.call, block, x, index, plan, operations, use_reentrant=False)
            else:
                x = operations.call(block, x, index, plan, operations)
            if tap is not None:
                tap(index + 1, x)
        return operations.norm(x, self.norm)

    def _embedded(self, tokens: Any, plan: PassPlan, operations: Operations) -> Any:
        """What enters the first layer. A multiplier is rounded as the embedding is: that is how models with one were
        trained."""
        x = operations.embed(tokens, self.embedding)
        multiplier = self.config.embedding_multiplier
        if multiplier != 1:
            x = x * torch.tensor(multiplier, dtype=self.dtype).item()
        return x if plan.places is None else x + operations.embed(plan.places, self.places)

    def extra_repr(self) -> str:
        c = self.config
        sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
        heads = ("num_attention_heads", "num_key_value_heads", "head_dim", "tie_word_embeddings")
        lines = [", ".join(f"{name}={getattr(c, name)}" for name in names) for names in (sizes, heads)]
        for kind, (scheme, window, _) in enumerate(c.attention_kinds):
            layers = [str(layer) for layer, own in enumerate(c.kind_of_layer) if own == kind]
            which = "all layers" if len(c.attention_kinds) == 1 else f"layers {', '.join(layers)}"
            lines.append(f"{which}: {scheme}" + (f", window {window}" if window is not None else ""))
        return "\n".join([*lines, f"dtype={name_of(self.dtype)}, device={self.device}, backend={self.backend}"])

    def logits(self, ids: Any, **options: Any) -> Tensor:
        """`[batch, time]` ids -> float32 logits `[batch, time, vocab]`, all of them: for tests and small inputs.
        `options`: those of `forward`."""
        return reference.logits(self(ids, **options), self.unembedding, **self.logit_settings)


def torch_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """A floating dtype of farspan from its name or itself."""
    name = name_of(dtype)
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


def check_before_device(ids: Tensor, vocab: int) -> None:
    """A GPU that looks up an unknown id ends all work of the process. Ids that lie there already are waited for."""
    if not (ids.is_meta or torch.compiler.is_compiling()):
        check_ids(ids, vocab)


def check_not_capturing(device: torch.device) -> None:
    """A pass sends numbers that the host works out, and the cache's lengths are Python's: a graph that a caller
    captured would replay the first ones for good."""
    if device.type != "cuda" or torch.compiler.is_compiling() or not torch.cuda.is_current_stream_capturing():
        return
    expected = "a call that no CUDA graph captures; generate captures its own, and operations can be captured"
    raise BackendError(message("model", expected, "a stream that is capturing"))


def as_ids(ids: Any, axes: int) -> Tensor:
    """`[batch, time]` int64, or with one axis `[tokens]`, from a tensor, a numpy array or nested lists."""
    form = "[batch, time]" if axes == 2 else "[tokens]"
    if not isinstance(ids, Tensor):
        try:
            ids = torch.from_numpy(np.asarray(ids))
        except (TypeError, ValueError) as error:
            raise ArgumentError(message("ids", f"integers {form}", error)) from None
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise DtypeError(message("ids", f"integers {form}", ids.dtype))
    if ids.ndim != axes:
        raise ArgumentError(message("ids", f"shape {form}", f"shape {list(ids.shape)}"))
    # Autograd keeps the ids of an embedding, and takes none that were made in inference mode.
    return ids.to(torch.int64, copy=torch.is_grad_enabled() and is_inference(ids))
