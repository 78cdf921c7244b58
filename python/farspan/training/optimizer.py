"""AdamW over the parameters that ask for gradients; half-precision weights have float32 masters, which are what learns.

A bfloat16 weight cannot hold a step of a thousandth of itself. The master can; the weight is the master, rounded, after
each step. Gradients are added up in float32 too, over the batches of a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from farspan._errors import ArgumentError, message
from farspan._gradients import is_inference
from farspan.model.operations import HALVES
from farspan.training.recipe import Recipe

PARTS = {"weight": "", "first": "exp_avg", "second": "exp_avg_sq"}
"""What is kept of a parameter, by our names and by those of torch's optimiser."""


def adamw(
    named: Mapping[str, nn.Parameter], decayed: Callable[[str, nn.Parameter], bool], weight_decay: float,
    rate: float, betas: tuple[float, float] = (0.9, 0.95), epsilon: float = 1e-8,
) -> torch.optim.AdamW:  # fmt: skip
    """AdamW in two groups: those whose weights decay, and the others."""
    groups = [
        {"params": [p for name, p in named.items() if decayed(name, p)], "weight_decay": weight_decay},
        {"params": [p for name, p in named.items() if not decayed(name, p)], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=rate, betas=betas, eps=epsilon)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


class Optimizer:
    """What learns of a model, and how."""

    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        self._trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not self._trained:
            raise ArgumentError(message("model", "at least one parameter that asks for a gradient", "none"))
        if any(is_inference(p) for p in model.parameters()):
            expected = (
                "weights that can learn, which torch.inference_mode() makes none of: move and copy models outside"
            )
            raise ArgumentError(message("model", expected, "one with weights that were made in that mode"))
        self.masters = {name: _master(p) for name, p in self._trained.items()}
        self._clip = recipe.clip
        tables = {name for name, _ in model.named_parameters(recurse=False)}  # embedding and unembedding
        self._adamw = adamw(
            self.masters, lambda name, p: p.ndim > 1 and name not in tables, recipe.weight_decay,
            recipe.learning_rate, (recipe.beta1, recipe.beta2), recipe.epsilon,
        )  # fmt: skip

    @property
    def groups(self) -> list[dict[str, Any]]:
        """What decays, and what does not."""
        return self._adamw.param_groups

    @property
    def names(self) -> Iterable[str]:
        """Of the parameters that learn."""
        return self._trained

    @torch.no_grad()
    def collect(self) -> None:
        """Adds what a backward pass left in half precision to the masters' gradients."""
        for name, master in self.masters.items():
            weight = self._trained[name]
            if weight is not master and weight.grad is not None:
                new = weight.grad.float()
                master.grad = new if master.grad is None else master.grad.add_(new)
                weight.grad = None

    def norm(self) -> float:
        """The length of the whole gradient, which is shortened where it is longer than it may be."""
        given = [master.grad for master in self.masters.values() if master.grad is not None]
        length = nn.utils.get_total_norm(given)
        if self._clip is not None:
            nn.utils.clip_grads_with_norm_(self.masters.values(), self._clip, length)
        return float(length)

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One step of the masters, whose gradients are forgotten; the model's weights follow."""
        set_rate(self._adamw, rate)
        self._adamw.step()
        self._adamw.zero_grad(set_to_none=True)
        self._publish()

    def _publish(self) -> None:
        for name, master in self.masters.items():
            if self._trained[name] is not master:
                self._trained[name].copy_(master)

    def forget_gradients(self) -> None:
        """Before the first step: what others have left in the parameters is none of this run's."""
        for parameter in (*self._trained.values(), *self.masters.values()):
            parameter.grad = None

    # ------------------------------------------------------------------------------------------------ to files and back

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a later step depends on, by name."""
        found = {}
        for name, master in self.masters.items():
            found[f"weight/{name}"] = master.detach()
            for part, its_name in PARTS.items():
                if its_name and master in self._adamw.state:
                    found[f"{part}/{name}"] = self._adamw.state[master][its_name]
        return found

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """The state after `step` steps, as `tensors` gave it."""
        for name, master in self.masters.items():
            master.copy_(tensors[f"weight/{name}"])
            moments = {
                its_name: tensors[f"{part}/{name}"].to(master.device, copy=True)
                for part, its_name in PARTS.items()
                if its_name and f"{part}/{name}" in tensors
            }
            if moments:
                self._adamw.state[master] = {"step": torch.tensor(float(step)), **moments}
        self._publish()


def _master(parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(parameter.detach().float()) if parameter.dtype in HALVES else parameter
