"""The best static map: better than the default, within its limits, the same for the same seed, found once."""

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from tspace_core.config import Vehicle
from tspace_core.errors import ConfigError, TwinError
from tspace_core.evaluation import best_static
from tspace_core.evaluation.baselines import BEST_STATIC, DEFAULT, baselines, minus_budget_map
from tspace_core.evaluation.best_static import BestStaticMap, best_static_map, stored_static_map
from tspace_core.evaluation.comparison import compare
from tspace_core.evaluation.static_map import (
    LATE_PERCENT,
    FoundMap,
    Limits,
    MapFamily,
    StaticObjective,
    StaticSearch,
    cell_limits,
    search_static_map,
)
from tspace_core.guard.envelope import Envelope
from tspace_core.twin.route import Route

SMALL = StaticSearch(
    pedal_centres=(0.0, 0.2, 1.0),
    speed_centres_kmh=(20.0, 60.0),
    drivers=("tracker", "aggressive"),
    seeds=(11,),
    population=6,
    generations=4,
)


@pytest.fixture(scope="module")
def found(vehicle: Vehicle, route: Route) -> FoundMap:
    """The best map on the short route."""
    return search_static_map(vehicle, [route], SMALL)


def test_it_saves_where_the_default_does_not(vehicle: Vehicle, route: Route, found: FoundMap) -> None:
    assert found.saving_percent > 0.5
    assert found.objective <= -0.5
    assert np.all(np.diff(found.history) <= 0)
    assert len(found.history) == SMALL.generations + 1
    other_feet = compare(vehicle, {BEST_STATIC: found.table}, SMALL.drivers, [1, 2, 3], route).summary
    counted = other_feet.candidate(BEST_STATIC).counted_saving_percent
    assert counted is not None
    assert counted.above_zero


def test_equal_seeds_give_equal_maps(vehicle: Vehicle, route: Route, found: FoundMap) -> None:
    np.random.seed(5)
    before = np.random.get_state()[1].copy()  # type: ignore[index]
    again = search_static_map(vehicle, [route], SMALL)
    assert again.table.sha256() == found.table.sha256()
    assert again.history == found.history
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # type: ignore[index]


@pytest.mark.parametrize("limits", ["flash", "guard"])
@pytest.mark.parametrize("seed", range(10))
def test_every_map_of_the_family_keeps_its_limits(vehicle: Vehicle, limits: Limits, seed: int) -> None:
    family = MapFamily(vehicle, SMALL.model_copy(update={"limits": limits}))
    values = np.random.default_rng(seed).uniform(-1.3, 0.3, family.shape)
    table = family.map(values)
    default = vehicle.default_map()
    assert np.all(np.diff(table.table.astype(np.float64), axis=1) >= 0), f"falls along the pedal, seed {seed}"
    assert np.all(table.table <= default.table)
    assert np.all(table.table >= default.table - np.float32(vehicle.torque_map.budget_nm))
    if limits == "guard":
        assert Envelope.of(vehicle).check(table) is None


def test_zero_is_the_default_map_and_less_the_budget_the_lowest(vehicle: Vehicle) -> None:
    family = MapFamily(vehicle, SMALL)
    assert family.map(np.zeros(family.shape)) == vehicle.default_map()
    lowest = family.map(-np.ones(family.shape))
    np.testing.assert_allclose(lowest.table, minus_budget_map(vehicle).table, atol=1e-3)


def test_a_map_that_does_not_arrive_is_the_worst(vehicle: Vehicle, route: Route) -> None:
    strong = vehicle.model_copy(
        update={"torque_map": vehicle.torque_map.model_copy(update={"budget_nm": 10_000.0})}
    )
    family = MapFamily(strong, SMALL)
    objective = StaticObjective(strong, [route], SMALL)
    costs, _ = objective([family.map(np.zeros(family.shape)), family.map(-np.ones(family.shape))])
    assert costs[0] == 0.0
    assert costs[1] == LATE_PERCENT


def test_what_cannot_be_searched_is_refused(vehicle: Vehicle) -> None:
    with pytest.raises(ConfigError, match="must ascend"):
        MapFamily(vehicle, SMALL.model_copy(update={"pedal_centres": (0.5, 0.1)}))
    with pytest.raises(TwinError, match="at least one"):
        StaticObjective(vehicle, [], SMALL)
    with pytest.raises(ValidationError):
        StaticSearch(population=1)


def test_the_guards_map_is_within_the_flashs(vehicle: Vehicle) -> None:
    wide, tight = cell_limits(vehicle, "flash"), cell_limits(vehicle, "guard")
    assert np.all(tight[0] >= wide[0] - 1e-3)
    assert np.all(tight[1] <= wide[1] + 1e-3)
    assert np.any(tight[0] > wide[0] + 100.0)  # pedal 0 may only fall by 50 Nm


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch, found: FoundMap) -> list[str]:
    """Cycles that were searched; the result is that of the short route."""
    calls: list[str] = []

    def search(_: Vehicle, routes: list[str], *__: object, **___: object) -> FoundMap:
        calls.append(routes[0])
        return found

    monkeypatch.setattr(best_static, "search_static_map", search)
    return calls


def test_it_is_searched_once_and_read_after(
    vehicle: Vehicle, tmp_path: Path, searches: list[str], found: FoundMap
) -> None:
    assert stored_static_map(vehicle, "udds", search=SMALL, folder=tmp_path) is None
    first = best_static_map(vehicle, "udds", search=SMALL, folder=tmp_path)
    second = best_static_map(vehicle, "udds", search=SMALL, folder=tmp_path)
    assert searches == ["udds"]
    assert second == first
    assert first.torque_map(vehicle) == found.table
    best_static_map(vehicle, "hwfet", search=SMALL, folder=tmp_path)
    assert searches == ["udds", "hwfet"]


def test_another_truck_or_search_is_searched_anew(
    vehicle: Vehicle, tmp_path: Path, searches: list[str]
) -> None:
    best_static_map(vehicle, "udds", search=SMALL, folder=tmp_path)
    heavier = vehicle.model_copy(update={"road": vehicle.road.model_copy(update={"mass_kg": 13_000.0})})
    longer = SMALL.model_copy(update={"generations": 5})
    assert stored_static_map(heavier, "udds", search=SMALL, folder=tmp_path) is None
    assert stored_static_map(vehicle, "udds", search=longer, folder=tmp_path) is None
    assert searches == ["udds"]


@pytest.mark.usefixtures("searches")
def test_a_changed_or_damaged_file_is_refused(vehicle: Vehicle, tmp_path: Path) -> None:
    stored = best_static_map(vehicle, "udds", search=SMALL, folder=tmp_path)
    row = (0.0, *stored.table_nm[-1][1:])
    changed = stored.model_copy(update={"table_nm": (*stored.table_nm[:-1], row)})
    with pytest.raises(ConfigError, match="was changed"):
        changed.torque_map(vehicle)
    (path,) = tmp_path.iterdir()
    path.write_text(path.read_text(encoding="utf-8")[:100], encoding="utf-8")
    with pytest.raises(ConfigError, match="delete it and search again"):
        stored_static_map(vehicle, "udds", search=SMALL, folder=tmp_path)


def test_a_kept_map_is_found_beside_the_vehicles_too(vehicle: Vehicle, tmp_path: Path) -> None:
    kept = stored_static_map(vehicle, "truck_route", search=StaticSearch(limits="guard"), folder=tmp_path)
    assert kept is not None
    lower, upper = cell_limits(vehicle, "guard")
    table = kept.torque_map(vehicle).table
    assert ((table >= lower) & (table <= upper)).all()


def test_it_joins_the_baselines_of_its_cycle(vehicle: Vehicle, tmp_path: Path, found: FoundMap) -> None:
    default = StaticSearch()
    stored = BestStaticMap.of(vehicle, "udds", default, found)
    (tmp_path / "twin_truck-udds-flash.json").write_text(stored.model_dump_json(), encoding="utf-8")
    assert baselines(vehicle, cycle="udds", folder=tmp_path)[BEST_STATIC] == found.table
    assert BEST_STATIC not in baselines(vehicle, cycle="hwfet", folder=tmp_path)
    assert BEST_STATIC not in baselines(vehicle, cycle="udds", guarded=True, folder=tmp_path)
    assert BEST_STATIC not in baselines(vehicle)


def test_agents_are_compared_with_it(vehicle: Vehicle, route: Route, found: FoundMap) -> None:
    candidates = {BEST_STATIC: found.table, "policy": minus_budget_map(vehicle)}
    summary = compare(vehicle, candidates, ["tracker"], [1, 2], route).summary
    against = summary.candidate("policy").against_static
    assert against is not None
    assert against.share is not None
    assert summary.candidate(DEFAULT).against_static is None
