"""Candidates driven by the twin."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from tests.evaluation.conftest import DRIVERS, SEEDS
from tspace_core.config import Vehicle
from tspace_core.errors import AgentError, TwinError
from tspace_core.evaluation.baselines import RandomPolicy, baselines, minus_budget_map
from tspace_core.evaluation.comparison import Comparison, compare
from tspace_core.evaluation.summary import ComparisonSummary
from tspace_core.evaluation.verdict import Verdict
from tspace_core.records.policy import ConstantPolicy, ZeroPolicy
from tspace_core.twin.fleet import Fleet
from tspace_core.twin.route import Route

if TYPE_CHECKING:
    from tspace_core.evaluation.drives import Candidate


def test_every_candidate_drives_with_every_driver_and_seed(comparison: Comparison) -> None:
    assert comparison.drives.select("candidate", "driver", "seed").rows() == [
        (candidate, driver, seed)
        for candidate in ("default", "minus_budget", "random", "policy")
        for driver in DRIVERS
        for seed in SEEDS
    ]
    assert comparison.drives["finished"].all()
    assert comparison.summary.cycle == "two_hills"
    assert comparison.summary.drivers == DRIVERS
    assert comparison.summary.seeds == SEEDS


def test_the_energy_is_that_of_the_battery_in_a_drive_of_its_own(
    comparison: Comparison, vehicle: Vehicle, route: Route
) -> None:
    fleet = Fleet(vehicle, route, ["habitual"], [1])
    trace = fleet.run(chunk_s=1.5)
    row = comparison.drives.row(
        by_predicate=(pl.col("candidate") == "default")
        & (pl.col("driver") == "habitual")
        & (pl.col("seed") == 1),
        named=True,
    )
    assert row["energy_wh"] == pytest.approx(fleet.energy_wh[0], rel=1e-12)
    assert row["trip_time_s"] == fleet.elapsed_s[0]
    sampled = np.sum((trace.voltage * trace.current)[trace.valid]) / vehicle.sampling.rate_hz / 3600
    assert row["energy_wh"] == pytest.approx(sampled, rel=0.02)
    error = (trace.velocity - trace.reference)[trace.valid]
    assert row["speed_rmse_kmh"] == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-5)


def test_a_candidate_that_equals_the_default_map_differs_by_exactly_nothing(
    vehicle: Vehicle, route: Route
) -> None:
    candidates: dict[str, Candidate] = {"same_map": vehicle.default_map(), "policy": ZeroPolicy()}
    result = compare(vehicle, candidates, ["tracker", "habitual"], [3], route)
    differences = result.pairs.select(pl.col(pl.Float64))
    assert differences.width == 7
    assert np.all(differences.to_numpy() == 0)
    assert {item.verdict for item in result.summary.candidates} == {Verdict.REFERENCE, Verdict.SAME}
    assert result.summary.candidate("policy").flashes > 0
    assert result.summary.candidate("same_map").flashes == 0
    assert np.nanmax(np.abs(result.map_changes["policy"])) == 0


def test_less_torque_is_slower_and_a_driver_of_habit_feels_it_most(comparison: Comparison) -> None:
    minus = comparison.summary.candidate("minus_budget")
    assert minus.trip_time_percent is not None
    assert minus.trip_time_percent.mean > 0
    change = {item.driver: item.trip_time_percent for item in minus.per_driver}
    assert change["habitual"] is not None
    assert change["tracker"] is not None
    assert change["habitual"].mean > change["tracker"].mean
    savings = comparison.pairs.filter(pl.col("candidate") == "minus_budget")["saving_percent"]
    assert np.all(savings.to_numpy() != 0)


def test_flashes_stay_within_the_budget(comparison: Comparison, vehicle: Vehicle) -> None:
    budget = vehicle.torque_map.budget_nm
    policy = comparison.map_changes["policy"]
    flashed = np.isfinite(policy)
    assert flashed.any()
    assert policy[flashed] == pytest.approx(-budget / 2, abs=1e-3)
    # The route stays below 60 km/h, so the rows of high speed are never touched.
    assert not flashed[-1].any()
    assert comparison.map_changes["minus_budget"] == pytest.approx(-budget, abs=1e-3)
    random = comparison.map_changes["random"]
    assert np.nanmin(random) >= -budget
    upper = np.where(vehicle.default_map().table > 0, (vehicle.torque_map.upper_factor - 1) * 1e9, 0)
    assert np.all(random[np.isfinite(random)] <= upper[np.isfinite(random)] + 1e-3)


def test_the_same_seeds_give_the_same_comparison(vehicle: Vehicle, route: Route) -> None:
    first, second = (
        compare(vehicle, {"random": RandomPolicy(vehicle.action_dim, 5)}, ["habitual"], [0, 1], route)
        for _ in range(2)
    )
    assert first.drives.equals(second.drives)
    assert first.summary == second.summary
    other = compare(vehicle, {"random": RandomPolicy(vehicle.action_dim, 6)}, ["habitual"], [0, 1], route)
    assert not other.drives.equals(first.drives)


def test_a_drive_does_not_depend_on_who_else_drives(
    comparison: Comparison, vehicle: Vehicle, route: Route
) -> None:
    alone = compare(vehicle, {"policy": ConstantPolicy(-0.5)}, ["aggressive"], [1], route).drives
    own = (pl.col("driver") == "aggressive") & (pl.col("seed") == 1) & (pl.col("candidate") == "policy")
    assert alone.filter(own).equals(comparison.drives.filter(own))


def test_a_policy_sees_windows_of_its_vehicles_in_state_order(vehicle: Vehicle, route: Route) -> None:
    seen: list[NDArray[np.float32]] = []

    def policy(states: NDArray[np.float32]) -> NDArray[np.float32]:
        seen.append(states.copy())
        return np.zeros((len(states), vehicle.action_dim), np.float32)

    compare(vehicle, {"policy": policy}, ["tracker"], [0, 1, 2], route)
    assert {states.shape for states in seen} == {(3, vehicle.sampling.state_dim)}
    windows = np.stack(seen).reshape(len(seen), 3, vehicle.sampling.window, 3)
    fleet = Fleet(vehicle, route, ["tracker"] * 3, [0, 1, 2])
    trace = fleet.run(chunk_s=2 * vehicle.sampling.window_s)
    step = 2 * vehicle.sampling.window
    expected = np.stack([trace.velocity, trace.thrust, trace.brake], axis=-1)
    for number, window in enumerate(windows[:-1]):
        start = number * step
        assert window == pytest.approx(expected[:, start : start + vehicle.sampling.window], abs=1e-4)


def test_bad_actions_are_refused(vehicle: Vehicle, route: Route) -> None:
    def wrong_shape(states: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.zeros((len(states), 5), np.float32)

    def not_finite(states: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.full((len(states), 68), np.nan, np.float32)

    with pytest.raises(AgentError, match=r"policy 'short' returned actions of shape \(1, 5\)"):
        compare(vehicle, {"short": wrong_shape}, ["tracker"], [0], route)
    with pytest.raises(AgentError, match="68 of them not finite"):
        compare(vehicle, {"broken": not_finite}, ["tracker"], [0], route)


@pytest.mark.parametrize(("drivers", "seeds"), [([], [0]), (["tracker"], []), (["tracker"] * 2, [0])])
def test_drivers_and_seeds_must_be_there_once(
    vehicle: Vehicle, route: Route, drivers: list[str], seeds: list[int]
) -> None:
    with pytest.raises(TwinError, match="each only once"):
        compare(vehicle, {}, drivers, seeds, route)


def test_progress_rises_to_the_whole(vehicle: Vehicle, route: Route) -> None:
    told: list[float] = []
    compare(vehicle, {"policy": ZeroPolicy()}, ["tracker"], [0], route, progress=told.append)
    assert told == sorted(told)
    assert told[0] < 0.5
    assert told[-1] == 1.0


def test_a_drive_that_is_given_up_is_named(
    vehicle: Vehicle, route: Route, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Route, "time_limit_s", 0.5 * route.duration_s)
    result = compare(vehicle, {"policy": ZeroPolicy()}, ["tracker"], [0], route)
    assert not result.drives["finished"].any()
    assert result.summary.subject.verdict is Verdict.INCOMPLETE
    assert len(result.summary.subject.problems) == 1


def test_results_survive_being_written(comparison: Comparison, tmp_path: Path) -> None:
    frame_path, summary_path = comparison.write(tmp_path / "evaluation")
    assert pl.read_parquet(frame_path).equals(comparison.to_frame())
    assert ComparisonSummary.model_validate_json(summary_path.read_bytes()) == comparison.summary
    assert len(comparison.to_frame()) == len(comparison.drives)


@pytest.mark.parametrize("name", ["twin_truck", "twin_mule"])
def test_the_lowest_map_keeps_the_limits(name: str) -> None:
    from tspace_core.config import load_vehicle

    vehicle = load_vehicle(name)
    lowest, default = minus_budget_map(vehicle), vehicle.default_map()
    assert default.table - lowest.table == pytest.approx(vehicle.torque_map.budget_nm, abs=1e-3)
    assert list(baselines(vehicle)) == ["default", "minus_budget", "random"]
