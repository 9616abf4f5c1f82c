"""Value networks of plain layers, and the loss that values the better part of the data."""

from collections.abc import Sequence
from itertools import pairwise
from math import sqrt

import torch
from torch import Tensor, nn


def dense(inputs: int, outputs: int, generator: torch.Generator, *, bias: bool = True) -> nn.Linear:
    """An affine layer: weights uniform after Glorot and Bengio (2010), zero bias."""
    # Made on the meta device, because the usual start would draw from torch's global generator.
    layer = nn.Linear(inputs, outputs, bias=bias, device="meta")
    layer.weight = nn.Parameter(torch.empty(outputs, inputs))
    limit = sqrt(6.0 / (inputs + outputs))
    nn.init.uniform_(layer.weight, -limit, limit, generator=generator)
    if bias:
        layer.bias = nn.Parameter(torch.zeros(outputs))
    return layer


class Perceptron(nn.Module):
    """ReLU layers with one linear output: (n, inputs) to (n,)."""

    def __init__(self, inputs: int, hidden: Sequence[int], generator: torch.Generator) -> None:
        super().__init__()
        self.layers = nn.ModuleList(dense(a, b, generator) for a, b in pairwise((inputs, *hidden)))
        self.output = dense(hidden[-1], 1, generator)

    def forward(self, x: Tensor) -> Tensor:
        """One number a row."""
        for layer in self.layers:
            x = torch.relu_(layer(x))
        value: Tensor = self.output(x)
        return value.squeeze(-1)


class TwinCritic(nn.Module):
    """Two action values of their own, whose smaller one is less prone to be too high (Fujimoto et al. 2018).

    Maps normalised states (n, state_dim) and actions (n, action_dim) to values (2, n).
    """

    def __init__(
        self, state_dim: int, action_dim: int, hidden: Sequence[int], generator: torch.Generator
    ) -> None:
        super().__init__()
        self.first = Perceptron(state_dim + action_dim, hidden, generator)
        self.second = Perceptron(state_dim + action_dim, hidden, generator)

    def forward(self, states: Tensor, actions: Tensor) -> Tensor:
        """Both values of each action."""
        joined = torch.cat([states, actions], dim=-1)
        return torch.stack([self.first(joined), self.second(joined)])


def expectile_loss(differences: Tensor, expectile: float) -> Tensor:
    """Mean of ``|expectile - (d < 0)| * d**2`` over the differences of what is aimed at and the value.

    Above one half a value below its aim costs more than one above: the value tends to the better aims
    (Newey and Powell 1987; Kostrikov et al. 2021, arXiv:2110.06169).
    """
    weights = torch.where(differences < 0, 1.0 - expectile, expectile)
    return (weights * differences.square()).mean()
