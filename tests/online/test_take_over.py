"""New policies in a run that drives: made ready beside the control thread, and left where no good."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.agents.batches import SMALL
from tests.online.avatars import NotingTracker, Run
from tests.online.builders import small_vehicle
from tests.online.fake_car import applied, episode
from tspace_core.agents import DDPG, DPG, load_agent
from tspace_core.config import Vehicle
from tspace_core.errors import OnlineError
from tspace_core.objects.path import AnyPath
from tspace_core.online import driver_agent, keeper
from tspace_core.online.agent_choice import ReleaseWatch
from tspace_core.online.driver_agent import DriverAgent, Successor
from tspace_core.online.keeper import Keeper, KeeperSetup
from tspace_core.online.results import RunSummary
from tspace_core.online.run_state import RunState, RunStateFile
from tspace_core.online.weights_watch import WeightsWatch
from tspace_core.storage.champion import Champion, release
from tspace_core.storage.lake import Lake
from tspace_core.vehicle.interface import FlashOutcomeView, RowsProposal

PATIENCE_S = 30.0


def truck(border: str) -> Vehicle:
    vehicle = small_vehicle()
    return vehicle.model_copy(update={"online": vehicle.online.model_copy(update={"weights": border})})


def policy(folder: Path, seed: int) -> Path:
    DDPG(SMALL, truck("step").sampling.state_dim, 68, seed=seed).save_policy(folder)
    return folder


class Reading:
    """Notes which policies are read, and where, and which take over; holds reading up if asked to."""

    def __init__(self) -> None:
        self.read: list[str] = []
        self.taken: list[str] = []
        self.threads: set[str] = set()
        self.inside, self.go_on = threading.Event(), threading.Event()
        self.hold = False
        self.ready = threading.Semaphore(0)

    def load(self, directory: AnyPath, mode: str = "infer") -> DPG:
        self.threads.add(threading.current_thread().name.rpartition("/")[2])
        self.read.append(directory.name)
        if self.hold:
            self.inside.set()
            assert self.go_on.wait(PATIENCE_S)
        return load_agent(directory, "infer")


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reading]:
    found = Reading()
    look, take_over = WeightsWatch.look, DriverAgent.take_over

    def looked(self: WeightsWatch) -> None:
        before = len(found.read)
        look(self)
        if len(found.read) > before:
            found.ready.release()

    def taken(self: DriverAgent, successor: Successor) -> None:
        found.taken.append(successor.source.name)
        take_over(self, successor)

    monkeypatch.setattr(driver_agent, "load_agent", found.load)
    monkeypatch.setattr(WeightsWatch, "look", looked)
    monkeypatch.setattr(DriverAgent, "take_over", taken)
    yield found
    found.go_on.set()


def agents(run: Run) -> list[str | None]:
    """What drove when each episode ended."""
    logs = [json.loads(result.training_log.read_text()) for result in run.results]
    return [log["agent"] and Path(log["agent"]).name for log in logs]


@pytest.mark.parametrize("border", ["step", "episode"])
def test_windows_are_answered_while_weights_are_read(tmp_path: Path, reading: Reading, border: str) -> None:
    """Weights that take as long to read as the episode lasts cost it no window; the next one has them."""
    new = policy(tmp_path / "new", 9)
    reading.hold = True

    def answer(proposal: RowsProposal) -> FlashOutcomeView:
        count = len(run.car.proposals)
        if count == 1:
            run.learner.give(new)
            assert reading.inside.wait(PATIENCE_S)
        if count == 6:
            reading.hold = False
            reading.go_on.set()
        return applied(proposal)

    vehicle = truck(border)
    script = [*episode(vehicle, 1, 13), *episode(vehicle, 2, 9)]
    run = Run(tmp_path / "lake", script, vehicle=vehicle, answer=answer)
    summary = run.avatar.run()
    assert summary.flashes == {"HELD": 2, "APPLIED": 10}
    assert agents(run)[1] == "new"
    assert reading.read == ["new"]
    assert reading.threads == {"weights"}


def test_at_a_step_they_drive_as_soon_as_they_are_ready(tmp_path: Path, reading: Reading) -> None:
    new = policy(tmp_path / "new", 9)
    taken: list[int] = []

    def answer(proposal: RowsProposal) -> FlashOutcomeView:
        if len(run.car.proposals) == 2:
            run.learner.give(new)
            assert reading.ready.acquire(timeout=PATIENCE_S)
        taken.append(len(reading.taken))
        return applied(proposal)

    vehicle = truck("step")
    run = Run(tmp_path / "lake", episode(vehicle, 1, 11), vehicle=vehicle, answer=answer)
    run.avatar.run()
    assert taken == [0, 0, 1, 1, 1]


def test_of_versions_that_came_meanwhile_only_the_newest_is_read(tmp_path: Path, reading: Reading) -> None:
    folders = [policy(tmp_path / f"v{number}", number) for number in (1, 2, 3)]
    reading.hold = True

    def answer(proposal: RowsProposal) -> FlashOutcomeView:
        if len(run.car.proposals) == 1:
            run.learner.give(folders[0])
            assert reading.inside.wait(PATIENCE_S)
            for folder in folders[1:]:
                run.learner.give(folder)
            reading.hold = False
            reading.go_on.set()
        return applied(proposal)

    vehicle = truck("episode")
    script = [*episode(vehicle, 1, 9), *episode(vehicle, 2, 9)]
    run = Run(tmp_path / "lake", script, vehicle=vehicle, answer=answer)
    run.avatar.run()
    assert reading.read == ["v1", "v3"]
    assert agents(run) == [None, "v3"]


def test_a_version_that_is_no_good_is_left_for_the_one_before(
    tmp_path: Path, reading: Reading, caplog: pytest.LogCaptureFixture
) -> None:
    good = policy(tmp_path / "good", 1)
    torn = policy(tmp_path / "torn", 2)
    (torn / "actor.safetensors").write_bytes(b"x")

    def answer(proposal: RowsProposal) -> FlashOutcomeView:
        for number, folder in ((1, good), (2, torn)):
            if len(run.car.proposals) == number:
                run.learner.give(folder)
                assert reading.ready.acquire(timeout=PATIENCE_S)
        return applied(proposal)

    vehicle = truck("episode")
    script = [*episode(vehicle, 1, 9), *episode(vehicle, 2, 9)]
    run = Run(tmp_path / "lake", script, vehicle=vehicle, answer=answer)
    assert run.avatar.run().episodes == 2
    assert reading.read == ["good", "torn"]
    assert agents(run) == [None, "good"]
    assert any("weights not taken over" in record.message for record in caplog.records)


def test_weights_of_before_a_release_never_drive_after_it(tmp_path: Path, reading: Reading) -> None:
    """They are still being read when the release takes over."""
    old = policy(tmp_path / "old", 1)
    lake, vehicle = Lake(tmp_path / "lake"), truck("step")
    DDPG(SMALL, vehicle.sampling.state_dim, 68, seed=3).save(tmp_path / "trained")
    released: list[Champion] = []

    def answer(proposal: RowsProposal) -> FlashOutcomeView:
        count = len(run.car.proposals)
        if count == 1:
            reading.hold = True
            run.learners[0].give(old)
            assert reading.inside.wait(PATIENCE_S)
            reading.hold = False  # only the weights are held up
            released.append(release(lake, vehicle, tmp_path / "trained", by="test", loads=load_agent))
        if count == 6:
            assert reading.taken == [released[0].checkpoint.name]
            reading.go_on.set()
            assert reading.ready.acquire(timeout=PATIENCE_S)
        return applied(proposal)

    script = [*episode(vehicle, 1, 9), *episode(vehicle, 2, 13), *episode(vehicle, 3, 9)]
    run = Run(lake.local, script, vehicle=vehicle, answer=answer)
    run.avatar.run()
    assert "old" in reading.read
    assert agents(run) == [None, *[released[0].checkpoint.name] * 2]


def test_a_release_that_cannot_drive_is_left_by_run_and_learner(tmp_path: Path) -> None:
    lake, vehicle = Lake(tmp_path / "lake"), truck("episode")
    diverged = DDPG(SMALL, vehicle.sampling.state_dim, 68, seed=3)
    with torch.no_grad():
        diverged.actor.output.bias.fill_(float("nan"))
    diverged.save(tmp_path / "trained")

    def answer(proposal: RowsProposal) -> FlashOutcomeView:
        if len(run.car.proposals) == 1:
            release(lake, vehicle, tmp_path / "trained", by="test", loads=load_agent)
        return applied(proposal)

    script = [*episode(vehicle, 1, 9), *episode(vehicle, 2, 9)]
    run = Run(lake.local, script, vehicle=vehicle, answer=answer)
    assert run.avatar.run().episodes == 2
    assert agents(run) == [None, None]
    assert len(run.learners) == 1


def test_nothing_is_left_of_a_run_that_ends_while_weights_are_read(tmp_path: Path, reading: Reading) -> None:
    new = policy(tmp_path / "new", 9)
    reading.hold = True
    before = set(threading.enumerate())

    def answer(proposal: RowsProposal) -> FlashOutcomeView:
        if len(run.car.proposals) == 1:
            run.learner.give(new)
            assert reading.inside.wait(PATIENCE_S)
            run.car.stop()
            reading.go_on.set()
        return applied(proposal)

    vehicle = truck("step")
    run = Run(tmp_path / "lake", episode(vehicle, 1, 9), vehicle=vehicle, answer=answer)
    run.avatar.run()
    assert set(threading.enumerate()) <= before


def test_a_release_that_the_learner_cannot_be_told_of_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would drive on with no newer weights for good, and nobody would know."""
    monkeypatch.setattr(keeper, "HAND_OVER_S", 0.0)
    lake, vehicle = Lake(tmp_path / "lake"), truck("episode")
    watch = ReleaseWatch(lake, vehicle.id, None)
    setup = KeeperSetup(
        vehicle=vehicle,
        lake=lake,
        states=RunStateFile(tmp_path / "online", vehicle),
        tracker=NotingTracker(),
        tracked=None,
        releases=watch,
        prepare=None,
        make_learner=None,
        on_episode=lambda result: None,
        tell=lambda line: None,
        enough=lambda cause: None,
    )
    summary = RunSummary(vehicle.id, "run", generation=1, mode="train")
    hung = Keeper(setup, RunState(vehicle_id=vehicle.id), summary, None)
    for number in range(keeper.QUEUE):
        hung.began(number, "")
    DDPG(SMALL, vehicle.sampling.state_dim, 68, seed=3).save(tmp_path / "trained", step=7)
    release(lake, vehicle, tmp_path / "trained", by="test", loads=load_agent)
    watch.look()
    with pytest.raises(OnlineError, match=r"step 7 cannot be handed over: 4096 records and episodes wait"):
        hung.release()
