"""Training with a tracking server that is away, dies, hangs and comes back: nothing is lost or sent twice."""

import json
import multiprocessing
import signal
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from matplotlib.figure import Figure

from tests.agents.batches import SMALL
from tests.agents.mlflow_server import Line, MlflowServer, mlflow_server
from tests.agents.test_training import noisy_episode
from tests.storage.replay_episodes import STATE_DIM
from tspace_core.agents import DDPG, CheckpointStore
from tspace_core.agents.tracking import Tracker
from tspace_core.agents.tracking_send import patience, send_waiting
from tspace_core.agents.tracking_spool import EVENTS, LOCAL, REFUSED, Spool
from tspace_core.agents.training import SeriesPoint, train_offline
from tspace_core.storage.replay import Replay, build_replay

if TYPE_CHECKING:
    from mlflow import MlflowClient


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    with mlflow_server(tmp_path_factory.mktemp("server")) as found:
        yield found


@pytest.fixture
def line(server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    """A line to the server, with nothing that waits between tries."""
    found = Line(server.port)
    found.waits = lambda seconds: monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", str(seconds))
    found.waits(60)
    monkeypatch.setattr("tspace_core.agents.tracking.LONGEST_WAIT_S", 0.0)
    monkeypatch.setattr("tspace_core.agents.tracking_send.SHARE", float("inf"))
    yield found
    found.down()


@pytest.fixture
def client(server: MlflowServer) -> "MlflowClient":
    from tspace_core.agents.tracking_client import client_of

    return client_of(server.uri)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool")


@pytest.fixture
def replay(tmp_path: Path) -> Replay:
    return build_replay(tmp_path / "replay" / "small", [noisy_episode(1, 60), noisy_episode(2, 40)])


def picture() -> Figure:
    figure = Figure()
    figure.add_subplot().plot([0, 1])
    return figure


def runs(client: "MlflowClient", name: str) -> list[str]:
    """Ids of all runs of an experiment."""
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        return []
    return [run.info.run_id for run in client.search_runs([experiment.experiment_id])]


def history(client: "MlflowClient", run: str, name: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client.get_metric_history(run, name)]


@pytest.mark.parametrize("how", ["down", "silent"])
@pytest.mark.parametrize("when", ["start", "middle", "end"])
def test_a_server_that_is_away_gets_everything_once(
    how: str,
    when: str,
    line: Line,
    client: "MlflowClient",
    spool: Spool,
    replay: Replay,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    name = f"away-{how}-{when}"
    away = {"start": 0, "middle": 20, "end": 30}[when]

    def progress(done: int, of: int, point: SeriesPoint) -> None:
        if done == away:
            getattr(line, how)()

    if when == "start":
        getattr(line, how)()
    tracker = Tracker(line.uri, experiment=name, spool=spool.folder, run_name="r")
    summary = train_offline(
        DDPG(SMALL, STATE_DIM, 68),
        replay,
        updates=30,
        tracker=tracker,
        progress=progress,
        report_every=10,
        checkpoints=CheckpointStore(tmp_path / "c", every=10),
    )
    assert summary.updates == 30 and summary.run_id is not None
    assert summary.run_id.startswith(LOCAL) == (when == "start")
    assert caplog.text.count("training goes on, what it tells is kept") == 1, "said once"
    assert len(spool.runs()) == 1
    line.up()
    sent = send_waiting(spool)
    assert runs(client, name) == sent.sent and len(sent.sent) == 1 and spool.runs() == []
    run = client.get_run(sent.sent[0])
    assert run.info.status == "FINISHED" and run.info.run_name == "r" and run.data.params["updates"] == "30"
    for metric in ("critic_loss", "mean_q"):
        told = history(client, run.info.run_id, metric)
        assert [step for step, _ in told] == [10, 20, 30]
        assert [value for _, value in told] == pytest.approx([getattr(p, metric) for p in summary.series])
    assert [item.path for item in client.list_artifacts(run.info.run_id)] == ["map_change.png"]
    assert send_waiting(spool).sent == [], "nothing is left"


def test_answers_that_are_lost_make_no_second_run(line: Line, client: "MlflowClient", spool: Spool) -> None:
    """Sent again from the beginning, as if no answer had been heard: the same run, each metric once."""
    tracker = Tracker(line.uri, experiment="lost", spool=spool.folder)
    first = tracker.start({"a": 1}, {})
    tracker.metrics(1, {"x": 0.5, "y": 2.0})
    tracker.metrics(2, {"x": 0.25})
    line.down()
    tracker.finish()
    (run,) = spool.runs()
    (run.folder / "state.json").write_text('{"attempted": true}')
    line.up()
    assert send_waiting(spool).sent == [first] == runs(client, "lost")
    assert history(client, first, "x") == [(1, 0.5), (2, 0.25)] and history(client, first, "y") == [(1, 2.0)]


def test_the_next_run_sends_what_waits(line: Line, client: "MlflowClient", spool: Spool) -> None:
    line.down()
    waiting = Tracker(line.uri, experiment="next", spool=spool.folder, run_name="first")
    waiting.start({}, {})
    waiting.metrics(1, {"x": 1.0})
    waiting.finish()
    line.up()
    following = Tracker(line.uri, experiment="next", spool=spool.folder, run_name="second")
    following.start({}, {})
    assert [run.key for run in spool.runs()] == [following._running().run.key]
    following.finish()
    assert len(runs(client, "next")) == 2 and spool.runs() == []


def test_a_run_without_an_id_goes_on_after_it_was_sent(
    line: Line, client: "MlflowClient", spool: Spool
) -> None:
    line.down()
    tracker = Tracker(line.uri, experiment="on", spool=spool.folder)
    local = tracker.start({"updates": 10}, {})
    tracker.metrics(1, {"x": 1.0})
    tracker.finish("KILLED")
    line.up()
    (sent,) = send_waiting(spool).sent
    again = Tracker(line.uri, experiment="on", spool=spool.folder)
    assert again.start({"updates": 20}, {}, resume=local) == sent
    again.metrics(2, {"x": 2.0})
    again.finish()
    assert runs(client, "on") == [sent] and history(client, sent, "x") == [(1, 1.0), (2, 2.0)]
    assert client.get_run(sent).info.status == "FINISHED"


def test_two_sessions_of_a_run_are_sent_in_their_order(
    line: Line, client: "MlflowClient", spool: Spool
) -> None:
    tracker = Tracker(line.uri, experiment="order", spool=spool.folder)
    run = tracker.start({}, {})
    line.down()
    tracker.metrics(1, {"x": 1.0})
    tracker.finish("FAILED")
    again = Tracker(line.uri, experiment="order", spool=spool.folder)
    assert again.start({}, {}, resume=run) == run, "known, though nobody answers"
    again.metrics(2, {"x": 2.0})
    again.finish("FINISHED")
    assert len(spool.runs()) == 1
    line.up()
    assert send_waiting(spool).sent == [run]
    assert client.get_run(run).info.status == "FINISHED" and len(history(client, run, "x")) == 2


def test_a_run_that_was_deleted_is_sent_whole_to_a_new_one(
    line: Line, client: "MlflowClient", spool: Spool
) -> None:
    tracker = Tracker(line.uri, experiment="deleted", spool=spool.folder)
    old = tracker.start({}, {})
    tracker.metrics(1, {"x": 1.0})
    client.delete_run(old)
    tracker.metrics(2, {"x": 2.0})
    tracker.finish()
    (new,) = runs(client, "deleted")
    assert new != old and client.get_run(new).data.tags["resumes"] == old
    assert history(client, new, "x") == [(1, 1.0), (2, 2.0)] and spool.runs() == []


def test_what_the_server_refuses_holds_nothing_up(line: Line, client: "MlflowClient", spool: Spool) -> None:
    tracker = Tracker(line.uri, experiment="refused", spool=spool.folder)
    run = tracker.start({}, {})
    line.down()
    tracker.metrics(1, {"x": 1.0})
    tracker.metrics(2, {"x" * 300: 2.0})
    tracker.metrics(3, {"x": 3.0})
    tracker.finish()
    line.up()
    found = send_waiting(spool)
    assert history(client, run, "x") == [(1, 1.0), (3, 3.0)] and client.get_run(run).info.status == "FINISHED"
    (kept,) = spool.runs()
    assert "refused.jsonl" in found.kept[kept.key]
    (refused,) = (kept.folder / REFUSED).read_text().splitlines()
    assert json.loads(refused)["metrics"][0][3] == 2


def test_a_server_that_hangs_costs_a_small_share_of_the_time(
    line: Line, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    line.silent()
    monkeypatch.setattr("tspace_core.agents.tracking_send.SHARE", 1e-3)
    tracker = Tracker(line.uri, experiment="hangs", spool=spool.folder)
    tracker.start({}, {})
    for step in range(200):
        tracker.metrics(step, {"x": 1.0})
    tracker.finish()
    assert patience(line.uri).failures == 1, "asked once: the next time is a thousand time-outs away"
    assert sum(1 for _ in spool.runs()[0].events()) == 202


def _train_until_told(uri: str, folder: str, told: Connection) -> None:
    tracker = Tracker(uri, experiment="killed", spool=Path(folder))
    tracker.start({}, {})
    for step in range(3):
        tracker.metrics(step, {"x": float(step)})
    told.send("written")
    signal.pause()


def test_a_killed_process_leaves_what_it_told(line: Line, client: "MlflowClient", spool: Spool) -> None:
    line.down()
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_train_until_told, args=(line.uri, str(spool.folder), theirs))
    process.start()
    assert ours.poll(120) and ours.recv() == "written"
    assert send_waiting(spool).kept, "it is going on"
    process.kill()
    process.join()
    (run,) = spool.runs()
    with (run.folder / EVENTS).open("ab") as file:
        file.write(b'{"event": "metrics", "metr')  # torn in the middle of a line
    line.up()
    (sent,) = send_waiting(spool).sent
    assert history(client, sent, "x") == [(0, 0.0), (1, 1.0), (2, 2.0)]
    assert client.get_run(sent).info.status == "KILLED"


def test_a_child_finds_its_parent_though_both_waited(
    line: Line, client: "MlflowClient", spool: Spool
) -> None:
    line.down()
    parent = Tracker(line.uri, experiment="family", spool=spool.folder, run_name="parent")
    above = parent.start({}, {})
    child = Tracker(line.uri, experiment="family", spool=spool.folder, run_name="child", parent=above)
    child.start({}, {})
    child.finish()
    parent.finish()
    line.up()
    first, second = send_waiting(spool).sent
    assert client.get_run(second).data.tags["mlflow.parentRunId"] == first
    assert client.get_run(first).info.run_name == "parent"


def test_a_run_is_sent_by_one_at_a_time(line: Line, spool: Spool) -> None:
    line.down()
    tracker = Tracker(line.uri, experiment="one", spool=spool.folder)
    tracker.start({}, {})
    tracker.finish()
    line.up()
    (run,) = spool.runs()
    with run.locked("send") as mine:
        assert mine
        found = send_waiting(spool)
    assert found.sent == [] and "another process" in found.kept[run.key]
    assert len(send_waiting(spool).sent) == 1


@pytest.mark.slow
def test_the_server_itself_dies_and_is_started_again(tmp_path: Path, spool: Spool, replay: Replay) -> None:
    from tspace_core.agents.tracking_client import client_of

    (tmp_path / "server").mkdir()
    with mlflow_server(tmp_path / "server") as server:

        def progress(done: int, of: int, point: SeriesPoint) -> None:
            if done == 20:
                server.stop()

        tracker = Tracker(server.uri, experiment="dies", spool=spool.folder)
        began = time.monotonic()
        summary = train_offline(
            DDPG(SMALL, STATE_DIM, 68),
            replay,
            updates=40,
            tracker=tracker,
            progress=progress,
            report_every=10,
        )
        assert time.monotonic() - began < 60
        server.start()
        assert send_waiting(spool).sent == [summary.run_id]
        assert [step for step, _ in history(client_of(server.uri), str(summary.run_id), "mean_q")] == [
            10,
            20,
            30,
            40,
        ]
