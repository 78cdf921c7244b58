"""LoRA for longer texts: adapters of low rank on every projection, while norms and embeddings learn as a whole.

Adapters alone do not take a model to longer texts; with norms and embeddings beside them they come close to training
everything (LongLoRA, arXiv 2309.12307). Adapters are merged into the weights afterwards.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from farspan._errors import missing_package
from farspan.model import Transformer
from farspan.model.linear import Linear

RANK = 8


def require_peft() -> None:
    """BackendError: there is nothing to adapt with."""
    try:
        import peft  # noqa: F401
    except ImportError:
        raise missing_package("the method lora", "peft") from None


def adapt(model: Transformer) -> Callable[[], None]:
    """Puts adapters into a model, in place, after which they, the norms and the embeddings alone ask for gradients.
    Gives what merges them into the weights."""
    require_peft()
    import peft

    asked = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    config = peft.LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=projections(model))
    adapted = peft.get_peft_model(model, config)
    for parameter in whole(model):
        parameter.requires_grad_(True)

    def merge() -> None:
        adapted.merge_and_unload()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(asked[name])

    return merge


def projections(model: Transformer) -> list[str]:
    """The names of the layers that get adapters."""
    return [name for name, module in model.named_modules() if isinstance(module, Linear)]


def whole(model: Transformer) -> list[nn.Parameter]:
    """What learns without an adapter: embedding and unembedding, and all vectors, such as norms."""
    tables = list(model.parameters(recurse=False))
    vectors = [weight for name, weight in model.named_parameters() if weight.ndim < 2 and "lora_" not in name]
    return [*tables, *vectors]


def learning(model: Transformer) -> int:
    """How many numbers learn, of a model that has no adapters yet."""
    low = sum(
        RANK * (module.in_features + module.out_features) for module in model.modules() if isinstance(module, Linear)
    )
    return low + sum(weight.numel() for weight in whole(model))
