"""The commands that train use the engine of the settings."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.agents.scored import VEHICLE, drive
from tests.distributed.conftest import RAY_WARNINGS, World
from tspace_core.agents import DDPG
from tspace_core.agents.made_for import require_vehicle
from tspace_core.agents.offline_run import latest_agent
from tspace_core.agents.release import latest_checkpoint, release_agent
from tspace_core.cli import app
from tspace_core.config import load_vehicle, settings
from tspace_core.storage.lake import Lake
from tspace_core.storage.replay import build_replay
from tspace_pipelines.report_sections import training_section

FEW = (
    *("--episodes", "4", "--minutes", "2", "--places", "2", "--warm-up", "2", "--cycle", "hwfet"),
    *("--driver", "tracker", "--driver", "habitual"),
)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


@pytest.fixture
def fresh_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """The environment's variables, as a test sets them."""
    settings.cache_clear()
    yield monkeypatch
    settings.cache_clear()


@pytest.fixture
def on_ray(world: World, fresh_settings: pytest.MonkeyPatch) -> None:
    fresh_settings.setenv("TSPACE_ENGINE__KIND", "ray")
    fresh_settings.setenv("TSPACE_ENGINE__ADDRESS", world.address)


def tspace(lake: Lake, *arguments: str) -> tuple[dict[str, Any], str]:
    result = CliRunner().invoke(app, [*arguments, "--no-track", "--json", "--data-dir", str(lake.root)])
    assert result.exit_code == 0, f"{result.exception!r} {result.stderr}"
    return json.loads(result.stdout), result.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("on_ray")
@pytest.mark.filterwarnings(RAY_WARNINGS)
def test_train_learns_on_the_settings_cluster(lake: Lake, caplog: pytest.LogCaptureFixture) -> None:
    vehicle = load_vehicle(VEHICLE)
    build_replay(lake.replay(VEHICLE), (drive(vehicle, f"{VEHICLE}/a", k, 40) for k in range(3)))
    with caplog.at_level("INFO", "tspace_core.distributed"):
        found, _ = tspace(lake, "train", "--vehicle", VEHICLE, "--updates", "6", "--repeat-records")
    assert "learner 1 of 2 begins" in caplog.text
    assert found["trained"][VEHICLE]["step"] == latest_agent(lake, VEHICLE).step == 6
    import ray

    assert not ray.is_initialized(), "the command left the cluster"


def test_a_cluster_that_is_not_there_fails_the_vehicle_and_says_what_to_do(
    lake: Lake, fresh_settings: pytest.MonkeyPatch
) -> None:
    fresh_settings.setenv("TSPACE_ENGINE__KIND", "ray")
    fresh_settings.setenv("TSPACE_ENGINE__ADDRESS", "no-such-host.invalid:6379")
    vehicle = load_vehicle(VEHICLE)
    build_replay(lake.replay(VEHICLE), (drive(vehicle, f"{VEHICLE}/a", k, 40) for k in range(3)))
    arguments = ["train", "--vehicle", VEHICLE, "--updates", "6", "--repeat-records", "--no-track"]
    result = CliRunner().invoke(app, [*arguments, "--data-dir", str(lake.root)])
    assert result.exit_code == 1
    assert "no Ray head answers" in result.stderr
    assert "TSPACE_ENGINE__KIND=local" in result.stderr


class TestTrainInTwin:
    """An agent that drove a twin is the vehicle's latest, as one trained on a replay is."""

    def train(self, lake: Lake, *arguments: str) -> tuple[dict[str, Any], str]:
        return tspace(lake, "train-in-twin", "--vehicle", VEHICLE, *FEW, *arguments)

    @pytest.mark.usefixtures("fresh_settings")
    def test_it_leaves_a_checkpoint_that_can_be_released_and_learned_on(self, lake: Lake) -> None:
        found, told = self.train(lake)
        vehicle, trained = load_vehicle(VEHICLE), latest_agent(lake, VEHICLE)
        assert (trained.run, trained.step) == (found["run"], 4 * 40)
        assert found["checkpoint"] == str(trained.checkpoint) == str(latest_checkpoint(lake, VEHICLE))
        assert found["chosen"] in {result["name"] for result in found["gate"]}
        assert "100 % driven" in told
        agent = DDPG.load(trained.checkpoint, mode="train")
        assert agent.updates == trained.summary.updates > 0
        assert agent.made_for is not None
        assert agent.made_for.reward_kind == "loss"
        require_vehicle(agent.made_for, vehicle, trained.checkpoint)
        assert release_agent(lake, vehicle, trained.checkpoint, by="test").checkpoint.is_dir()
        left = [path.suffix for path in Path(lake.local).glob("twin_training/*")]
        assert left == [".lock"], "nothing of the work is left"
        told_in_report = training_section(trained).replay
        assert re.fullmatch(r"4 episodes driven in \S+TorqueMap-v0", told_in_report), told_in_report

        again, _ = self.train(lake)
        assert (again["run"], again["before"]) == (found["run"], True)
        other, _ = self.train(lake, "--seed", "1")
        assert other["run"] != found["run"]
        assert latest_agent(lake, VEHICLE).run == other["run"]

    @pytest.mark.slow
    @pytest.mark.usefixtures("on_ray")
    def test_a_cluster_drives_the_same_agent(
        self, lake: Lake, tmp_path: Path, fresh_settings: pytest.MonkeyPatch
    ) -> None:
        shared, _ = self.train(lake)
        fresh_settings.setenv("TSPACE_ENGINE__KIND", "local")
        settings.cache_clear()
        alone, _ = self.train(Lake(tmp_path / "other"))
        assert (shared["run"], shared["gate"]) == (alone["run"], alone["gate"])
        ours, theirs = (DDPG.load(Path(found["checkpoint"]), mode="train") for found in (shared, alone))
        for name, component in ours.tensors().items():
            for key, tensor in component.items():
                assert tensor.equal(theirs.tensors()[name][key]), f"{name}.{key}"
