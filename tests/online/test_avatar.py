"""A vehicle's whole run on a scripted vehicle: what is stored, told, kept and gone on from."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.agents.batches import SMALL
from tests.online.avatars import NotingTracker, Run
from tests.online.builders import small_vehicle
from tests.online.fake_car import applied, begun, episode, windows
from tspace_core.agents import DDPG, load_agent
from tspace_core.config import TorqueMap
from tspace_core.errors import BusError, OnlineError, StorageError
from tspace_core.objects.path import local_copy
from tspace_core.online.avatar import AvatarOptions
from tspace_core.online.heartbeat import read_heartbeat
from tspace_core.online.results import EpisodeResult
from tspace_core.online.run_state import RunStateFile
from tspace_core.storage import episodes_table
from tspace_core.storage.champion import release
from tspace_core.storage.lake import Lake
from tspace_core.storage.replay import build_replay
from tspace_core.supervision import Supervisor
from tspace_core.vehicle.interface import FlashOutcomeView, RowsProposal
from tspace_core.vehicle.states import Event
from tspace_core.vehicle.stream import RunEnded, StreamItem

TRUCK = small_vehicle()


def drives(*valid: bool, windows: int = 9) -> list[StreamItem]:
    return [
        item for number, good in enumerate(valid, 1) for item in episode(TRUCK, number, windows, valid=good)
    ]


def test_episodes_are_learned_from_stored_tracked_and_told(tmp_path: Path) -> None:
    run = Run(tmp_path, drives(True, False, True))
    summary = run.avatar.run()
    assert (summary.episodes, summary.discarded, summary.records) == (2, 1, 8)
    assert (summary.cause, summary.failed) == ("script over", False)
    assert [result.number for result in run.results] == [1, 3]
    adds = [("add", record) for result in run.results for record in _rewards(result)]
    assert [call for call in run.learner.calls if call[0] == "end"] == [
        ("end", 1, True), ("end", 2, False), ("end", 3, True)
    ]  # fmt: skip
    truthful = [call for call in run.learner.calls if call[0] == "add"]
    # The first record of episodes 2 and 3 stands on a resumed map: it is stored, but not learned from.
    assert truthful[:4] == adds[:4]
    assert truthful[-3:] == adds[-3:]
    assert run.learner.calls[0] == ("start",)
    assert run.learner.calls[-1] == ("stop",)
    assert summary.checkpoint == Path("last")
    assert set(run.tracker.told) == {1, 3}
    told = run.tracker.told[3]
    assert told["critic_loss"] == 1.5
    assert told["records"] == 4.0
    assert told["flashes_applied"] == 4.0
    assert told["episode_return"] == run.results[1].total_reward
    assert run.tracker.status == "FINISHED"
    assert run.tracker.tags["mode"] == "train"


def _rewards(result: EpisodeResult) -> list[float]:
    return [
        float(reward)
        for path in result.summary.paths
        for reward in episodes_table.read(path).rewards.tolist()
    ]


def test_what_is_stored_is_in_the_lake_with_training_log_and_map(tmp_path: Path) -> None:
    run = Run(tmp_path, drives(True))
    run.avatar.run()
    (result,) = run.results
    lake = Lake(tmp_path)
    assert lake.episodes() == result.summary.paths
    replay = build_replay(lake.replay("twin_truck"), map(episodes_table.read, lake.episodes()))
    assert len(replay) == 4
    log = json.loads(result.training_log.read_text())
    assert log["total_reward"] == result.total_reward
    assert log["running_reward"] == result.running_reward == result.total_reward
    assert log["learning"]["critic_loss"] == 1.5
    assert [step["flash"] for step in log["steps"]] == ["HELD", *(["APPLIED"] * 4)]
    assert log["steps"][1]["latency_ms"] > 0
    assert log["steps"][1]["reward"] == pytest.approx(_rewards(result)[1])
    assert log["steps"][1]["applied_norm"] <= 1.0
    live = TorqueMap.from_csv(local_copy(lake.last_live_map(lake.log_of(result.key))))
    assert live == run.car.live


def test_the_running_reward_goes_on_from_run_to_run(tmp_path: Path) -> None:
    values = []
    for _ in range(3):
        run = Run(tmp_path, drives(True))
        run.avatar.run()
        running = run.results[0].running_reward
        assert running is not None
        values.append((run.results[0].total_reward, running))
    assert values[0][1] == values[0][0]
    assert values[1][1] == pytest.approx(values[0][1] + 0.05 * (values[1][0] - values[0][1]))
    assert values[2][1] == pytest.approx(values[1][1] + 0.05 * (values[2][0] - values[1][1]))


def test_a_run_ends_after_the_wanted_number_of_stored_episodes(tmp_path: Path) -> None:
    options = AvatarOptions(episodes=2)
    run = Run(tmp_path, drives(True, False, True), options=options, hold=True)
    summary = run.avatar.run()
    assert summary.cause == "2 episodes done"
    assert (summary.episodes, summary.discarded, summary.failed) == (2, 1, False)


def test_inference_needs_a_checkpoint_and_learns_nothing(tmp_path: Path) -> None:
    with pytest.raises(OnlineError, match="no agent to drive twin_truck with"):
        Run(tmp_path, drives(True), options=AvatarOptions(infer=True)).avatar.run()
    agent = DDPG(SMALL, TRUCK.sampling.state_dim, 68, seed=3)
    agent.save(tmp_path / "trained")
    release(Lake(tmp_path), TRUCK, tmp_path / "trained", by="test", loads=load_agent)
    run = Run(tmp_path, drives(True), options=AvatarOptions(infer=True))
    summary = run.avatar.run()
    assert run.learners == []
    assert (summary.mode, summary.episodes) == ("infer", 1)
    default, table = TRUCK.default_map(), TRUCK.torque_map
    for proposal in run.car.proposals:
        first = proposal.first_row
        state = _state_of(run, run.car.proposals.index(proposal) + 1)
        wanted = default.flashed(
            agent.predict(state), first, default, budget_nm=table.budget_nm, upper_factor=table.upper_factor
        )
        assert np.allclose(proposal.rows, wanted.table[first : first + 4], rtol=0, atol=0.01)


def _state_of(run: Run, step: int) -> np.ndarray:
    state: np.ndarray = episodes_table.read(run.results[0].summary.paths[0]).states[step]
    return state


def test_observing_stores_zeros_needs_no_agent_and_leaves_the_live_map(tmp_path: Path) -> None:
    Run(tmp_path, drives(True)).avatar.run()
    before = RunStateFile(tmp_path / "online" / "twin_truck", TRUCK).load()
    script: list[StreamItem] = [begun(1, armed=False), *drives(True)[1:]]
    run = Run(tmp_path, script, options=AvatarOptions(observe=True))
    summary = run.avatar.run()
    assert (summary.mode, summary.episodes, summary.flashes) == ("observe", 1, {"HELD": 5})
    assert run.car.proposals == []
    assert not episodes_table.read(run.results[0].summary.paths[0]).actions.any()
    after = RunStateFile(tmp_path / "online" / "twin_truck", TRUCK).load()
    assert after.live_map == before.live_map
    assert (after.generation, after.episodes) == (2, 2)


def test_a_run_goes_on_where_the_one_before_stopped(tmp_path: Path) -> None:
    first = Run(tmp_path, drives(True, True))
    first.avatar.run()
    second = Run(tmp_path, drives(True))
    second.avatar.run()
    assert [result.number for result in first.results + second.results] == [1, 2, 3]
    assert second.car.resumed == [first.car.live]
    assert first.learner.spec.run == second.learner.spec.run
    third = Run(tmp_path, drives(True), options=AvatarOptions(resume=False))
    third.avatar.run()
    assert third.car.resumed == [None]


def test_field_failure_the_budget_drifts_with_each_resume(tmp_path: Path) -> None:
    """50 runs, each resumed: what is proposed stays within the budget of the default map, always."""
    default, budget = TRUCK.default_map(), np.float32(TRUCK.torque_map.budget_nm)
    for number in range(50):
        run = Run(tmp_path, drives(True, windows=5))
        run.avatar.run()
        assert run.results[0].number == number + 1
        for proposal in run.car.proposals:
            rows = default.table[proposal.first_row : proposal.first_row + 4]
            assert (np.abs(proposal.rows - rows) <= budget).all()
        assert (run.car.live.table >= default.table - budget).all()
        assert (run.car.live.table <= np.maximum(default.table, default.table * 1.0)).all()
    state = RunStateFile(tmp_path / "online" / "twin_truck", TRUCK).load()
    assert (state.generation, state.episodes) == (50, 50)
    assert state.reference_sha256 == default.sha256()


def test_one_run_a_vehicle(tmp_path: Path) -> None:
    inside = threading.Event()
    go_on = threading.Event()

    def on_episode(_: EpisodeResult) -> None:
        inside.set()
        go_on.wait(30)

    run = Run(tmp_path, drives(True), on_episode=on_episode)
    thread = threading.Thread(target=run.avatar.run)
    thread.start()
    assert inside.wait(30)
    try:
        with pytest.raises(OnlineError, match=r"goes on already \(process \d+\): one run a vehicle"):
            Run(tmp_path, drives(True)).avatar.run()
    finally:
        go_on.set()
        thread.join(30)


def test_storing_does_not_hold_the_next_episode_up(tmp_path: Path) -> None:
    """The next episode is captured to its end while the caller still holds on to the first."""
    captured = threading.Event()

    def on_episode(result: EpisodeResult) -> None:
        if result.number == 1:
            assert run.car.played.wait(30)
            captured.set()
        run.results.append(result)

    run = Run(tmp_path, drives(True, True), on_episode=on_episode)
    run.avatar.run()
    assert captured.is_set()
    assert [result.number for result in run.results] == [1, 2]


def test_a_full_disk_ends_the_run_with_nothing_half_visible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(episodes_table, "write", full)
    run = Run(tmp_path, drives(True), hold=True)
    with pytest.raises(OnlineError, match="No space left on device"):
        run.avatar.run()
    assert run.avatar.summary.cause.startswith("keeper: online episode")
    assert Lake(tmp_path).episodes() == []
    assert run.tracker.status == "FAILED"
    assert run.learner.calls[-1] == ("stop",)


def test_a_state_that_cannot_be_written_ends_the_run_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tspace_core.online.run_state.write_text", full)
    run = Run(tmp_path, drives(True))
    with pytest.raises(StorageError, match="make room"):
        run.avatar.run()
    assert run.cars == []


def test_a_failed_run_names_the_first_cause(tmp_path: Path) -> None:
    cause = "watchdog: 30 flash failures within 600 s"
    run = Run(tmp_path, [*drives(True), RunEnded(cause, failed=True)], hold=False)
    with pytest.raises(OnlineError, match="the online run had to end"):
        run.avatar.run()
    assert run.avatar.summary.failed
    assert run.avatar.summary.episodes == 1
    state = RunStateFile(tmp_path / "online" / "twin_truck", TRUCK).load()
    assert cause in state.ended


def test_a_crash_of_the_caller_ends_the_run_safely(tmp_path: Path) -> None:
    def on_episode(result: EpisodeResult) -> None:
        message = "the caller cannot report"
        raise RuntimeError(message)

    run = Run(tmp_path, drives(True), on_episode=on_episode, hold=True)
    with pytest.raises(OnlineError, match="keeper: the caller cannot report"):
        run.avatar.run()
    assert len(Lake(tmp_path).episodes()) == 1


class Terminated(BaseException):
    """As Dagster's interrupt: no Exception."""


def test_what_interrupts_the_main_thread_is_raised_after_all_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path, drives(True), hold=True)
    wait = Supervisor.wait

    def interrupted(self: Supervisor, timeout_s: float | None = None) -> bool:
        if threading.current_thread() is threading.main_thread():
            assert run.car.played.wait(30)
            message = "terminated in the UI"
            raise Terminated(message)
        return wait(self, timeout_s)

    monkeypatch.setattr(Supervisor, "wait", interrupted)
    with pytest.raises(Terminated):
        run.avatar.run()
    assert run.avatar.summary.cause == "terminated in the UI"
    assert [result.number for result in run.results] == [1]
    assert run.tracker.status == "KILLED"
    assert run.learner.calls[-1] == ("stop",)
    assert RunStateFile(tmp_path / "online" / "twin_truck", TRUCK).load().ended == "terminated in the UI"


def test_a_learner_that_dies_is_started_again(tmp_path: Path) -> None:
    run = Run(tmp_path, drives(True, True), dies_at=(1,))
    summary = run.avatar.run()
    assert (summary.episodes, summary.failed) == (2, False)
    assert summary.notes == ["episode 1: the learner process ended with signal SIGKILL"]
    assert run.learner.calls.count(("start",)) == 2
    assert run.learner.stored_at_start == [0, 1], "it begins anew with the episode that it died at"
    assert [result.learned is None for result in run.results] == [True, False]
    assert "SIGKILL" in json.loads(run.results[0].training_log.read_text())["learner"]


def test_a_learner_that_dies_again_and_again_ends_the_run(tmp_path: Path) -> None:
    run = Run(tmp_path, drives(True, True, True, True), dies_at=(1, 2, 3), hold=True)
    with pytest.raises(OnlineError, match="the learner died 3 times"):
        run.avatar.run()
    assert run.learner.calls.count(("start",)) == 3


def test_a_tracking_server_that_is_gone_costs_the_metrics_not_the_drive(tmp_path: Path) -> None:
    run = Run(tmp_path, drives(True), tracker=NotingTracker(broken=True))
    summary = run.avatar.run()
    assert summary.episodes == 1
    assert summary.notes == ["episode 1 is not tracked: the tracking server is gone"]


def test_a_link_that_cannot_be_opened_is_told_as_it_is(tmp_path: Path) -> None:
    run = Run(tmp_path, drives(True))

    def ignite(supervisor: Supervisor, connected: object) -> None:
        message = "the address 127.0.0.1:8002 is taken"
        raise BusError(message)

    make = run.avatar._car

    def car(*arguments: object) -> object:
        found = make(*arguments)  # type: ignore[arg-type]
        found.ignite = ignite  # type: ignore[method-assign]
        return found

    run.avatar._car = car  # type: ignore[assignment]
    with pytest.raises(BusError, match="8002 is taken"):
        run.avatar.run()
    assert not run.avatar.began
    assert run.learner.calls[-1] == ("stop",)


def test_a_begin_heard_before_the_run_begins_it(tmp_path: Path) -> None:
    run = Run(tmp_path, drives(True), options=AvatarOptions(begin=True))
    run.avatar.run()
    assert run.car.requests == [Event.BEGIN]
    assert run.car.requests_before_play == 1


def test_it_shows_that_it_lives_under_the_callers_run_id(tmp_path: Path) -> None:
    run = Run(tmp_path, drives(True), options=AvatarOptions(run_id="dagster-7"))
    run.avatar.run()
    found = read_heartbeat(tmp_path / "online" / "twin_truck")
    assert found is not None
    assert (found.run_id, found.vehicle_id) == ("dagster-7", "twin_truck")


def test_a_release_meanwhile_drives_the_next_episode_and_the_learner_begins_from_it(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    DDPG(SMALL, TRUCK.sampling.state_dim, 68, seed=3).save(tmp_path / "trained")

    def answer(proposal: RowsProposal) -> FlashOutcomeView:
        if not lake.checkpoints("champion", "twin_truck").is_dir():
            release(lake, TRUCK, tmp_path / "trained", by="test", loads=load_agent)
        return applied(proposal)

    run = Run(tmp_path, drives(True, True), answer=answer)
    run.avatar.run()
    first, second = run.learners
    assert first.spec.start_from is None
    assert second.spec.start_from is not None
    assert second.spec.start_from.parent == lake.checkpoints("champion", "twin_truck")
    assert first.spec.run != second.spec.run
    assert first.calls[-1] == ("stop",)
    assert ("end", 2, True) in second.calls
    logs = [json.loads(result.training_log.read_text()) for result in run.results]
    assert logs[0]["agent"] is None
    assert logs[1]["agent"] == str(second.spec.start_from)
    state = RunStateFile(tmp_path / "online" / "twin_truck", TRUCK).load()
    assert state.champion is not None
    assert (state.learner_run, state.learner_agent) == (second.spec.run, "ddpg")  # retention leaves it


def test_an_episode_with_too_few_records_is_counted_and_told(tmp_path: Path) -> None:
    truck = small_vehicle(minimum=4)
    run = Run(tmp_path, [begun(1), *windows(truck, 7)], vehicle=truck)
    run._script.append(episode(truck, 1, 1)[-1])
    summary = run.avatar.run()
    assert (summary.episodes, summary.records) == (1, 0)
    assert summary.lost_records["too few records left"] == 3
    assert run.results[0].summary.paths == []
    assert run.results[0].training_log.is_file()
