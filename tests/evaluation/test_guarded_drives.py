"""Any agent drives: told what it earned, behind a guard whose answer is what is driven."""

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from tspace_core.config import Vehicle
from tspace_core.evaluation.baselines import BEST_STATIC, minus_budget_map
from tspace_core.evaluation.comparison import Comparison, compare
from tspace_core.evaluation.guarding import allowed_map
from tspace_core.evaluation.verdict import Verdict
from tspace_core.guard.envelope import Envelope
from tspace_core.records.policy import ConstantPolicy
from tspace_core.records.reward import reward, road_load_w
from tspace_core.twin.decisions import DecisionLoop
from tspace_core.twin.fleet import Fleet
from tspace_core.twin.route import Route

Floats = NDArray[np.float32]


class Witness:
    """Remembers what it is told, and answers with one value."""

    def __init__(self, value: float = 0.0) -> None:
        self.value = value
        self.counts: list[int] = []
        self.rewards: list[Floats | None] = []
        self.done: list[Floats] = []

    def begin(self, count: int) -> None:
        self.counts.append(count)

    def __call__(self, states: Floats, rewards: Floats | None = None, /) -> Floats:
        self.rewards.append(None if rewards is None else rewards.copy())
        return np.full((len(states), 68), self.value, np.float32)

    def carried_out(self, actions: Floats) -> None:
        self.done.append(actions.copy())


def test_a_policy_with_a_memory_is_told_what_its_steps_earned(vehicle: Vehicle) -> None:
    witness = Witness()
    compare(vehicle, {"policy": witness}, ["tracker", "habitual", "aggressive"], [0], "us06")
    assert witness.counts == [3]
    assert witness.rewards[0] is None
    earned = np.stack([each for each in witness.rewards[1:] if each is not None])
    fleet = Fleet(vehicle, "us06", ["tracker", "habitual", "aggressive"], [0] * 3)
    loop = DecisionLoop(fleet)
    window = loop.first_window()
    arrived = False
    for told in earned:
        driving, energy = ~fleet.done, fleet.energy_wh
        step = loop.step(window, np.zeros((3, 68), np.float32))
        velocity = np.concatenate([step.half_step.velocity, step.window.velocity], axis=1)
        road = vehicle.road
        load = road_load_w(
            velocity,
            mass_kg=road.mass_kg,
            rolling_resistance=road.rolling_resistance,
            drag_area_m2=road.drag_area_m2,
            air_density_kg_m3=road.air_density_kg_m3,
        )
        expected = reward(
            vehicle.reward.kind,
            energy_wh=fleet.energy_wh - energy,
            v_start_kmh=window.velocity[:, -1],
            v_end_kmh=velocity[:, -1],
            duration_s=2 * vehicle.sampling.window_s,
            road_load_w=load.mean(axis=1),
            mass_kg=road.mass_kg * road.rotating_mass_factor,
            gamma=vehicle.reward.gamma,
        )
        assert told == pytest.approx(np.where(driving, expected, 0.0), abs=1e-3)
        arrived |= not driving.all()
        window = step.window
    assert arrived, "no vehicle arrived before another one"
    assert witness.done == [], "without a guard nobody says what was carried out, as in TorqueMap-v0"


@pytest.fixture(scope="module")
def guarded(vehicle: Vehicle, route: Route) -> tuple[Comparison, Witness, Witness]:
    """Two policies and a map, behind a guard."""
    low, beyond = Witness(-1.0), Witness(-1.5)
    result = compare(
        vehicle,
        {
            "low": low,
            "beyond": beyond,
            "minus_budget": minus_budget_map(vehicle),
            BEST_STATIC: minus_budget_map(vehicle),
        },
        ["tracker", "aggressive"],
        [0, 1],
        route,
        guarded=True,
    )
    return result, low, beyond


def test_what_the_guard_leaves_is_what_is_driven(
    guarded: tuple[Comparison, Witness, Witness], vehicle: Vehicle
) -> None:
    result, low, _ = guarded
    said = result.summary.candidate("low").guard
    assert said is not None
    assert said.violated == 0
    assert said.proposals == result.summary.candidate("low").flashes + sum(said.held_back.values())
    assert said.clipped_share > 0.0
    assert {"cell_rate", "factor"} <= said.clipped.keys()
    assert result.summary.guarded
    # The first flash may move a cell by 50 Nm, and is told so; no cell ever leaves the budget.
    first = low.done[0] * vehicle.torque_map.budget_nm
    assert first.min() == pytest.approx(-vehicle.guard.cell_rate_nm, abs=1e-2)
    assert np.stack(low.done).min() >= -1.0
    free = compare(vehicle, {"low": ConstantPolicy(-1.0)}, ["tracker"], [0], "us06")
    assert not free.summary.guarded
    assert free.summary.candidate("low").guard is None


def test_an_action_beyond_its_range_is_a_violation(guarded: tuple[Comparison, Witness, Witness]) -> None:
    result, _, _ = guarded
    said = result.summary.candidate("beyond").guard
    assert said is not None
    assert said.violations == {"action_range": said.proposals}
    own, other = (
        result.drives.filter(pl.col("candidate") == name).drop("candidate") for name in ("low", "beyond")
    )
    assert own.equals(other), "it is clipped all the same"


def test_a_map_behind_the_guard_is_one_that_it_allows(vehicle: Vehicle) -> None:
    wanted = minus_budget_map(vehicle)
    allowed, default = allowed_map(vehicle, wanted), vehicle.default_map()
    envelope = Envelope.of(vehicle)
    assert envelope.check(wanted) is not None
    assert envelope.check(allowed) is None
    assert (allowed.table <= default.table).all()
    assert (allowed.table >= wanted.table).all()
    assert (default.table - allowed.table).max() == pytest.approx(vehicle.torque_map.budget_nm, abs=1.0)
    assert allowed_map(vehicle, allowed) == allowed
    assert allowed_map(vehicle, default) == default


def test_the_report_says_who_does_not_beat_the_best_static_map(
    guarded: tuple[Comparison, Witness, Witness],
) -> None:
    result, _, _ = guarded
    summary = result.summary
    same = summary.candidate("minus_budget").against_static
    assert same is not None
    assert same.difference_percent is not None
    assert same.difference_percent.mean == 0.0
    assert "is not shown to beat the best static map" in same.sentence
    assert summary.candidate(BEST_STATIC).against_static is None
    assert summary.candidate("default").against_static is None
    static = summary.candidate(BEST_STATIC)
    if static.verdict is not Verdict.SAVES:
        assert "itself is not shown to save energy" in same.sentence
    assert set(summary.ranking) == {"low", "beyond"}
    assert summary.subject.name == summary.ranking[0]
