"""Small random models whose every parameter matters, of farspan and of transformers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from farspan.model import Config, Transformer

VOCAB = 101
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": 48, "intermediate_size": 50, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256,
}  # fmt: skip


def ids(batch: int, time: int, seed: int = 0) -> torch.Tensor:
    """Random token ids `[batch, time]`."""
    return torch.from_numpy(np.random.default_rng(seed).integers(0, VOCAB, (batch, time)))


@torch.no_grad()
def enliven(model: torch.nn.Module, seed: int = 0) -> Any:
    """Weights so wide that attention is far from uniform, and gains and biases that are neither 1 nor 0."""
    noise = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        z = torch.randn(p.shape, generator=noise)
        if p.ndim > 1:
            p.copy_(1.2 * z / p.shape[-1] ** 0.5)
        else:
            p.copy_(0.3 * z if name.endswith("bias") else 1 + 0.2 * z)
    return model.eval()


def small_model(backend: str = "fused", dtype: Any = None, *, learns: bool = False, **changes: Any) -> Transformer:
    """The same random weights for the same shape, whatever the backend. Most tests are about numbers, and ask for no
    gradients."""
    model = Transformer(Config(**{**SHAPE, **changes}), backend=backend, dtype=dtype)
    return enliven(model.requires_grad_(learns))


def reference_twin(model: Transformer) -> Transformer:
    """The same model in float64 through `farspan.reference`."""
    twin = Transformer(model.config, backend="reference", dtype="float64").requires_grad_(False)
    twin.load_state_dict(model.state_dict())
    return twin.eval()


def transformers_model(family: str, **options: Any) -> Any:
    """A small random `<family>ForCausalLM` of transformers; call after `pytest.importorskip`."""
    import transformers

    nothing = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    config = getattr(transformers, f"{family}Config")(**{**SHAPE, **nothing, **options})
    config._attn_implementation = "eager"
    return enliven(getattr(transformers, f"{family}ForCausalLM")(config))


@torch.no_grad()
def disturbed(model: Transformer) -> Transformer:
    """The model with its weights disturbed: a drafter that is right often, and often wrong."""
    noise = torch.Generator().manual_seed(9)
    for weight in model.parameters():
        weight.add_(0.05 * torch.randn(weight.shape, generator=noise) * weight.std())
    return model
