"""What a training run leaves in MLflow, read back from there."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from tests.agents.batches import SMALL
from tests.agents.test_training import noisy_episode
from tests.storage.replay_episodes import STATE_DIM
from tspace_core.agents import DDPG, CheckpointStore
from tspace_core.agents.pictures import map_change_figure, typical_states
from tspace_core.agents.returns import episode_returns, running_reward
from tspace_core.agents.tracking import Tracker
from tspace_core.agents.tracking_client import client_of
from tspace_core.agents.tracking_send import send_waiting
from tspace_core.agents.training import train_offline
from tspace_core.config import settings
from tspace_core.errors import AgentError
from tspace_core.storage.replay import Replay, build_replay


@pytest.fixture
def replay(tmp_path: Path) -> Replay:
    return build_replay(tmp_path / "replay" / "small", [noisy_episode(1, 60), noisy_episode(2, 40)])


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One store a module: making MLflow's tables takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'new' / 'mlflow.db'}"


@pytest.fixture(autouse=True)
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What waits to be sent lies in a folder of this test."""
    folder = tmp_path / "spool"
    monkeypatch.setattr("tspace_core.agents.tracking.spool_folder", lambda: folder)
    return folder


def test_a_run_can_be_read_back(replay: Replay, tmp_path: Path, uri: str) -> None:
    import mlflow

    store = CheckpointStore(tmp_path / "c", every=10)
    agent = DDPG(SMALL, STATE_DIM, 68, seed=4)
    tracker = Tracker(
        uri, experiment="read-back", artifacts=tmp_path / "art", tags={"driver": "d1"}, run_name="r"
    )
    summary = train_offline(agent, replay, updates=30, tracker=tracker, checkpoints=store, report_every=10)
    client = mlflow.MlflowClient(tracking_uri=uri)
    assert summary.run_id is not None
    run = client.get_run(summary.run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "r"
    assert run.data.params["actor_hidden"] == "[24, 16]"
    assert (run.data.params["gamma"], run.data.params["seed"], run.data.params["updates"]) == (
        "0.99",
        "4",
        "30",
    )
    for name, value in {
        "agent": "ddpg",
        "vehicle": "v1",
        "replay": "small",
        "replay_version": "000001",
        "replay_sha256": replay.manifest.content_sha256,
        "driver": "d1",
    }.items():
        assert run.data.tags[name] == value
    for name in ("critic_loss", "actor_loss", "mean_q", "reward", "saturated"):
        history = client.get_metric_history(summary.run_id, name)
        assert [(point.step, point.value) for point in history] == [
            (point.update, pytest.approx(getattr(point, name))) for point in summary.series
        ]
    returns = episode_returns(replay)
    for name, values in (("episode_return", returns), ("running_reward", running_reward(returns))):
        history = client.get_metric_history(summary.run_id, name)
        assert [(point.step, point.value) for point in history] == [
            (number, pytest.approx(value)) for number, value in enumerate(values.tolist(), start=1)
        ]
    assert [item.path for item in client.list_artifacts(summary.run_id)] == ["map_change.png"]
    assert len(list((tmp_path / "art").rglob("map_change.png"))) == 1

    further = train_offline(
        DDPG(SMALL, STATE_DIM, 68, seed=4),
        replay,
        updates=50,
        tracker=Tracker(uri, experiment="read-back"),
        checkpoints=store,
        report_every=10,
        resume=True,
    )
    assert further.run_id == summary.run_id
    train_offline(
        DDPG(SMALL, STATE_DIM, 68, seed=4),
        replay,
        updates=50,
        tracker=Tracker(uri, experiment="read-back"),
        checkpoints=store,
        resume=True,
    )
    speeds = client.get_metric_history(summary.run_id, "updates_per_s")
    assert [point.step for point in speeds] == [30, 50]  # a finished run has no speed
    history = client.get_metric_history(summary.run_id, "critic_loss")
    assert [point.step for point in history] == [10, 20, 30, 40, 50]
    assert len(client.get_metric_history(summary.run_id, "episode_return")) == 2  # told once a run


def test_a_failed_run_is_marked(replay: Replay, tmp_path: Path, uri: str) -> None:
    import mlflow

    agent = DDPG(SMALL, STATE_DIM, 68)
    agent.target_critic.output.bias.data.fill_(float("inf"))
    with pytest.raises(AgentError, match="stopped at update 1"):
        train_offline(agent, replay, updates=3, tracker=Tracker(uri, experiment="failing"))
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("failing")
    assert experiment is not None
    assert [run.info.status for run in client.search_runs([experiment.experiment_id])] == ["FAILED"]


def test_metrics_go_out_in_batches_and_none_is_lost(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.setattr("tspace_core.agents.tracking.LONGEST_WAIT_S", float("inf"))
    tracker = Tracker(uri, experiment="many")
    run = tracker.start({}, {})
    client = mlflow.MlflowClient(tracking_uri=uri)
    for step in range(1300):
        tracker.metrics(step, {"a": step / 7})
        if step == 100:
            assert client.get_metric_history(run, "a") == []
    tracker.finish()
    history = client.get_metric_history(run, "a")
    assert sorted((point.step, point.value) for point in history) == [(k, k / 7) for k in range(1300)]


def test_a_run_can_be_watched_while_it_goes_on(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.setattr("tspace_core.agents.tracking.LONGEST_WAIT_S", float("inf"))
    tracker = Tracker(uri, experiment="watched")
    run = tracker.start({}, {})
    client = mlflow.MlflowClient(tracking_uri=uri)
    tracker.metrics(1, {"a": 1.0})
    assert client.get_metric_history(run, "a") == []
    monkeypatch.setattr("tspace_core.agents.tracking.LONGEST_WAIT_S", 0.0)
    tracker.metrics(2, {"a": 2.0})
    assert [point.step for point in client.get_metric_history(run, "a")] == [1, 2]
    tracker.finish()


def test_a_tracker_does_one_run_at_a_time(uri: str) -> None:
    tracker = Tracker(uri, experiment="one")
    with pytest.raises(AgentError, match="call start first"):
        tracker.finish()
    tracker.start({}, {})
    with pytest.raises(AgentError, match="finish it first"):
        tracker.start({}, {})
    tracker.finish("KILLED")


def test_a_run_that_is_gone_is_followed_by_a_new_one(uri: str, caplog: pytest.LogCaptureFixture) -> None:
    import mlflow

    tracker = Tracker(uri, experiment="gone")
    run = tracker.start({}, {}, resume="0" * 32)
    tracker.finish()
    assert run != "0" * 32
    assert mlflow.MlflowClient(tracking_uri=uri).get_run(run).data.tags["resumes"] == "0" * 32
    assert "tracking goes on in a new run" in caplog.text


class FullDisk:
    """A file that takes nothing any more."""

    def write(self, content: bytes) -> int:
        message = "no space left on device"
        raise OSError(message)

    def close(self) -> None:
        pass


def test_a_run_whose_end_cannot_be_written_is_ended_later(
    uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = Tracker(uri, experiment="full", spool=tmp_path / "spool")
    run_id = tracker.start({}, {})
    tracker.metrics(1, {"loss": 1.0})
    writer = tracker._running()
    writer._file.close()
    writer._file = FullDisk()  # type: ignore[assignment]
    tracker.metrics(2, {"loss": 2.0})
    tracker.finish()
    assert "what is tracked waits in memory" in caplog.text
    assert "the last 2 lines could not be written" in caplog.text
    assert send_waiting(tracker.spool).sent == [run_id]
    assert tracker.spool.runs() == []
    assert client_of(uri).get_run(run_id).info.status == "KILLED", "it is not shown as going on for ever"


def test_the_default_store_lies_in_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TSPACE_DATA_DIR", str(tmp_path / "lake"))
    settings.cache_clear()
    try:
        tracker = Tracker(experiment="default")
        tracker.start({"a": 1}, {})
        figure = Figure()
        figure.add_subplot().plot([0, 1])
        tracker.figure(figure, "line.png")
        tracker.finish()
    finally:
        settings.cache_clear()
    assert (tmp_path / "lake" / "mlflow.db").is_file()
    assert len(list((tmp_path / "lake" / "mlartifacts").rglob("line.png"))) == 1


def test_typical_states_span_the_flashed_rows(replay: Replay) -> None:
    states, rows = typical_states(replay)
    assert states.shape == (6, STATE_DIM)
    assert rows.tolist() == sorted(rows.tolist())
    assert set(rows.tolist()) == {0, 1, 2}


def test_the_picture_shows_the_policys_change_in_nm(replay: Replay) -> None:
    action = np.linspace(-1, 1, 68, dtype=np.float32)
    figure = map_change_figure(lambda states: np.tile(action, (len(states), 1)), replay)
    images = [axis.get_images()[0] for axis in figure.axes if axis.get_images()]
    assert len(images) == 6
    np.testing.assert_allclose(np.asarray(images[0].get_array()), action.reshape(4, 17) * 250.0)
