"""Is there more to save than a static map saves? A small policy with eyes, its numbers found by CMA-ES.

It tells situations by the newest pedal position and by how restless the pedal was in the window, which tells
drivers from each other, and has one code of pedal bands for each. This is no way to train an agent: it drives
each candidate whole, many times over. It shows what an agent that sees the state could reach.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tspace_core.agents.action_basis import ActionBasis
from tspace_core.config import Vehicle
from tspace_core.config.base import ConfigModel
from tspace_core.evaluation.comparison import compare
from tspace_core.evaluation.static_map import OVERSHOOT
from tspace_core.evaluation.twin_training import gate_result
from tspace_core.twin.route import Route

Doubles = NDArray[np.float64]


class SituationSearch(ConfigModel):
    """What is searched, on which drives, and how long."""

    pedal_limits: tuple[float, ...] = Field(default=(1.0, 20.0), description="between situations, %")
    restless_percent: float = Field(
        default=0.4,
        gt=0,
        description="mean change of the pedal between samples that parts calm from restless",
    )
    bands: tuple[float, ...] = Field(default=(0.0, 0.25, 0.6, 1.0), description="as hyper.action_bands")
    start: tuple[float, ...] = Field(default=(-1.0, -0.3, 0.0, 0.0), description="codes of every situation")
    drivers: tuple[str, ...] = Field(default=("tracker", "habitual", "aggressive"), min_length=1)
    seeds: tuple[int, ...] = Field(default=(1001,), min_length=1)
    population: int = Field(default=10, ge=4)
    generations: int = Field(default=12, ge=1)
    sigma: float = Field(default=0.3, gt=0)
    seed: int = Field(default=0, ge=0)

    @property
    def situations(self) -> int:
        """Pedal situations, calm and restless."""
        return 2 * (len(self.pedal_limits) + 1)


class SituationPolicy:
    """A code for each situation; see the module.

    Args:
        vehicle: whose windows it sees.
        search: how situations are told.
        codes: (situations, bands), calm ones first; beyond [-1, 1] they count as the limit.
    """

    def __init__(self, vehicle: Vehicle, search: SituationSearch, codes: Doubles) -> None:
        self._search = search
        self._codes = np.clip(np.reshape(codes, (search.situations, len(search.bands))), -1.0, 1.0)
        self._basis = ActionBasis(vehicle.action_dim, search.bands)
        self._signals = len(vehicle.sampling.signals)
        self._thrust = vehicle.sampling.signals.index("thrust")

    def __call__(self, states: NDArray[np.float32], /) -> NDArray[np.float32]:
        """Actions for states, (n, state_dim) to (n, action_dim)."""
        thrust = states.reshape(len(states), -1, self._signals)[:, :, self._thrust]
        pedal = np.searchsorted(self._search.pedal_limits, thrust[:, -1], side="right")
        restless = np.abs(np.diff(thrust, axis=1)).mean(axis=1) > self._search.restless_percent
        place = pedal + restless * (len(self._search.pedal_limits) + 1)
        return self._basis.expand(self._codes[place].astype(np.float32))


@dataclass(frozen=True, eq=False)
class FoundPolicy:
    """The best policy of a search, its codes and score, the best score by generation, the drives it took."""

    policy: SituationPolicy
    codes: Doubles
    score: float
    history: tuple[float, ...]
    drives: int


def search_situation_policy(
    vehicle: Vehicle,
    route: str | Route,
    search: SituationSearch | None = None,
    *,
    progress: Callable[[int, float], None] | None = None,
) -> FoundPolicy:
    """Search the best codes by CMA-ES; the score is the gate's of ``twin_training``, %.

    Args:
        vehicle: with a twin.
        route: what every candidate drives, by place, with the search's drivers and seeds.
        search: situations, drives and effort.
        progress: told each generation's number, from 1, and the best score so far.
    """
    import cma

    search = search or SituationSearch()
    start = np.tile(search.start, search.situations).astype(np.float64)
    generator = np.random.default_rng([search.seed, 0x736974])
    strategy = cma.CMAEvolutionStrategy(
        start,
        search.sigma,
        {
            "bounds": [-1.0 - OVERSHOOT, OVERSHOOT],
            "popsize": search.population,
            "seed": float("nan"),
            "randn": lambda *shape: generator.standard_normal(shape),
            "verbose": -9,
            "verb_disp": 0,
            "verb_log": 0,
        },
    )
    best, most = start, float("-inf")
    history, drives = [], 0
    for generation in range(1, search.generations + 1):
        asked = [np.asarray(each, np.float64) for each in strategy.ask()]
        if generation == 1:
            asked[0] = start  # what is started from is a candidate, too
        scores = _scores(vehicle, route, search, asked)
        drives += (len(asked) + 1) * len(search.drivers) * len(search.seeds)
        strategy.tell(asked, [-score for score in scores])
        place = int(np.argmax(scores))
        if scores[place] > most:
            best, most = asked[place], scores[place]
        history.append(most)
        if progress is not None:
            progress(generation, most)
    codes = best.reshape(search.situations, len(search.bands))
    return FoundPolicy(SituationPolicy(vehicle, search, codes), codes, most, tuple(history), drives)


def _scores(
    vehicle: Vehicle, route: str | Route, search: SituationSearch, asked: Sequence[Doubles]
) -> list[float]:
    policies = {
        f"candidate_{number}": SituationPolicy(vehicle, search, each) for number, each in enumerate(asked)
    }
    summary = compare(vehicle, policies, search.drivers, search.seeds, route).summary
    default = summary.candidates[0]
    return [max(gate_result(summary.candidate(name), default).score, -1e3) for name in policies]
