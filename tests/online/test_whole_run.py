"""A whole run on a real bus: twin, bridge and `tspace drive` with its learner, each a process of its own."""

import json
from collections.abc import Iterator

import numpy as np
import pytest

from tests.online.stage import VEHICLE, Process, Stage, events, stage, wait_event, wait_until
from tspace_core.agents import CheckpointStore
from tspace_core.agents.tracking import prepare_store
from tspace_core.config import TorqueMap, load_vehicle
from tspace_core.objects.path import local_copy
from tspace_core.online.run_state import RunState
from tspace_core.records.episode import RecordFlag
from tspace_core.storage import episodes_table
from tspace_core.storage.lake import Lake

REFERENCE_PAGE = 0
FLASHES = 4


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with stage(tmp_path_factory.mktemp("whole")) as found:
        yield found


def test_two_episodes_are_flashed_learned_from_and_stored(scene: Stage) -> None:
    twin = scene.start("twin", "twin", "--hmi", "none", "--seed", "3")
    wait_event(twin, "ready")
    bridge = scene.start("bridge", "bridge", "--no-keys", "--no-standby")
    bridge.wait_for(lambda line: "DISARMED" in line)
    drive = scene.start("drive", "drive", "--episodes", "2")
    drive.wait_for(lambda line: "train, waiting for begin" in line)
    for number in (1, 2):
        _drive_an_episode(scene, twin, drive, number)
    assert drive.wait() == 0, drive.lines
    assert any("2 episodes done; 2 episodes stored, 0 thrown away" in line for line in drive.lines)
    wait_until(lambda: events(twin, "map")[-1]["page"] == REFERENCE_PAGE, "the reference page")
    _check_lake(scene)


def _drive_an_episode(scene: Stage, twin: Process, drive: Process, number: int) -> None:
    seen = len(events(twin, "map"))

    def flashed() -> bool:
        pages = [int(event["page"]) for event in events(twin, "map")[seen:]]
        return sum(page != REFERENCE_PAGE for page in pages) >= FLASHES

    scene.hmi("begin")
    drive.wait_for(lambda line: line.startswith(f"episode {number} begins"))
    wait_until(flashed, f"{FLASHES} flashes in the VCU")
    scene.hmi("end_valid")
    told = drive.wait_for(lambda line: line.startswith(f"episode {number} (end_valid)"))
    assert "applied" in told


def _check_lake(scene: Stage) -> None:
    lake = Lake(scene.data)
    vehicle = load_vehicle(VEHICLE)
    default, table = vehicle.default_map(), vehicle.torque_map
    state = RunState.model_validate_json((scene.data / "online" / VEHICLE / "run.json").read_bytes())
    assert (state.generation, state.episodes, state.ended) == (1, 2, "2 episodes done")
    logs = lake.episode_logs(VEHICLE)
    assert len(logs) == 2
    flashed = 0
    for log in logs:
        for path in lake.episodes(log):
            episode = episodes_table.read(path)
            assert not episode.actions[0].any()
            flashed += int(np.count_nonzero(episode.flags & RecordFlag.FLASHED))
        told = json.loads(lake.training_log(log).read_text())
        assert told["learning"]["records"] > 0
        assert told["latency_ms"]["p50"] < 1000
        live = TorqueMap.from_csv(local_copy(lake.last_live_map(log)))
        assert live != default
        assert (live.table >= default.table - np.float32(table.budget_nm)).all()
    assert flashed >= FLASHES
    assert state.learner_run is not None
    assert CheckpointStore(lake.checkpoints("ddpg", state.learner_run)).steps()
    _check_mlflow(scene, told["mlflow_run"])


def _check_mlflow(scene: Stage, run_id: str) -> None:
    import mlflow

    uri = f"sqlite:///{scene.data / 'mlflow.db'}"
    prepare_store(uri)  # imports MLflow without the warnings about its own database models
    client = mlflow.MlflowClient(tracking_uri=uri)
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["vehicle"] == VEHICLE
    assert len(client.get_metric_history(run_id, "episode_return")) == 2
