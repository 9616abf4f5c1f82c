"""Networks over histories: one output a step, each from the inputs up to that step and what is remembered."""

from abc import ABC, abstractmethod
from math import sqrt

import torch
from torch import Tensor, nn

from tspace_core.agents.networks import linear
from tspace_core.config import RDPGHyperparameters

FORGET_BIAS = 1.0
"""Start of the forget gates' bias: a fresh LSTM remembers (Jozefowicz, Zaremba, Sutskever 2015)."""
RESIDUAL = 0.1
"""Start of a Transformer block's outputs beside usual ones: near the identity (Parisotto et al. 2019)."""


class SequenceModel(nn.Module, ABC):
    """From inputs (n, T, inputs) to features (n, T, width), step by step or as a whole, with equal results.

    What it remembers is one flat row a sequence, zeros at an episode's begin.
    """

    width: int
    memory_dim: int
    """Length of what it remembers."""
    stored_dim: int
    """Length of what of it is kept with each record in a replay buffer: the first numbers, or none."""

    @abstractmethod
    def unroll(self, inputs: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor]:
        """Go through steps in their order.

        Args:
            inputs: (n, T, inputs).
            memory: (n, memory_dim) before the first step; None: nothing.

        Returns:
            Features (n, T, width), and the memory (n, memory_dim) after the last step.
        """


class LSTM(SequenceModel):
    """A layer of ReLU for the inputs, then layers of LSTM (Hochreiter and Schmidhuber 1997).

    It remembers the output and the cell of each layer, and both are stored.
    """

    def __init__(self, inputs: int, width: int, layers: int, generator: torch.Generator) -> None:
        super().__init__()
        self.width = width
        self.layers = layers
        self.memory_dim = self.stored_dim = 2 * layers * width
        self.entry = linear(inputs, width, 1 / sqrt(inputs), generator)
        # Made on the meta device as in ``networks.linear``: not from torch's global generator.
        self.cells = nn.LSTM(width, width, layers, batch_first=True, device="meta")
        for name, parameter in list(self.cells.named_parameters()):
            values = torch.empty(parameter.shape).uniform_(
                -1 / sqrt(width), 1 / sqrt(width), generator=generator
            )
            if name.startswith("bias_ih"):
                values[width : 2 * width] = FORGET_BIAS
            setattr(self.cells, name, nn.Parameter(values))

    def unroll(self, inputs: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor]:
        """See ``SequenceModel``."""
        count = len(inputs)
        if memory is None:
            memory = inputs.new_zeros(count, self.memory_dim)
        before = memory.view(count, 2, self.layers, self.width).permute(1, 2, 0, 3).contiguous()
        entered = torch.relu(self.entry(inputs))
        features, (outputs, cells) = self.cells(entered, (before[0], before[1]))
        after = torch.stack([outputs, cells]).permute(2, 0, 1, 3).reshape(count, self.memory_dim)
        return features, after


class Transformer(SequenceModel):
    """A causal Transformer (Vaswani et al. 2017) that sees the last steps only.

    Blocks normalise before they attend (Xiong et al. 2020). Each block attends to ``window`` steps, the
    present one included, so that the whole sees at most ``context``: its memory is bounded, and going on step
    by step gives what the whole sequence gives. Distance enters as a learned bias a head, which begins as
    that of ALiBi (Press et al. 2022). It remembers keys and values of each block, and how many there are;
    they are too long to be stored with records, burn-in gives them back.
    """

    def __init__(
        self, inputs: int, width: int, layers: int, heads: int, context: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.width = width
        self.window = (context - 1) // layers + 1
        self.stored_dim = 0
        self._past = self.window - 1
        self.memory_dim = layers * self._past * 2 * width + 1
        self.entry = linear(inputs, width, 1 / sqrt(inputs), generator)
        self.blocks = nn.ModuleList(
            _Block(width, heads, self.window, layers, generator) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)

    def unroll(self, inputs: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor]:
        """See ``SequenceModel``."""
        count, steps = inputs.shape[:2]
        past = 0 if memory is None else self._past
        if memory is None:
            memory = inputs.new_zeros(count, 1)
        filled = memory[:, -1:]
        caches = memory[:, :-1].reshape(count, len(self.blocks), past, 2 * self.width)
        distances, hidden = self._distances(past, steps, filled if past else None)
        features, parts = self.entry(inputs), []
        for block, cache in zip(self.blocks, caches.unbind(1), strict=True):
            features, known = block(features, cache, distances, hidden)
            parts.append(self._last(known).flatten(1))
        filled = (filled + steps).clamp(max=self._past)
        return self.norm(features), torch.cat([*parts, filled], dim=1)

    def _distances(self, past: int, steps: int, filled: Tensor | None) -> tuple[Tensor, Tensor]:
        """(steps, past + steps) steps back, within the window; and what is hidden, (1 or n, 1, ..., ...)."""
        present, all_steps = torch.arange(past, past + steps), torch.arange(past + steps)
        distances = present[:, None] - all_steps
        hidden = ((distances < 0) | (distances >= self.window))[None, None]
        if filled is not None:  # slots of the memory that hold nothing yet
            hidden = hidden | (all_steps < past - filled)[:, None, None]
        return distances.clamp(0, self.window - 1), hidden

    def _last(self, known: Tensor) -> Tensor:
        """The newest keys and values, as many as are remembered; empty slots lie before them."""
        missing = self._past - known.shape[1]
        if missing > 0:
            known = torch.cat([known.new_zeros(len(known), missing, known.shape[2]), known], dim=1)
        return known[:, known.shape[1] - self._past :]


class _Block(nn.Module):
    """Attention to past steps, then a layer of GELU, each added to what comes in."""

    def __init__(self, width: int, heads: int, window: int, layers: int, generator: torch.Generator) -> None:
        super().__init__()
        self.heads = heads
        limit = 1 / sqrt(width)
        self.attention_norm = nn.LayerNorm(width)
        self.queries = linear(width, width, limit, generator)
        self.known = linear(width, 2 * width, limit, generator)
        self.attended = linear(width, width, limit * RESIDUAL, generator)
        self.layer_norm = nn.LayerNorm(width)
        self.up = linear(width, 2 * width, limit, generator)
        self.down = linear(2 * width, width, RESIDUAL / sqrt(2 * width), generator)
        slopes = 2.0 ** (-8.0 * torch.arange(1, heads + 1) / heads)
        self.bias = nn.Parameter(-slopes[:, None] * torch.arange(window))

    def forward(
        self, features: Tensor, cache: Tensor, distances: Tensor, hidden: Tensor
    ) -> tuple[Tensor, Tensor]:
        """New features, and keys and values of the cache and of these steps (n, past + steps, 2 * width)."""
        count, steps, width = features.shape
        inputs = self.attention_norm(features)
        known = torch.cat([cache, self.known(inputs)], dim=1)
        keys, values = (self._heads(part) for part in torch.split(known, width, dim=2))
        scores = self._heads(self.queries(inputs)) @ keys.transpose(2, 3) * (width / self.heads) ** -0.5
        scores = (scores + self.bias[:, distances]).masked_fill(hidden, -torch.inf)
        mixed = (torch.softmax(scores, dim=3) @ values).transpose(1, 2).reshape(count, steps, width)
        features = features + self.attended(mixed)
        return features + self.down(nn.functional.gelu(self.up(self.layer_norm(features)))), known

    def _heads(self, rows: Tensor) -> Tensor:
        """(n, steps, width) to (n, heads, steps, width / heads)."""
        return rows.reshape(*rows.shape[:2], self.heads, -1).transpose(1, 2)


def sequence_model(inputs: int, hyper: RDPGHyperparameters, generator: torch.Generator) -> SequenceModel:
    """The sequence model that the hyperparameters choose, with fresh weights."""
    if hyper.sequence_model == "lstm":
        return LSTM(inputs, hyper.width, hyper.layers, generator)
    return Transformer(inputs, hyper.width, hyper.layers, hyper.heads, hyper.context, generator)
