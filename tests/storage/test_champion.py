"""What is released for a vehicle is exactly one checkpoint that loads, and stays what it was."""

import threading
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.agents.batches import SMALL
from tspace_core.agents import DDPG, load_agent
from tspace_core.agents.offline_run import Trained
from tspace_core.agents.release import release_agent
from tspace_core.agents.training import TrainSummary
from tspace_core.cli import app
from tspace_core.config import Vehicle, load_vehicle
from tspace_core.errors import CheckpointError, TspaceError
from tspace_core.objects.path import AnyPath
from tspace_core.online.agent_choice import ReleaseWatch, choose
from tspace_core.storage.champion import champion, read_releases, rollback
from tspace_core.storage.files import write_text
from tspace_core.storage.folders import remove_directory
from tspace_core.storage.lake import Lake

STATE = np.linspace(-1, 1, 90, dtype=np.float32)


@pytest.fixture(scope="module")
def vehicle() -> Vehicle:
    return load_vehicle("twin_truck")


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


def trained(lake: Lake, step: int, *, state_dim: int = 90) -> AnyPath:
    """A checkpoint of a run; its seed is its step."""
    path = lake.checkpoints("ddpg", "run") / f"{step:08d}"
    DDPG(SMALL, state_dim, 68, seed=step).save(path, step=step)
    return path


def note_as_latest(lake: Lake, vehicle: Vehicle, checkpoint: AnyPath) -> None:
    """What training leaves beside its checkpoints."""
    summary = TrainSummary(
        agent="ddpg",
        replay="replay",
        replay_version="1",
        run_id=None,
        updates=int(checkpoint.name),
        resumed_from=0,
        series=(),
        value_range=(0.0, 1.0),
        overestimating=False,
        checkpoint=None,
        wall_s=1.0,
        updates_per_s=1.0,
    )
    note = Trained(
        vehicle_id=vehicle.id,
        run="run",
        step=summary.updates,
        summary=summary,
        hyperparameters=SMALL,
        finished=datetime(2026, 1, 1, tzinfo=UTC),
        folder=checkpoint.parent,
    )
    write_text(
        lake.checkpoints("ddpg", f"{vehicle.id}.json"), note.model_dump_json(exclude={"folder"}, indent=1)
    )


def action(folder: AnyPath) -> np.ndarray:
    return load_agent(folder).predict(STATE)


def test_nothing_is_released_until_someone_does(lake: Lake, vehicle: Vehicle) -> None:
    assert champion(lake, vehicle.id) is None
    with pytest.raises(CheckpointError, match="no champion to go back to, nothing is released"):
        rollback(lake, vehicle.id, by="me")


def test_the_champion_outlives_its_training_run(lake: Lake, vehicle: Vehicle) -> None:
    source = trained(lake, 5)
    wanted = action(source)
    released = release_agent(lake, vehicle, source, by="me")
    remove_directory(source)
    found = champion(lake, vehicle.id)
    assert found == released
    assert (found.agent, found.run, found.step, found.released_by) == ("ddpg", "run", 5, "me")
    assert found.source == "checkpoints/ddpg/run/00000005"
    np.testing.assert_array_equal(action(found.checkpoint), wanted)


def test_a_moved_lake_keeps_its_champion(lake: Lake, vehicle: Vehicle, tmp_path: Path) -> None:
    release_agent(lake, vehicle, trained(lake, 5), by="me")
    (tmp_path / "lake").rename(tmp_path / "moved")
    found = champion(Lake(tmp_path / "moved"), vehicle.id)
    assert found is not None
    assert found.checkpoint.is_relative_to(tmp_path / "moved")


def test_going_back_step_by_step_keeps_what_was_withdrawn(lake: Lake, vehicle: Vehicle) -> None:
    first, second, third = (release_agent(lake, vehicle, trained(lake, step), by="me") for step in (1, 2, 3))
    assert champion(lake, vehicle.id) == third
    assert rollback(lake, vehicle.id, by="you") == second
    assert rollback(lake, vehicle.id, by="you") == first
    with pytest.raises(CheckpointError, match="it is the first release"):
        rollback(lake, vehicle.id, by="you")
    releases = read_releases(lake, vehicle.id)
    assert releases.champion == first
    assert [gone.champion for gone in releases.withdrawn] == [third, second]
    assert {gone.withdrawn_by for gone in releases.withdrawn} == {"you"}


def test_releasing_the_champion_again_changes_nothing(lake: Lake, vehicle: Vehicle) -> None:
    path = trained(lake, 1)
    first = release_agent(lake, vehicle, path, by="me")
    assert release_agent(lake, vehicle, path, by="you") == first
    assert read_releases(lake, vehicle.id).history == ()


def test_what_does_not_load_or_fit_leaves_the_champion_as_it_was(lake: Lake, vehicle: Vehicle) -> None:
    good = release_agent(lake, vehicle, trained(lake, 1), by="me")
    damaged, other = trained(lake, 2), trained(lake, 3, state_dim=600)
    (damaged / "actor.safetensors").write_bytes(b"cut off")
    bad = trained(lake, 4)
    for part in bad.glob("actor.*"):
        part.unlink()
    for path, words in (
        (damaged, "cut off or changed"),
        (other, "its state_dim is 600, twin_truck has 90"),
        (bad, r"actor\.json: missing"),
        (lake.root / "nowhere", "no checkpoint's manifest"),
    ):
        with pytest.raises(CheckpointError, match=words):
            release_agent(lake, vehicle, path, by="me")
        assert champion(lake, vehicle.id) == good


def test_a_policy_that_is_not_finite_is_not_released(lake: Lake, vehicle: Vehicle) -> None:
    path = lake.checkpoints("ddpg", "run") / "00000009"
    agent = DDPG(SMALL, 90, 68, seed=1)
    agent.actor.output.bias.data.fill_(np.nan)
    agent.save(path, step=9)
    with pytest.raises(CheckpointError, match="its action is no finite one"):
        release_agent(lake, vehicle, path, by="me")


def test_a_champion_whose_files_were_changed_is_an_error(lake: Lake, vehicle: Vehicle) -> None:
    first = release_agent(lake, vehicle, trained(lake, 1), by="me")
    second = release_agent(lake, vehicle, trained(lake, 2), by="me")
    (second.checkpoint / "actor.safetensors").write_bytes(
        (first.checkpoint / "actor.safetensors").read_bytes()
    )
    with pytest.raises(CheckpointError, match="gone or changed"):
        champion(lake, vehicle.id)
    assert release_agent(lake, vehicle, lake.checkpoints("ddpg", "run") / "00000002", by="me").step == 2
    assert champion(lake, vehicle.id) is not None  # releasing it again mends the copy


def test_a_damaged_pointer_says_what_to_do(lake: Lake, vehicle: Vehicle) -> None:
    path = lake.checkpoints("champion", "twin_truck.json")
    for text in ("{", "[]", '{"champion": {}}', '{"history": [1]}', '{"champion": 3}'):
        write_text(path, text)
        with pytest.raises(CheckpointError, match="delete it and release a checkpoint again"):
            champion(lake, vehicle.id)


def test_releases_at_one_time_all_count(lake: Lake, vehicle: Vehicle) -> None:
    paths = [trained(lake, step) for step in range(1, 6)]
    threads = [
        threading.Thread(target=release_agent, args=(lake, vehicle, path), kwargs={"by": "me"})
        for path in paths
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    releases = read_releases(lake, vehicle.id)
    assert releases.champion is not None
    steps = [item.step for item in (*releases.history, releases.champion)]
    assert sorted(steps) == [1, 2, 3, 4, 5]


def test_the_command_releases_shows_and_goes_back(lake: Lake, vehicle: Vehicle) -> None:
    note_as_latest(lake, vehicle, trained(lake, 1))
    second = trained(lake, 2)

    def call(*arguments: str) -> str:
        command = ["release", "--vehicle", "twin_truck", "--data-dir", str(lake.root), *arguments]
        result = CliRunner().invoke(app, command, catch_exceptions=False)
        assert result.exit_code == 0
        return result.output

    assert "nothing is released" in call("--show")
    trial = ("--without-evaluation", "a trial")
    assert "champion: ddpg run step 1" in call(*trial)
    assert "champion: ddpg run step 2" in call(str(second), "--by", "me", *trial)
    shown = call("--show").splitlines()
    assert "step 2" in shown[0]
    assert "by me" in shown[0]
    assert shown[1].startswith("before: ddpg run step 1")
    assert "champion again: ddpg run step 1" in call("--rollback")
    assert "champion: ddpg run step 2" in call("ddpg/run/00000002", *trial)
    assert "withdrawn" in call("--show")
    assert "without evaluation: a trial" in call("--show")
    for wrong in (("--show", "--rollback"), ("--sync", "--show")):
        with pytest.raises(TspaceError, match="give one of"):
            call(*wrong)
    with pytest.raises(TspaceError, match="belongs to a release"):
        call("--rollback", *trial)


def test_what_is_released_while_a_run_begins_is_found(lake: Lake, vehicle: Vehicle) -> None:
    """Between the choice of what drives and the first look for another release lie seconds."""
    release_agent(lake, vehicle, trained(lake, 1), by="me")
    choice = choose(lake, vehicle, infer=True)
    later = release_agent(lake, vehicle, trained(lake, 2), by="me")
    watch = ReleaseWatch(lake, vehicle.id, choice.released, version=choice.version)
    found = watch.find()
    assert found is not None and found.champion == later
    assert watch.find() is None
