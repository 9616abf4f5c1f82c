"""Small environments whose every number a test can predict."""

from typing import Any, ClassVar

import gymnasium
import numpy as np
from numpy.typing import NDArray


class Steering(gymnasium.Env[Any, Any]):  # type: ignore[misc]
    """Keep a drifting point at zero; the reward is minus its distance. An episode has 10 steps.

    Args:
        ends: ``terminated`` or ``truncated`` at the 10th step.
        bad: what goes wrong at the 25th step of all: ``observation``, ``reward`` or ``shape``.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}
    LENGTH = 10
    BAD_AT = 25

    def __init__(self, ends: str = "truncated", bad: str | None = None) -> None:
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2, 2), np.float64)
        self.action_space = gymnasium.spaces.Box(
            np.array([0.0, -4.0], np.float32), np.array([1.0, 2.0], np.float32), dtype=np.float32
        )
        self._ends, self._bad = ends, bad
        self._steps = self._all = 0
        self._point = np.zeros(2)
        self.taken: list[NDArray[np.float32]] = []
        self.starts: list[NDArray[np.float64]] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        """A random point."""
        super().reset(seed=seed, options=options)
        self._steps = 0
        self._point = self.np_random.uniform(-1, 1, 2)
        self.starts.append(self._point.copy())
        return self._observation(), {}

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        """Move the point."""
        assert self.action_space.contains(action)
        self.taken.append(np.array(action))
        self._steps += 1
        self._all += 1
        self._point = 0.9 * self._point + 0.1 * action + 0.05 * self.np_random.standard_normal(2)
        over = self._steps == self.LENGTH
        observation, reward = self._observation(), -float(np.abs(self._point).sum())
        if self._all == self.BAD_AT:
            if self._bad == "observation":
                observation[0, 1] = np.nan
            elif self._bad == "reward":
                reward = float("nan")
            elif self._bad == "shape":
                observation = np.zeros(3)
        return (
            observation,
            reward,
            over and self._ends == "terminated",
            over and self._ends == "truncated",
            {},
        )

    def _observation(self) -> NDArray[np.float64]:
        return np.stack([self._point, self._point**2])


class Cautious(Steering):
    """Carries out at most a quarter of an action's range either way from its middle, and says what it did."""

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        """Move the point a little."""
        done = np.clip(action, [0.25, -2.5], [0.75, 0.5]).astype(np.float32)
        observation, reward, terminated, truncated, info = super().step(done)
        return observation, reward, terminated, truncated, {**info, "carried_out": done}


class Misinformed(Steering):
    """Says that it carried out something that is no action of its space."""

    def __init__(self, carried_out: NDArray[np.float32]) -> None:
        super().__init__()
        self._carried_out = carried_out

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        """Move the point."""
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated, truncated, {**info, "carried_out": self._carried_out}


class Spaces(gymnasium.Env[Any, Any]):  # type: ignore[misc]
    """Any two spaces, nothing behind them."""

    def __init__(self, observations: gymnasium.Space[Any], actions: gymnasium.Space[Any]) -> None:
        self.observation_space, self.action_space = observations, actions
