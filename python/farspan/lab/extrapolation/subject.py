"""The model of a training, and how it reads a task: what it loses, and what it answers."""

from __future__ import annotations

import torch
from torch import Tensor

from farspan.lab import tasks
from farspan.lab.extrapolation.coupling import coupled_positions
from farspan.lab.extrapolation.settings import Trial
from farspan.lab.tasks.layout import Sequences
from farspan.lab.tasks.task import Ids
from farspan.model import Config, Transformer
from farspan.unembed import greedy

MLP_FACTOR = 4


def config_of(trial: Trial) -> Config:
    """A transformer of the papers' size: pre-norm, GELU, without biases and without dropout."""
    settings = trial.settings
    return Config(
        vocab_size=len(tasks.get(settings.task).symbols) + 1,
        hidden_size=settings.width,
        intermediate_size=MLP_FACTOR * settings.width,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        gated_mlp=False,
        hidden_act="gelu",
        causal=settings.reading == "causal",
        positions=(trial.make_scheme(),),
    )


class Subject:
    """A new model for a trial. Weights are a function of its seed."""

    def __init__(self, trial: Trial, device: str = "cpu") -> None:
        torch.manual_seed(trial.seed)
        self.model = Transformer(config_of(trial)).to(device)
        self._settings = trial.settings

    def loss(self, sequences: Sequences, draw: int) -> Tensor:
        """Nats per counted output. `draw`: a seed for what a scheme draws at random."""
        tokens, targets = map(torch.from_numpy, (sequences.tokens, sequences.targets))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(draw)  # not `torch.manual_seed`, which also seeds the GPUs
            return self.model.train().loss(tokens, targets, positions=self._places(sequences))

    @torch.no_grad()
    def answers(self, sequences: Sequences, draw: int) -> Tensor:
        """`[count, m]`: the likeliest token for each output. Other inputs have other draws of random positions."""
        model = self.model.eval()
        (scheme,) = set(model.config.positions)
        if scheme.draws:
            model = model.with_positions(scheme.redrawn(draw))
        hidden = sequences.outputs(model(torch.from_numpy(sequences.tokens), positions=self._places(sequences)))
        return greedy(hidden.contiguous(), model.unembedding, **model.logit_settings).token.cpu()

    def _places(self, sequences: Sequences) -> Ids | None:
        """Where tokens stand, for schemes that a task tells; None: at their order."""
        (scheme,) = set(self.model.config.positions)
        if not scheme.takes_positions:
            return None
        return coupled_positions(self._settings.task, sequences, self._settings.reading)
