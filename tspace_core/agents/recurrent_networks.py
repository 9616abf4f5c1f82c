"""Actor and critic that decide and judge by histories."""

from math import sqrt

import torch
from torch import Tensor, nn

from tspace_core.agents.networks import OUTPUT_RANGE, linear
from tspace_core.agents.sequence_models import sequence_model
from tspace_core.config import RDPGHyperparameters


class RecurrentActor(nn.Module):
    """Deterministic policy of histories: a sequence model, a layer of ReLU, then tanh.

    That layer sees the present input beside the history's features (Ni, Eysenbach, Salakhutdinov 2022).
    """

    def __init__(
        self, inputs: int, size: int, hyper: RDPGHyperparameters, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.model = sequence_model(inputs, hyper, generator)
        joined = self.model.width + inputs
        self.hidden = linear(joined, hyper.width, 1 / sqrt(joined), generator)
        self.output = linear(hyper.width, size, OUTPUT_RANGE, generator)

    def raw(self, inputs: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor]:
        """Codes before their tanh (n, T, size) for inputs (n, T, inputs), and the memory after them."""
        features, after = self.model.unroll(inputs, memory)
        hidden = torch.relu(self.hidden(torch.cat([features, inputs], dim=2)))
        return self.output(hidden), after

    def forward(self, inputs: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor]:
        """Codes (n, T, size) in [-1, 1] for inputs (n, T, inputs), and the memory after them."""
        raw, after = self.raw(inputs, memory)
        return torch.tanh(raw), after


class RecurrentCritic(nn.Module):
    """Value of an action after a history: a sequence model, then the action beside its features.

    The history holds all inputs up to the present step, so past actions are in it as they were; only the
    present action enters after it. Features do not hang on it, so one pass judges any action.
    """

    def __init__(
        self, inputs: int, size: int, hyper: RDPGHyperparameters, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.model = sequence_model(inputs, hyper, generator)
        joined = self.model.width + inputs + size
        self.hidden = linear(joined, hyper.width, 1 / sqrt(joined), generator)
        self.output = linear(hyper.width, 1, OUTPUT_RANGE, generator)

    def features(self, inputs: Tensor, memory: Tensor | None) -> Tensor:
        """(n, T, width) of histories; ``inputs`` (n, T, inputs)."""
        return self.model.unroll(inputs, memory)[0]

    def value(self, features: Tensor, inputs: Tensor, codes: Tensor) -> Tensor:
        """(n, T) values of codes (n, T, size) after the histories of these features."""
        hidden = torch.relu(self.hidden(torch.cat([features, inputs, codes], dim=2)))
        values: Tensor = self.output(hidden)
        return values.squeeze(2)

    def forward(self, inputs: Tensor, codes: Tensor, memory: Tensor | None) -> Tensor:
        """(n, T) values of codes (n, T, size) for inputs (n, T, inputs)."""
        return self.value(self.features(inputs, memory), inputs, codes)
