"""Where a run in a Gymnasium environment stands, what it tells, and how it is kept in checkpoints."""

from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from tspace_core.agents.checkpoint import Component
from tspace_core.agents.dpg import Losses
from tspace_core.objects.fields import PathField

if TYPE_CHECKING:
    from numpy.typing import NDArray


_LOSSES = ("critic_loss", "actor_loss", "mean_q", "saturated")
"""Names of the fields of ``Losses``, in their order."""


class EpisodeReturn(BaseModel):
    """One finished episode of training, with its exploration noise."""

    model_config = ConfigDict(frozen=True)

    step: int
    """Steps of the run, over all places, when it ended."""
    value: float
    """Sum of its rewards, not discounted."""
    length: int


class Evaluation(BaseModel):
    """Episodes without noise, in an environment of their own."""

    model_config = ConfigDict(frozen=True)

    step: int
    mean: float
    std: float
    episodes: int


class RunPoint(BaseModel):
    """Means over the updates since the point before."""

    model_config = ConfigDict(frozen=True)

    step: int
    updates: int
    critic_loss: float
    actor_loss: float
    mean_q: float
    reward: float
    """Mean reward of a step since the point before."""
    saturated: float


class GymnasiumSummary(BaseModel):
    """What a run in an environment did."""

    model_config = ConfigDict(frozen=True)

    agent: str
    environment: str
    seed: int
    steps: int
    """Steps over all places."""
    updates: int
    resumed_from: int
    """Step."""
    run_id: str | None
    episodes: tuple[EpisodeReturn, ...]
    evaluations: tuple[Evaluation, ...]
    series: tuple[RunPoint, ...]
    checkpoint: PathField | None
    wall_s: float


class RunState:
    """The counters, generators and series of a run."""

    def __init__(self, environment: str, seed: int, places: int) -> None:
        self.environment, self.seed, self.places = environment, seed, places
        self.explorer = np.random.default_rng([seed, 5, 0])
        self.drawer = np.random.default_rng([seed, 5, 1])
        self.steps = 0
        self.updates = 0
        self.due = 0.0
        """Updates that are still to be done for the steps so far."""
        self.numbers: NDArray[np.int64] = np.zeros(places, np.int64)
        """Episodes begun in each place."""
        self.run_id: str | None = None
        self.episodes: list[EpisodeReturn] = []
        self.evaluations: list[Evaluation] = []
        self.series: list[RunPoint] = []
        self.sums = dict.fromkeys((*_LOSSES, "updates", "reward", "steps"), 0.0)
        """Since the last point."""

    def stepped(self, reward: float) -> None:
        """Count a step of a place."""
        self.steps += 1
        self.sums["steps"] += 1
        self.sums["reward"] += reward

    def learned(self, losses: Losses) -> None:
        """Count an update."""
        self.updates += 1
        self.sums["updates"] += 1
        for name, value in zip(_LOSSES, losses, strict=True):
            self.sums[name] += value

    def point(self) -> RunPoint | None:
        """The next point of the series; None where nothing was learned since the last."""
        sums = self.sums
        if not sums["updates"]:
            return None
        means = {name: sums[name] / sums["updates"] for name in _LOSSES}
        reward = sums["reward"] / max(sums["steps"], 1.0)
        found = RunPoint(step=self.steps, updates=self.updates, reward=reward, **means)
        self.sums = dict.fromkeys(sums, 0.0)
        self.series.append(found)
        return found

    def component(self) -> Component:
        """All of it, for a checkpoint."""
        models = ("episodes", "evaluations", "series")
        values: dict[str, Any] = {name: [m.model_dump() for m in getattr(self, name)] for name in models}
        values |= {"explorer": self.explorer.bit_generator.state, "drawer": self.drawer.bit_generator.state}
        values |= {"sums": dict(self.sums), "numbers": self.numbers.tolist()}
        plain = ("environment", "seed", "places", "steps", "updates", "due", "run_id")
        return Component(values=values | {name: getattr(self, name) for name in plain})

    def restore(self, component: Component) -> None:
        """Go on from what ``component`` gave."""
        values = component.values
        for name in ("steps", "updates", "due", "run_id"):
            setattr(self, name, values[name])
        self.numbers = np.array(values["numbers"], np.int64)
        self.explorer.bit_generator.state = values["explorer"]
        self.drawer.bit_generator.state = values["drawer"]
        self.episodes = [EpisodeReturn.model_validate(value) for value in values["episodes"]]
        self.evaluations = [Evaluation.model_validate(value) for value in values["evaluations"]]
        self.series = [RunPoint.model_validate(value) for value in values["series"]]
        self.sums = {name: float(value) for name, value in values["sums"].items()}
