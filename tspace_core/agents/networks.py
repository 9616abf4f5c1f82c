"""Actor and critic networks."""

from collections.abc import Sequence
from itertools import pairwise
from math import sqrt

import torch
from torch import Tensor, nn

OUTPUT_RANGE = 3e-3
"""Initial range of the output layers' weights, so that first actions and values are near zero."""


class Actor(nn.Module):
    """Deterministic policy: ReLU layers, then tanh.

    Maps normalised states (n, state_dim) to actions (n, action_dim) in [-1, 1].
    """

    def __init__(
        self, state_dim: int, action_dim: int, hidden: Sequence[int], generator: torch.Generator
    ) -> None:
        super().__init__()
        self.hidden = _stack(state_dim, hidden, generator)
        self.output = linear(hidden[-1], action_dim, OUTPUT_RANGE, generator)

    def forward(self, state: Tensor) -> Tensor:
        """Actions for normalised states."""
        return torch.tanh(self.output(_relu(self.hidden, state)))


class Critic(nn.Module):
    """Action value: a branch for the state, one for the action, then both joined.

    Maps normalised states (n, state_dim) and actions (n, action_dim) to values (n, 1).
    """

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        hidden: tuple[Sequence[int], Sequence[int], Sequence[int]],
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        state_hidden, action_hidden, joint_hidden = hidden
        self.state = _stack(state_dim, state_hidden, generator)
        self.action = _stack(action_dim, action_hidden, generator)
        self.joint = _stack(state_hidden[-1] + action_hidden[-1], joint_hidden, generator)
        self.output = linear(joint_hidden[-1], 1, OUTPUT_RANGE, generator)

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        """Values of actions in normalised states."""
        joined = torch.cat([_relu(self.state, state), _relu(self.action, action)], dim=1)
        value: Tensor = self.output(_relu(self.joint, joined))
        return value


def _relu(layers: nn.ModuleList, x: Tensor) -> Tensor:
    for layer in layers:
        x = torch.relu(layer(x))
    return x


def _stack(inputs: int, sizes: Sequence[int], generator: torch.Generator) -> nn.ModuleList:
    widths = [inputs, *sizes]
    return nn.ModuleList(linear(a, b, 1 / sqrt(a), generator) for a, b in pairwise(widths))


def linear(inputs: int, outputs: int, limit: float, generator: torch.Generator) -> nn.Linear:
    """A layer whose weights and biases are spread evenly within the limit."""
    # Made on the meta device, because the usual start would draw from torch's global generator. Not moved off
    # it by ``to_empty``, which loads half a second of symbolic mathematics for it.
    layer = nn.Linear(inputs, outputs, device="meta")
    layer.weight = nn.Parameter(torch.empty(outputs, inputs))
    layer.bias = nn.Parameter(torch.empty(outputs))
    for parameter in (layer.weight, layer.bias):
        nn.init.uniform_(parameter, -limit, limit, generator=generator)
    return layer
