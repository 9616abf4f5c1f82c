"""From evaluation to release through Dagster: only a good agent drives, and one command goes back."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner, Result

from tests.pipelines.conftest import VEHICLE, Pipeline, error_text, materialized
from tspace_core.agents import DDPG
from tspace_core.agents.offline_run import latest_agent, train_agent
from tspace_core.agents.registry import ModelRegistry, follow_champion, model_name
from tspace_core.cli import app
from tspace_core.config import load_hyperparameters, load_vehicle, settings
from tspace_core.config.hyperparameters import IDQLHyperparameters
from tspace_core.errors import CheckpointError, ReleaseError, TrackingError
from tspace_core.objects.path import AnyPath
from tspace_core.online.agent_choice import ReleaseWatch, choose
from tspace_core.storage import episodes_table
from tspace_core.storage.champion import champion, read_releases
from tspace_core.storage.files import write_text
from tspace_core.storage.ingest import ingest_log
from tspace_core.storage.lake import Lake
from tspace_core.storage.replay import build_replay
from tspace_pipelines.evaluation_run import usable_agents
from tspace_pipelines.release_run import release_best

CONFIG = {"ops": {"policy_evaluation": {"config": {"seeds": [0], "cycle": "us06", "static_generations": 0}}}}
"""Three drivers with one seed each on the shortest route."""


@pytest.fixture
def learned(
    lake: Lake, drive: Path, tracking_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Lake:
    """A lake with an agent, and a bar that asks for one seed instead of five."""
    conf = tmp_path / "conf"
    shutil.copytree(settings().conf_dir, conf)
    bar = conf / "release_bar.yaml"
    bar.write_text(yaml.safe_dump({**yaml.safe_load(bar.read_text()), "seeds": 1}))
    monkeypatch.setenv("TSPACE_CONF_DIR", str(conf))
    settings.cache_clear()
    ingest_log(lake, drive, load_vehicle(VEHICLE))
    build_replay(lake.replay(VEHICLE), map(episodes_table.read, lake.episodes()))
    train_agent(
        lake, VEHICLE, updates=2, hyper=load_hyperparameters("ddpg").model_copy(update={"batch_size": 4})
    )
    shutil.copyfile(tracking_store, lake.local / "mlflow.db")
    return lake


def plant(lake: Lake, columns: int) -> AnyPath:
    """Make an agent the latest one that asks for the whole budget less at so many low pedals, and no more."""
    trained = latest_agent(lake, VEHICLE)
    agent = DDPG.load(trained.checkpoint, mode="train")
    wanted = np.zeros((4, 17), np.float32)
    wanted[:, :columns] = -0.999
    codes = np.clip(agent.basis.project(wanted.reshape(1, -1))[0], -0.999, 0.999)
    output = agent.actor.output
    output.weight.data.zero_()
    for place, code in enumerate(np.arctanh(codes).tolist()):
        output.bias.data[place] = code
    path = trained.folder / f"{trained.step + 1:08d}"
    agent.save(path, step=trained.step + 1)
    pointer = lake.checkpoints("ddpg", f"{VEHICLE}.json")
    write_text(pointer, json.dumps({**json.loads(pointer.read_text()), "step": trained.step + 1}))
    return path


def tspace(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["release", "--vehicle", VEHICLE, *arguments])


def registry(lake: Lake) -> ModelRegistry:
    return ModelRegistry(f"sqlite:///{lake.local / 'mlflow.db'}")


def tags(lake: Lake) -> dict[str, dict[str, str]]:
    """Tags of the registered versions, by version."""
    versions = registry(lake)._client.search_model_versions(f"name='{model_name(VEHICLE)}'")
    return {str(version.version): dict(version.tags) for version in versions}


def test_only_a_good_agent_drives_and_one_command_goes_back(pipeline: Pipeline, learned: Lake) -> None:
    vehicle = load_vehicle(VEHICLE)
    watch = ReleaseWatch(learned, VEHICLE, None)
    good = plant(learned, 7)
    result = pipeline.run(["policy_evaluation", "policy_release"], VEHICLE, CONFIG)
    assert result.success, error_text(result)
    assert materialized(result) == ["policy_evaluation", "policy_release"]
    shown = pipeline.metadata("policy_evaluation", VEHICLE)
    assert shown["clears_release_bar"] is True
    assert shown["guard_violations"] == 0
    assert shown["subject"] == "ddpg"
    assert 0.1 < shown["saving_percent"] < 1.5

    first = champion(learned, VEHICLE)
    assert first is not None
    assert first.source == str(good).removeprefix(f"{learned.root}/")
    assert first.grounds is not None
    assert first.grounds.figures["saving_low_percent"] > 0
    released = pipeline.metadata("policy_release", VEHICLE)
    assert (released["content"], released["version"]) == (first.sha256, "1")
    alias = registry(learned).champion(VEHICLE)
    assert alias is not None
    assert (alias.version, alias.sha256) == ("1", first.sha256)
    assert alias.source == Path(str(first.checkpoint)).as_uri()
    told = tags(learned)["1"]
    assert (told["state"], told["agent"], told["run"], told["step"]) == (
        "champion",
        "ddpg",
        first.run,
        str(first.step),
    )
    assert float(told["evaluation.saving_percent"]) == pytest.approx(shown["saving_percent"], abs=0.2)

    doctor = CliRunner().invoke(app, ["doctor", "--data-dir", str(learned.root)])
    assert "evaluations" not in doctor.output, doctor.output

    # The online loop takes it: at the next begin of a run, and in a run at its next episode.
    assert choose(learned, vehicle, infer=True).checkpoint == first.checkpoint
    watch.look()
    newer = watch.newer(0.0)
    assert newer is not None
    assert newer.champion.sha256 == first.sha256

    # An agent that changes nothing saves nothing: the check stops it, and everything stays.
    bad = plant(learned, 0)
    result = pipeline.run(["policy_evaluation", "policy_release"], VEHICLE, CONFIG)
    assert not result.success
    assert materialized(result) == ["policy_evaluation"]
    assert pipeline.metadata("policy_evaluation", VEHICLE)["clears_release_bar"] is False
    # Asked for by itself, without the check in front, the release refuses just the same.
    alone = pipeline.run(["policy_release"], VEHICLE)
    assert not alone.success
    assert "below the release bar: lower bound of the saving" in error_text(alone)
    assert champion(learned, VEHICLE) == first

    # By hand, too; only a stated reason goes past the bar, and it is kept.
    refused = tspace()
    assert refused.exit_code != 0
    assert "below the release bar" in str(refused.exception)
    forced = tspace(str(bad), "--without-evaluation", "a drive on the proving ground", "--by", "me")
    assert forced.exit_code == 0, forced.output
    second = champion(learned, VEHICLE)
    assert second is not None
    assert second.sha256 != first.sha256
    alias = registry(learned).champion(VEHICLE)
    assert alias is not None
    assert (alias.version, alias.sha256) == ("2", second.sha256)
    assert tags(learned)["2"]["without_evaluation"] == "a drive on the proving ground"
    assert tags(learned)["1"]["state"] == "before"

    back = tspace("--rollback", "--by", "you")
    assert back.exit_code == 0, back.output
    assert champion(learned, VEHICLE) == first
    alias = registry(learned).champion(VEHICLE)
    assert alias is not None
    assert (alias.version, alias.sha256) == ("1", first.sha256)
    assert tags(learned)["1"]["state"] == "champion"
    assert (tags(learned)["2"]["state"], tags(learned)["2"]["withdrawn_by"]) == ("withdrawn", "you")
    shown_all = tspace("--show").output
    assert "champion is version 1" in shown_all
    assert "without evaluation: a drive on the proving ground" in shown_all


class TestWithoutEvaluation:
    """Releases by hand and what stops them."""

    REASON = ("--without-evaluation", "a trial")

    def test_what_was_never_driven_is_refused(self, learned: Lake, pipeline: Pipeline) -> None:
        refused = tspace()
        assert "was not evaluated for twin_truck: materialize policy_evaluation" in str(refused.exception)
        result = pipeline.run(["policy_release"], VEHICLE)
        assert "no agent of twin_truck was driven in a twin" in error_text(result)
        assert champion(learned, VEHICLE) is None
        assert "must say something" in str(tspace("--without-evaluation", " ").exception)

    def test_mlflow_out_of_reach_holds_up_no_release_and_no_rollback(self, learned: Lake) -> None:
        """The lake is the truth; what MLflow missed it is told by the next call."""
        dead = ("--tracking-uri", "http://127.0.0.1:9")
        paths = [plant(learned, columns) for columns in (3, 4)]
        for path in paths:
            told = tspace(str(path), *self.REASON, *dead)
            assert told.exit_code == 1
            assert "what is released holds, but MLflow does not know it yet" in told.output
        with pytest.raises(TrackingError, match="tspace release --sync"):
            follow_champion(learned, VEHICLE, uri="http://127.0.0.1:9")
        assert "registry: not known" in tspace("--show", *dead).output
        assert tspace("--rollback", *dead).exit_code == 1
        present = champion(learned, VEHICLE)
        assert present is not None
        assert present.step == int(paths[0].name)
        assert "names no champion; bring it in step with --sync" in tspace("--show").output
        for _ in range(2):  # the second time there is nothing to tell
            assert tspace("--sync").exit_code == 0
            assert {version: told["state"] for version, told in tags(learned).items()} == {
                "1": "champion",
                "2": "withdrawn",
            }
        alias = registry(learned).champion(VEHICLE)
        assert alias is not None
        assert alias.sha256 == present.sha256

    def test_a_damaged_checkpoint_changes_nothing(self, learned: Lake) -> None:
        good, bad = plant(learned, 3), plant(learned, 4)
        assert tspace(str(good), *self.REASON).exit_code == 0
        (bad / "actor.safetensors").write_bytes(b"cut off")
        refused = tspace(str(bad), *self.REASON)
        assert isinstance(refused.exception, CheckpointError)
        assert "cut off or changed" in str(refused.exception)
        found, alias = champion(learned, VEHICLE), registry(learned).champion(VEHICLE)
        assert found is not None and alias is not None
        assert (found.step, alias.sha256, len(tags(learned))) == (int(good.name), found.sha256, 1)

    def test_an_agent_of_another_type_of_vehicle_is_refused(self, learned: Lake, pipeline: Pipeline) -> None:
        path = plant(learned, 3)
        manifest = json.loads((path / "manifest.json").read_text())
        manifest["made_for"]["signals"] = ["velocity", "brake", "thrust"]
        write_text(path / "manifest.json", json.dumps(manifest))
        refused = tspace(str(path), *self.REASON)
        assert "was made for another type of vehicle" in str(refused.exception)
        result = pipeline.run(["policy_evaluation"], VEHICLE, CONFIG)
        said = error_text(result)
        assert "no agent of twin_truck can be evaluated. ddpg: " in said
        assert "was made for another type of vehicle" in said
        assert read_releases(learned, VEHICLE).champion is None


def small_idql(lake: Lake) -> AnyPath:
    """The checkpoint of an agent of another kind, trained for the vehicle."""
    small = IDQLHyperparameters(value_hidden=(8,), actor_width=8, actor_blocks=1, samples=2, batch_size=4)
    return train_agent(lake, VEHICLE, agent="idql", updates=1, hyper=small).checkpoint


def test_an_agent_that_cannot_be_loaded_is_left_out_and_never_released(
    pipeline: Pipeline, learned: Lake
) -> None:
    plant(learned, 7)
    path = Path(str(small_idql(learned)))
    actor = path / "target_actor.safetensors"
    actor.write_bytes(actor.read_bytes()[:-9])
    result = pipeline.run(["policy_evaluation", "policy_release"], VEHICLE, CONFIG)
    assert result.success, error_text(result)
    shown = pipeline.metadata("policy_evaluation", VEHICLE)
    assert "| ddpg |" in shown["candidates"] and "| idql |" not in shown["candidates"]
    assert "cut off or changed" in shown["left_out"]["idql"]
    assert shown["left_out"]["idql"].endswith("Train it anew: materialize idql_checkpoint")
    released = champion(learned, VEHICLE)
    assert released is not None and released.agent == "ddpg"
    with pytest.raises(ReleaseError, match="has no idql agent, only ddpg"):
        release_best(learned, load_vehicle(VEHICLE), agent="idql", by="me")
    refused = tspace(str(path))
    assert "was not evaluated for twin_truck" in str(refused.exception)
    assert champion(learned, VEHICLE) == released


@pytest.mark.parametrize("how", ["gone", "of another type", "named by a damaged file"])
def test_what_one_agent_lacks_costs_only_itself(how: str, learned: Lake) -> None:
    path, told = Path(str(small_idql(learned))), list[str]()
    if how == "gone":
        shutil.rmtree(path)
        says = "is gone"
    elif how == "of another type":
        manifest = json.loads((path / "manifest.json").read_text())
        manifest["made_for"]["signals"] = ["velocity", "brake", "thrust"]
        write_text(path / "manifest.json", json.dumps(manifest))
        says = "was made for another type of vehicle"
    else:
        write_text(learned.checkpoints("idql", f"{VEHICLE}.json"), "{")
        says = f"{VEHICLE}.json"
    found = usable_agents(learned, load_vehicle(VEHICLE), told.append)
    assert list(found.agents) == ["ddpg"] and list(found.left_out) == ["idql"]
    assert says in found.left_out["idql"]
    assert told == [f"the idql agent is left out: {found.left_out['idql']}"]
