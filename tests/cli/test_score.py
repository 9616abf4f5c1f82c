"""``tspace score`` and ``tspace train``: many partitions, each once, and a failure costs only itself."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.agents.scored import VEHICLE, drive, put_agent, put_episodes
from tspace_core.agents import scoring
from tspace_core.agents.offline_run import latest_agent, train_agent
from tspace_core.agents.release import release_agent
from tspace_core.agents.scores import Scores
from tspace_core.agents.scoring_table import read_scores
from tspace_core.cli import app
from tspace_core.config import Vehicle, load_vehicle
from tspace_core.storage.files import write_text
from tspace_core.storage.lake import Lake
from tspace_core.storage.replay import build_replay

DAYS = ("2026-01-05", "2026-01-06", "2026-01-07")
KEYS = [f"{VEHICLE}/{day}/drive.blf" for day in DAYS]


@pytest.fixture(scope="module")
def vehicle() -> Vehicle:
    return load_vehicle(VEHICLE)


@pytest.fixture
def lake(tmp_path: Path, vehicle: Vehicle) -> Lake:
    found = Lake(tmp_path / "lake")
    for number, key in enumerate(KEYS):
        put_episodes(found, key, [drive(vehicle, key, k, 20, seed=number) for k in range(2)])
    return found


@pytest.fixture
def agent(lake: Lake, vehicle: Vehicle) -> Path:
    folder = Path(str(lake.root)) / "checkpoints" / "ddpg" / "mine" / "00000007"
    put_agent(folder, vehicle)
    return folder


def tspace(lake: Lake, *arguments: str) -> tuple[int, str, str]:
    if "--workers" not in arguments:
        arguments = (*arguments, "--workers", "1")  # a process more costs seconds of imports
    result = CliRunner().invoke(app, [*arguments, "--data-dir", str(lake.root)])
    assert "Traceback" not in result.stderr
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return 2, result.stdout, str(result.exception)  # what ``main`` prints as one line
    return result.exit_code, result.stdout, result.stderr


def score(lake: Lake, *arguments: str) -> tuple[int, dict[str, Any], str]:
    code, out, told = tspace(lake, "score", "--vehicle", VEHICLE, "--json", *arguments)
    return code, json.loads(out) if out else {}, told


@pytest.mark.parametrize("workers", ["1", "2"])
def test_each_log_is_scored_once(lake: Lake, agent: Path, workers: str) -> None:
    code, found, _ = score(lake, "--checkpoint", str(agent), "--workers", workers)
    assert code == 0
    assert found["total"]["records"] == 120 and sorted(log["key"] for log in found["logs"]) == KEYS
    assert found["skipped"] == [] and found["failed"] == {}
    assert all(len(read_scores(Path(str(lake.root)) / _path(lake, key))) == 40 for key in KEYS)
    code, again, _ = score(lake, "--checkpoint", "ddpg/mine/00000007", "--workers", workers)
    assert (code, sorted(again["skipped"]), again["total"]) == (0, KEYS, found["total"])
    code, anew, _ = score(lake, "--checkpoint", str(agent), "--again")
    assert (code, anew["skipped"], anew["total"]) == (0, [], found["total"])


def _path(lake: Lake, key: str) -> Path:
    vehicle_id, day, name = key.split("/")
    folder = Path(str(lake.root)) / "policy_actions" / f"vehicle={vehicle_id}" / f"date={day}"
    (path,) = folder.glob(f"{name}.*.parquet")
    return path


def test_what_was_deleted_or_has_changed_is_made_again(lake: Lake, agent: Path, vehicle: Vehicle) -> None:
    score(lake, "--checkpoint", str(agent))
    _path(lake, KEYS[0]).unlink()
    put_episodes(lake, KEYS[1], [drive(vehicle, KEYS[1], 0, 7, seed=9)])
    code, found, _ = score(lake, "--checkpoint", str(agent))
    assert (code, found["skipped"], found["total"]["records"]) == (0, [KEYS[2]], 87)


def test_days(lake: Lake, agent: Path) -> None:
    chosen = ["--checkpoint", str(agent), "--from", DAYS[1], "--to", DAYS[1]]
    assert [log["key"] for log in score(lake, *chosen)[1]["logs"]] == [KEYS[1]]
    code, _, told = score(lake, "--from", "yesterday")
    assert code == 2 and "--from 'yesterday' is no day" in told
    code, _, told = score(lake, "--from", "2027-01-01")
    assert code == 2 and "has no episodes of twin_truck from 2027-01-01 to the last" in told


def test_for_people(lake: Lake, agent: Path) -> None:
    code, out, told = tspace(lake, "score", "--vehicle", VEHICLE, "--checkpoint", str(agent))
    assert code == 0
    assert "3 logs scored, 0 skipped, 0 failed" in out and "120 records in 6 episodes" in out
    assert "no saving" in out and "3 of 3" in told
    assert f"scored by {agent}, as named" in told


def test_a_torn_log_costs_only_itself(lake: Lake, agent: Path) -> None:
    torn = Path(str(lake.episodes(lake.log_of(KEYS[1]))[0]))
    content = torn.read_bytes()
    torn.write_bytes(content[: len(content) // 2])
    code, found, told = score(lake, "--checkpoint", str(agent))
    assert code == 1 and list(found["failed"]) == [KEYS[1]] and torn.name in found["failed"][KEYS[1]]
    assert found["total"]["records"] == 80 and "1 of 3 logs failed" in told
    torn.write_bytes(content)
    code, found, _ = score(lake, "--checkpoint", str(agent))
    assert code == 0 and len(found["skipped"]) == 2 and found["total"]["records"] == 120


def test_without_an_agent(lake: Lake) -> None:
    code, _, told = score(lake)
    assert code == 2 and f"no agent was trained for {VEHICLE}" in told
    code, _, told = score(lake, "--checkpoint", "champion")
    assert code == 2 and f"nothing is released for {VEHICLE}" in told


def test_the_champion_is_scored_where_it_is_asked_for_or_nothing_was_trained(
    lake: Lake, agent: Path, vehicle: Vehicle
) -> None:
    release_agent(lake, vehicle, agent, by="somebody")
    code, found, _ = score(lake, "--checkpoint", "champion")
    assert code == 0 and "champion" in found["checkpoint"]
    code, again, _ = score(lake)
    assert code == 0 and again["skipped"] == KEYS
    code, _, told = score(lake, "--agent", "ddpg")
    assert code == 0 and "scored by the champion, ddpg mine step 7" in told
    code, _, told = score(lake, "--agent", "idql")
    assert code == 2 and f"no idql agent was trained for {VEHICLE}" in told
    code, same, _ = score(lake, "--checkpoint", str(agent))
    assert code == 0 and same["skipped"] == KEYS, "a copy of a checkpoint is the same checkpoint"


@pytest.mark.parametrize(("content", "says"), [("{torn", "is damaged"), ("{}", "names no agent")])
def test_the_champion_does_not_stand_in_for_an_agent_that_cannot_be_read(
    lake: Lake, agent: Path, vehicle: Vehicle, content: str, says: str
) -> None:
    release_agent(lake, vehicle, agent, by="somebody")
    write_text(lake.checkpoints("ddpg", f"{VEHICLE}.json"), content)
    code, _, told = score(lake)
    assert code == 2 and says in told and f"{VEHICLE}.json" in told


def test_a_stopped_run_goes_on(lake: Lake, agent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = scoring.store_scores

    def stopped(lake: Lake, key: str, checkpoint: str, **options: Any) -> Scores:
        if key == KEYS[2]:
            raise KeyboardInterrupt
        return store(lake, key, checkpoint, **options)

    with monkeypatch.context() as patched:
        patched.setattr(scoring, "store_scores", stopped)
        code, _, told = tspace(lake, "score", "--vehicle", VEHICLE, "--checkpoint", str(agent))
        assert code == 130 and "2 of 3 partitions have ended" in told
    code, found, _ = score(lake, "--checkpoint", str(agent))
    assert (code, found["skipped"], found["total"]["records"]) == (0, KEYS[:2], 120)


def test_another_type_of_vehicle(lake: Lake, tmp_path: Path, vehicle: Vehicle) -> None:
    put_agent(tmp_path / "wide", vehicle, state_dim=600)
    code, _, told = score(lake, "--checkpoint", str(tmp_path / "wide"))
    assert code == 2 and f"state_dim is 600, {VEHICLE} has 90" in told


class TestTrain:
    """Agents for several vehicles, each a unit of work."""

    @pytest.fixture
    def lake(self, tmp_path: Path, vehicle: Vehicle) -> Lake:
        found = Lake(tmp_path / "lake")
        for name in (VEHICLE, "twin_mule"):
            mine = load_vehicle(name)
            build_replay(found.replay(name), (drive(mine, f"{name}/{DAYS[0]}/a", k, 40) for k in range(3)))
        return found

    def train(self, lake: Lake, *arguments: str) -> tuple[int, dict[str, Any], str]:
        if "--track" not in arguments:
            arguments = (*arguments, "--no-track")  # making a tracking store takes seconds
        code, out, told = tspace(lake, "train", "--json", "--repeat-records", *arguments)
        return code, json.loads(out) if out else {}, told

    @pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
    def test_each_vehicle_is_trained_once(self, lake: Lake, workers: str) -> None:
        both = ["--vehicle", VEHICLE, "--vehicle", "twin_mule", "--updates", "6"]
        code, found, _ = self.train(lake, *both, "--workers", workers)
        assert code == 0 and sorted(found["trained"]) == ["twin_mule", VEHICLE] and not found["skipped"]
        for name, item in found["trained"].items():
            assert item["checkpoint"] == str(latest_agent(lake, name).checkpoint) and item["step"] == 6
        assert len(list(Path(str(lake.root)).glob("metrics/train-ddpg/*.json"))) == 2
        code, again, _ = self.train(lake, *both)
        assert (code, again["skipped"], again["trained"]) == (0, [VEHICLE, "twin_mule"], found["trained"])
        code, more, _ = self.train(lake, "--vehicle", VEHICLE, "--updates", "9")
        assert code == 0 and more["trained"][VEHICLE]["resumed_from"] == 6

    def test_a_vehicle_without_replay_costs_only_itself(self, lake: Lake) -> None:
        code, found, told = self.train(lake, "--vehicle", "bmw_i3", "--vehicle", VEHICLE, "--updates", "3")
        assert code == 1 and list(found["trained"]) == [VEHICLE]
        assert "holds no replay buffer" in found["failed"]["bmw_i3"] and "1 of 2 vehicles failed" in told

    def test_a_training_is_in_mlflow_beside_the_lake(self, lake: Lake) -> None:
        _, found, _ = self.train(lake, "--track", "--vehicle", VEHICLE, "--updates", "3")
        from tspace_core.agents.tracking_client import client_of

        client = client_of(f"sqlite:///{lake.local / 'mlflow.db'}")
        run = client.get_run(str(latest_agent(lake, VEHICLE).summary.run_id))
        assert run.info.run_name == found["trained"][VEHICLE]["run"] and run.info.status == "FINISHED"
        assert len(client.get_metric_history(run.info.run_id, "critic_loss")) == 1
        assert len(list(lake.local.glob("mlartifacts/**/map_change.png"))) == 1

    def test_the_seed_makes_another_run(self, lake: Lake) -> None:
        first = train_agent(lake, VEHICLE, updates=3, repeat_records=True)
        _, found, _ = self.train(lake, "--vehicle", VEHICLE, "--updates", "3", "--seed", "11")
        assert found["trained"][VEHICLE]["run"] != first.run and not found["skipped"]
        _, back, _ = self.train(lake, "--vehicle", VEHICLE, "--updates", "3")
        assert back["trained"][VEHICLE]["run"] == first.run == latest_agent(lake, VEHICLE).run
