"""A Llama in plain torch, with a key-value cache: what the demo compares its speed with, and tests their numbers.

Everything is what one writes without farspan: keys cached after rotation, `scaled_dot_product_attention`, whole logits,
an exponential race over `softmax(logits / temperature)` drawn from a `torch.Generator`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from farspan._errors import ArgumentError, message
from farspan.model import Config
from farspan.positions import RoPE

KeysAndValues = list[tuple[Tensor, Tensor]]


class EagerLlama:
    """Weights under their Hugging Face names and the shape of a Llama with plain RoPE."""

    def __init__(self, weights: Mapping[str, Tensor], config: Config, max_length: int = 4096) -> None:
        if config.rope_theta is None or not _is_plain(config, config.rope_theta):
            raise ArgumentError(message("config", "a plain Llama", config))
        self.weights, self.config, self.dim = weights, config, config.dim_per_head
        self.unembedding = weights.get("lm_head.weight", weights["model.embed_tokens.weight"])
        inv_freq = config.rope_theta ** (-torch.arange(0, self.dim, 2, dtype=torch.float64) / self.dim)
        angles = torch.arange(max_length, dtype=torch.float64)[:, None] * inv_freq
        self.cos, self.sin = (f(angles).repeat(1, 2).to(self.unembedding.dtype) for f in (torch.cos, torch.sin))

    def hidden(self, ids: Tensor, cache: KeysAndValues | None = None) -> Tensor:
        """[batch, time] -> [batch, time, dim] after the final norm; `cache` holds each layer's keys and values."""
        start = cache[0][0].shape[2] if cache else 0
        x = F.embedding(ids, self.weights["model.embed_tokens.weight"])
        for layer in range(self.config.num_hidden_layers):
            x = x + self._attention(layer, self._norm(x, f"layers.{layer}.input_layernorm"), start, cache)
            x = x + self._mlp(layer, self._norm(x, f"layers.{layer}.post_attention_layernorm"))
        return self._norm(x, "norm")

    @torch.no_grad()
    def generate(self, ids: Tensor, max_new_tokens: int, temperature: float = 0.0, seed: int = 0) -> Tensor:
        """[batch, time] -> [batch, time + max_new_tokens]: one forward pass for the prompt, then one a token."""
        generator = torch.Generator().manual_seed(seed)
        cache: KeysAndValues = []
        new = ids
        for _ in range(max_new_tokens):
            logits = F.linear(self.hidden(new, cache)[:, -1], self.unembedding).float()
            new = _draw(logits, temperature, generator)
            ids = torch.cat((ids, new), dim=1)
        return ids

    def _attention(self, layer: int, x: Tensor, start: int, cache: KeysAndValues | None) -> Tensor:
        query, key, value = (
            self._linear(layer, f"self_attn.{name}_proj", x).unflatten(-1, (-1, self.dim)).transpose(1, 2)
            for name in ("q", "k", "v")
        )
        query, key = self._rotate(query, start), self._rotate(key, start)
        if cache is not None and len(cache) > layer:
            key, value = (torch.cat(pair, dim=2) for pair in zip(cache[layer], (key, value), strict=True))
            cache[layer] = key, value
        elif cache is not None:
            cache.append((key, value))
        # is_causal aligns the starts: right for a prompt, and a single token sees all keys anyway.
        causal = query.shape[2] == key.shape[2] > 1
        grouped = self.config.num_attention_heads != self.config.kv_heads
        out = F.scaled_dot_product_attention(query, key, value, is_causal=causal, enable_gqa=grouped)
        return self._linear(layer, "self_attn.o_proj", out.transpose(1, 2).flatten(2))

    def _rotate(self, x: Tensor, start: int) -> Tensor:
        rows = slice(start, start + x.shape[2])
        first, second = x.chunk(2, dim=-1)
        return x * self.cos[rows] + torch.cat((-second, first), dim=-1) * self.sin[rows]

    def _mlp(self, layer: int, x: Tensor) -> Tensor:
        gate, up = self._linear(layer, "mlp.gate_proj", x), self._linear(layer, "mlp.up_proj", x)
        return self._linear(layer, "mlp.down_proj", F.silu(gate) * up)

    def _linear(self, layer: int, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.weights[f"model.layers.{layer}.{name}.weight"])

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], self.weights[f"model.{name}.weight"], self.config.norm_eps)


SIZES = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "max_position_embeddings", "norm_eps", "tie_word_embeddings", "rope_theta",
    "bos_token_id", "eos_token_ids", "dtype",
)  # fmt: skip


def _is_plain(config: Config, base: float) -> bool:
    """Whether a model of this shape differs from any Llama by its sizes alone."""
    sizes = {name: getattr(config, name) for name in SIZES}
    return config == Config(**sizes, positions=(RoPE(base),))


def weights_of(named: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Contiguous copies in one dtype, apart from the model they come from."""
    whole = torch.contiguous_format
    return {name: weight.detach().to(dtype).clone(memory_format=whole) for name, weight in named.items()}


def _draw(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    if temperature == 0.0:
        return logits.argmax(dim=-1, keepdim=True)
    probabilities = torch.softmax(logits / temperature, dim=-1)
    race = torch.empty_like(probabilities).exponential_(generator=generator)
    return (probabilities / race).argmax(dim=-1, keepdim=True)
