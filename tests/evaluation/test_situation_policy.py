"""A policy that tells situations by the pedal, and the search for its codes."""

import numpy as np

from tspace_core.config import Vehicle
from tspace_core.evaluation.situation_policy import (
    SituationPolicy,
    SituationSearch,
    search_situation_policy,
)
from tspace_core.records.policy import Policy
from tspace_core.twin.route import Route

SEARCH = SituationSearch(
    bands=(0.0, 1.0),
    start=(-0.3, 0.0),
    drivers=("tracker", "aggressive"),
    seeds=(1, 2),
    population=4,
    generations=3,
)


def window(pedal: float, restless: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """A state whose pedal ends at ``pedal`` and moved to and fro by ``restless`` a sample before."""
    samples = np.zeros((30, 3), np.float32)
    samples[:, 1] = pedal + restless * (np.arange(30)[::-1] % 2)
    return samples.ravel()


def test_each_situation_has_a_code_of_its_own(vehicle: Vehicle) -> None:
    codes = -np.arange(12).reshape(6, 2) / 12
    policy = SituationPolicy(vehicle, SEARCH, codes)
    assert isinstance(policy, Policy)
    states = np.stack([window(pedal, restless) for restless in (0.0, 1.0) for pedal in (0.0, 10.0, 60.0)])
    first = policy(states).reshape(6, 4, 17)[:, 0]
    np.testing.assert_allclose(first[:, [0, -1]], codes, atol=1e-6)


def test_the_search_beats_what_it_starts_from_and_repeats(vehicle: Vehicle, route: Route) -> None:
    found = search_situation_policy(vehicle, route, SEARCH)
    again = search_situation_policy(vehicle, route, SEARCH)
    np.testing.assert_array_equal(again.codes, found.codes)
    assert found.score >= found.history[0]
    only_start = SEARCH.model_copy(update={"generations": 1, "sigma": 1e-9})
    assert found.score > search_situation_policy(vehicle, route, only_start).score
    assert found.drives == 3 * (4 + 1) * 4
