"""A policy as a diffusion model: noise is turned into an action in a few steps, given the state.

Ho et al. 2020 (arXiv:2006.11239) with the noise schedule of Xiao et al. 2022 (arXiv:2112.07804), as it is
used in IDQL (Hansen-Estruch et al. 2023, arXiv:2304.10573).
"""

from math import exp

import torch
from torch import Tensor, nn

from tspace_core.agents.perceptron import dense

BETA_MIN, BETA_MAX = 0.1, 10.0
"""Noise a unit of time at the begin and at the end of a variance preserving process."""
EXPANSION = 4
"""A block's inner layer is this much wider than the block."""


class Schedule:
    """How much of an action is left after each of ``steps`` steps of noise; step 0 is the first, least noisy.

    Attributes:
        alphas: (steps,) share of the variance that a step keeps,
            ``exp(-beta_min / T - (beta_max - beta_min) * (2 t - 1) / (2 T**2))`` for t = 1 to T.
        alpha_hats: (steps,) their running product: the share of the action's variance after each step.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        alphas = [
            exp(-BETA_MIN / steps - 0.5 * (BETA_MAX - BETA_MIN) * (2 * t - 1) / steps**2)
            for t in range(1, steps + 1)
        ]
        exact = torch.tensor(alphas, dtype=torch.float64)
        self.alphas = exact.float()
        self.alpha_hats = exact.cumprod(0).float()
        self.betas = (1.0 - exact).float()

    def noisy(self, actions: Tensor, steps: Tensor, noise: Tensor) -> Tensor:
        """Actions (n, size) after these steps (n,) of noise (n, size)."""
        kept = self.alpha_hats[steps].unsqueeze(1)
        return kept.sqrt() * actions + (1.0 - kept).sqrt() * noise


class _Block(nn.Module):
    """``x + W2 relu(W1 LayerNorm(dropout(x)))``."""

    def __init__(self, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inner = dense(width, EXPANSION * width, generator)
        self.outer = dense(EXPANSION * width, width, generator)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(n, width) to (n, width); ``mask`` (n, width) is multiplied in as dropout."""
        inside = self.norm(x if mask is None else x * mask)
        output: Tensor = x + self.outer(torch.relu_(self.inner(inside)))
        return output


class DiffusionActor(nn.Module):
    """Tells the noise in a noisy action, given the state and the step: a LayerNorm residual network."""

    def __init__(
        self,
        state_dim: int,
        size: int,
        *,
        width: int,
        blocks: int,
        steps: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.size = size
        self.width = width
        # One affine layer of action, state and step side by side; in parts, so that acting computes the
        # state's part once for all samples and steps.
        self.action = dense(size, width, generator)
        self.state = dense(state_dim, width, generator, bias=False)
        self.step = nn.Parameter(torch.empty(steps, width).uniform_(-1.0, 1.0, generator=generator))
        self.blocks = nn.ModuleList(_Block(width, generator) for _ in range(blocks))
        self.output = dense(width, size, generator)

    def forward(self, noisy: Tensor, state_part: Tensor, step_part: Tensor, drop: "Dropout | None") -> Tensor:
        """The noise (n, size) in ``noisy`` (n, size).

        Args:
            noisy: actions with noise.
            state_part: (n, width), ``self.state`` of the normalised states.
            step_part: (n, width) or (width,), rows of ``self.step``.
            drop: None while acting.
        """
        x = self.action(noisy) + state_part + step_part
        for block in self.blocks:
            x = block(x, None if drop is None else drop.mask(x))
        noise: Tensor = self.output(torch.relu(x))
        return noise


class Dropout:
    """Dropout from a generator of one's own; torch's draws from the global one."""

    def __init__(self, share: float, generator: torch.Generator) -> None:
        self._share = share
        self._generator = generator

    def mask(self, like: Tensor) -> Tensor | None:
        """What to multiply with: 0 with probability ``share``, else ``1 / (1 - share)``; None: nothing."""
        if self._share == 0.0:
            return None
        kept = torch.empty_like(like, requires_grad=False)
        return kept.bernoulli_(1.0 - self._share, generator=self._generator).div_(1.0 - self._share)


def diffusion_loss(
    actor: DiffusionActor,
    schedule: Schedule,
    states: Tensor,
    actions: Tensor,
    generator: torch.Generator,
    dropout: float,
) -> Tensor:
    """Squared error of the noise that the actor sees, summed over an action, meant over the batch.

    A step, the noise and the dropout are drawn for each record from ``generator``.

    Args:
        actor: whose loss it is.
        schedule: of its noise.
        states: (n, state_dim), normalised.
        actions: (n, size) of the data, in [-1, 1].
        generator: decides all draws.
        dropout: share that is dropped.
    """
    steps = torch.randint(schedule.steps, (len(actions),), generator=generator)
    noise = torch.empty_like(actions).normal_(generator=generator)
    noisy = schedule.noisy(actions, steps, noise)
    seen = actor(noisy, actor.state(states), actor.step[steps], Dropout(dropout, generator))
    error: Tensor = (seen - noise).square().sum(dim=1).mean()
    return error


@torch.no_grad()
def sample(actor: DiffusionActor, schedule: Schedule, states: Tensor, noise: Tensor) -> Tensor:
    """Actions (n, count, size) in [-1, 1] drawn for each state, clipped after every step.

    Args:
        actor: draws.
        schedule: of its noise.
        states: (n, state_dim), normalised.
        noise: (steps, count, size), the same for all states, or (steps, n, count, size): standard normal;
            ``noise[0]`` is the begin, ``noise[t]`` is added after step t > 0. It decides the draw wholly.
    """
    count, size = noise.shape[-2:]
    parts = actor.state(states).unsqueeze(1).expand(-1, count, -1).reshape(-1, actor.width)
    shape = (len(states), count, size)
    x = noise[0].expand(shape).reshape(-1, size)
    for step in range(schedule.steps - 1, -1, -1):
        alpha, hat = float(schedule.alphas[step]), float(schedule.alpha_hats[step])
        seen = actor(x, parts, actor.step[step], None)
        x = (x - (1.0 - alpha) / (1.0 - hat) ** 0.5 * seen) / alpha**0.5
        if step > 0:
            fresh = noise[step].expand(shape).reshape(-1, size)
            x = x + float(schedule.betas[step]) ** 0.5 * fresh
        x = x.clamp_(-1.0, 1.0)
    return x.view(shape)
