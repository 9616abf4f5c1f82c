"""What a run knows of those before it, after any stop."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tspace_core.config import FLASHED_ROWS, TorqueMap, Vehicle, load_vehicle
from tspace_core.errors import OnlineError
from tspace_core.online.run_state import FILE, LIVE_MAP, RunState, RunStateFile, SavedMap
from tspace_core.storage import files


@pytest.fixture(scope="module")
def vehicle() -> Vehicle:
    return load_vehicle("twin_truck")


def changed(vehicle: Vehicle, seed: int) -> TorqueMap:
    default = vehicle.default_map()
    noise = np.random.default_rng(seed).normal(0, 100, default.table.shape).astype(np.float32)
    return TorqueMap(default.pedal_axis, default.speed_axis_kmh, default.table + noise)


def test_a_vehicle_without_a_run_begins_at_zero_with_the_default_map(
    tmp_path: Path, vehicle: Vehicle
) -> None:
    file = RunStateFile(tmp_path / "new", vehicle)
    state = file.load()
    assert (state.generation, state.episodes, state.live_map) == (0, 0, None)
    assert file.resumable(state) is None


def test_a_run_goes_on_with_the_last_live_map_bit_for_bit(tmp_path: Path, vehicle: Vehicle) -> None:
    live = changed(vehicle, 1)
    RunStateFile(tmp_path, vehicle).save(RunState(vehicle_id=vehicle.id, generation=3, episodes=12), live)
    file = RunStateFile(tmp_path, vehicle)
    state = file.load()
    assert (state.generation, state.episodes) == (3, 12)
    assert file.resumable(state) == live
    assert TorqueMap.from_csv(tmp_path / LIVE_MAP) == live


def test_a_save_without_a_map_keeps_the_last_one(tmp_path: Path, vehicle: Vehicle) -> None:
    file = RunStateFile(tmp_path, vehicle)
    live = changed(vehicle, 2)
    state = file.save(RunState(vehicle_id=vehicle.id), live)
    file.save(state.model_copy(update={"episodes": 1}))
    assert file.resumable(file.load()) == live


@settings(max_examples=50, deadline=None)
@given(
    table=hnp.arrays(np.float32, (14, 17), elements=st.floats(-4000, 4000, width=32)),
)
def test_any_map_survives_being_saved(table: np.ndarray) -> None:
    default = load_vehicle("twin_truck").default_map()
    live = TorqueMap(default.pedal_axis, default.speed_axis_kmh, table)
    saved = SavedMap.model_validate_json(SavedMap.of(live).model_dump_json())
    again = TorqueMap(default.pedal_axis, default.speed_axis_kmh, np.array(saved.torque_nm, np.float32))
    assert again.sha256() == live.sha256() == saved.sha256


def test_a_map_made_against_another_default_is_not_gone_on_from(
    tmp_path: Path, vehicle: Vehicle, caplog: pytest.LogCaptureFixture
) -> None:
    file = RunStateFile(tmp_path, vehicle)
    state = file.save(RunState(vehicle_id=vehicle.id), changed(vehicle, 3))
    other = state.model_copy(update={"reference_sha256": "0" * 64})
    with caplog.at_level(logging.WARNING):
        assert file.resumable(other) is None
    assert "made against another default map" in caplog.text


@pytest.mark.parametrize("damage", ["cell", "shape", "hash"])
def test_a_damaged_live_map_is_not_gone_on_from(
    tmp_path: Path, vehicle: Vehicle, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = RunStateFile(tmp_path, vehicle)
    file.save(RunState(vehicle_id=vehicle.id), changed(vehicle, 4))
    content = json.loads((tmp_path / FILE).read_text())
    if damage == "cell":
        content["live_map"]["torque_nm"][3][4] += 1.0
    elif damage == "shape":
        content["live_map"]["torque_nm"].pop()
    else:
        content["live_map"]["sha256"] = "1" * 64
    (tmp_path / FILE).write_text(json.dumps(content))
    with caplog.at_level(logging.WARNING):
        assert file.resumable(file.load()) is None
    assert "damaged" in caplog.text


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"vehicle_id": 3}', '{"vehicle_id": "twin_truck", "x": 1}']
)
def test_a_damaged_state_says_what_to_do(tmp_path: Path, vehicle: Vehicle, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(OnlineError, match="move it away to begin with the default map"):
        RunStateFile(tmp_path, vehicle).load()


def test_the_state_of_another_vehicle_is_refused(tmp_path: Path, vehicle: Vehicle) -> None:
    RunStateFile(tmp_path, vehicle).save(RunState(vehicle_id="twin_mule"))
    with pytest.raises(OnlineError, match="is of twin_mule, expected twin_truck"):
        RunStateFile(tmp_path, vehicle).load()


def test_a_full_disk_leaves_the_old_state(
    tmp_path: Path, vehicle: Vehicle, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = RunStateFile(tmp_path, vehicle)
    file.save(RunState(vehicle_id=vehicle.id, episodes=4), changed(vehicle, 5))

    def full(_: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "sync", full)
    with pytest.raises(OSError, match="No space left"):
        file.save(RunState(vehicle_id=vehicle.id, episodes=5), changed(vehicle, 6))
    state = file.load()
    assert state.episodes == 4
    assert file.resumable(state) == changed(vehicle, 5)


def test_field_failure_the_budget_drifts_with_each_resume(tmp_path: Path, vehicle: Vehicle) -> None:
    """50 runs, each goes on from the last live map and asks for all it may: the budget is the default's."""
    default, table = vehicle.default_map(), vehicle.torque_map
    generator = np.random.default_rng(7)
    for run in range(50):
        file = RunStateFile(tmp_path, load_vehicle(vehicle.id))
        state = file.load()
        assert state.generation == run
        live = file.resumable(state) or default
        for first_row in range(0, len(default.speed_axis_kmh) - FLASHED_ROWS + 1, 2):
            action = generator.choice([-1.0, -1.0, 1.0], (4, 17))
            live = live.flashed(
                action, first_row, default, budget_nm=table.budget_nm, upper_factor=table.upper_factor
            )
        assert (live.table >= default.table - np.float32(table.budget_nm)).all()
        assert (live.table <= default.table).all()
        state = file.save(state.model_copy(update={"generation": run + 1}), live)
        assert state.reference_sha256 == default.sha256()
    assert file.load().generation == 50
