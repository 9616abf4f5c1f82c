"""The learner as a process: what it hands back, and that it ends well however it or the Avatar ends."""

import fcntl
import os
import queue
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.online.learners import HYPER, make_records, make_replay, make_spec, state_of, store_episode
from tests.storage.replay_episodes import STATE_DIM
from tspace_core.agents import DDPG, Checkpoint, CheckpointStore, load_agent
from tspace_core.agents.weights import read_info
from tspace_core.errors import OnlineError
from tspace_core.online.learner import LearnerFailed, LearnerProcess
from tspace_core.online.learner_core import LearnerCore
from tspace_core.online.learner_protocol import (
    Decoder,
    EpisodeEnd,
    EpisodeLearned,
    LearnerReady,
    LearnerSpec,
    Saved,
    Stop,
    ToAvatar,
    Waiting,
    encode,
)

PATIENCE_S = 120.0
"""Longest wait for an event that comes in seconds, on a machine with other things to do."""
STATES = np.random.default_rng(0).normal(30, 5, (5, STATE_DIM)).astype(np.float32)


class Told:
    """What a learner tells, in order."""

    def __init__(self) -> None:
        self._messages: queue.Queue[ToAvatar] = queue.Queue()

    def __call__(self, message: ToAvatar) -> None:
        self._messages.put(message)

    def wait_for(self, kind: type) -> ToAvatar:
        while True:
            message = self._messages.get(timeout=PATIENCE_S)
            if isinstance(message, kind):
                return message


@pytest.fixture
def ended() -> Iterator[list[LearnerProcess]]:
    """Learners put in here are ended with the test, whatever happens."""
    learners: list[LearnerProcess] = []
    yield learners
    for learner in learners:
        learner.stop(1.0)


def begin(learner: LearnerProcess) -> LearnerReady:
    learner.start()
    ready = learner.wait_ready(PATIENCE_S)
    assert isinstance(ready, LearnerReady)
    return ready


def finish(learner: LearnerProcess, number: int, *, valid: bool = True) -> EpisodeLearned:
    learned = learner.end_episode(number, valid=valid, timeout_s=PATIENCE_S)
    assert isinstance(learned, EpisodeLearned)
    return learned


def newest(learner: LearnerProcess) -> Path:
    path = learner.weights()
    assert path is not None
    return path


def wait_for_end(pid: int) -> None:
    """Wait until any process has ended."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    assert poll.poll(PATIENCE_S * 1000), f"process {pid} has not ended"
    os.close(handle)


def test_it_learns_hands_back_weights_and_goes_on_after_a_stop(
    tmp_path: Path, ended: list[LearnerProcess]
) -> None:
    """The process gives bit for bit what its core gives with the same sequence of calls."""
    for name in ("core", "process"):
        make_replay(tmp_path / name)
        store_episode(tmp_path / name, 7, 12)
    core = LearnerCore(make_spec(tmp_path / "core"))
    for number in range(12):
        core.take(make_records(number))
        core.learn()
    expected = core.end_episode(EpisodeEnd(number=1, valid=True)).checkpoint

    learner = LearnerProcess(make_spec(tmp_path / "process"))
    ended.append(learner)
    ready = begin(learner)
    assert (ready.updates, ready.offline_records, ready.live_records) == (0, 100, 12)
    first = newest(learner)
    assert read_info(first).updates == 0
    assert learner.weights() is None  # each version once
    assert all(learner.add(make_records(number)) for number in range(12))
    learned = finish(learner, 1)
    assert (learned.updates, learned.records, learned.dropped) == (12, 12, 0)
    second = newest(learner)
    assert read_info(second) == (learned.weights_version, 12, HYPER.noise)
    driver = DDPG(HYPER, STATE_DIM, 68)
    driver.take_policy(Checkpoint(second))
    np.testing.assert_array_equal(driver.predict(STATES), core.agent.predict(STATES))
    assert not np.array_equal(driver.predict(STATES), load_agent(first).predict(STATES))
    assert learned.checkpoint is not None
    assert expected is not None
    assert state_of(learned.checkpoint) == state_of(expected)

    learner.add(make_records(12))
    learner.add(make_records(13))
    assert finish(learner, 2, valid=False).live_records == 24
    last = learner.stop(PATIENCE_S)
    assert learner.failure is None
    assert last is not None
    assert last.name == "00000014"

    again = begin(learner)
    assert (again.updates, again.records, again.checkpoint) == (14, 14, last)
    assert read_info(newest(learner)).updates == 14
    with pytest.raises(OnlineError, match="runs already as process"):
        learner.start()

    learner.add(make_records(14))
    assert learner.pid is not None
    os.kill(learner.pid, signal.SIGTERM)
    wait_for_end(learner.pid)
    failed = learner.end_episode(3, valid=True, timeout_s=PATIENCE_S)
    assert isinstance(failed, LearnerFailed)
    assert "exit code 0" in failed.cause  # nobody here told it to end
    assert failed.checkpoint == CheckpointStore(learner.spec.checkpoints).latest()


def test_killed_in_the_middle_of_learning_it_goes_on_from_its_last_checkpoint(
    tmp_path: Path, ended: list[LearnerProcess]
) -> None:
    make_replay(tmp_path)
    told = Told()
    spec = make_spec(tmp_path, updates_per_record=30)
    learner = LearnerProcess(spec, tell=told)
    ended.append(learner)
    begin(learner)
    learner.add(make_records(0))
    for _ in range(2):
        told.wait_for(Saved)
    assert learner.pid is not None
    os.kill(learner.pid, signal.SIGKILL)
    learner.stop(PATIENCE_S)  # ends what is left here; the process itself is gone
    failed = learner.failure
    assert failed is not None
    assert not failed.alive
    assert "ended with signal SIGKILL" in failed.cause
    assert learner.end_episode(0, valid=False) == failed
    for number in (1, 2):
        assert not learner.add(make_records(number))
    assert learner.dropped == 2
    store = CheckpointStore(spec.checkpoints)
    for step in store.steps():
        Checkpoint(store.path(step)).verify()
    last = store.latest()
    assert failed.checkpoint is not None
    assert failed.checkpoint.name <= last.name  # one may have been finished and not told any more

    kept = load_agent(last).predict(STATES)
    ready = begin(learner)
    assert (ready.updates, ready.checkpoint) == (int(last.name), last)
    assert "offline buffer is another" not in " ".join(ready.notes)
    np.testing.assert_array_equal(load_agent(newest(learner)).predict(STATES), kept)
    learned = finish(learner, 1)
    # Not one update is lost or done twice: those still due, then those of the records sent again.
    assert (learned.total_updates, learned.records) == (30 + 2 * 30, 2)
    assert list(tmp_path.rglob("*.tmp")) == []


def test_a_stop_comes_through_between_two_updates(tmp_path: Path, ended: list[LearnerProcess]) -> None:
    make_replay(tmp_path)
    told = Told()
    learner = LearnerProcess(make_spec(tmp_path, updates_per_record=1e6), tell=told)
    ended.append(learner)
    begin(learner)
    for number in range(3):
        learner.add(make_records(number))
    told.wait_for(Saved)
    last = learner.stop(PATIENCE_S)
    assert learner.failure is None
    assert last == CheckpointStore(learner.spec.checkpoints).latest()


@pytest.mark.parametrize("holds_socket", [False, True])
def test_it_saves_and_ends_when_the_avatar_is_killed(tmp_path: Path, holds_socket: bool) -> None:
    """Also where a forked child of the Avatar keeps the socket open."""
    make_replay(tmp_path)
    spec = make_spec(tmp_path, hyper=HYPER.model_copy(update={"checkpoint_every": 1000}))
    script = f"""
import os, signal, sys
from pathlib import Path
from tests.online.learners import make_records
from tspace_core.online.learner import LearnerProcess
from tspace_core.online.learner_protocol import LearnerSpec
learner = LearnerProcess(LearnerSpec.model_validate_json(sys.stdin.readline()))
learner.start()
learner.wait_ready({PATIENCE_S})
for number in range(9):
    learner.add(make_records(number))
learner.end_episode(1, valid=True)
for number in range(4):
    learner.add(make_records(number))
forked = os.fork() if {holds_socket} else 0
if {holds_socket} and forked == 0:
    os.close(1)
    signal.pause()
print(learner.pid, forked, flush=True)
signal.pause()
"""
    avatar = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    with avatar:
        assert avatar.stdin is not None
        assert avatar.stdout is not None
        avatar.stdin.write(spec.model_dump_json() + "\n")
        avatar.stdin.flush()
        learner, forked = map(int, avatar.stdout.readline().split())
        avatar.kill()
    wait_for_end(learner)
    if forked:
        os.kill(forked, signal.SIGKILL)
    resumed = LearnerCore(spec)
    assert 9 <= resumed.updates <= 13
    assert resumed.checkpoint is not None


def test_divergence_is_told_and_the_drive_goes_on(tmp_path: Path, ended: list[LearnerProcess]) -> None:
    make_replay(tmp_path)
    wild = HYPER.model_copy(update={"critic_learning_rate": 1e30, "checkpoint_every": 1})
    learner = LearnerProcess(make_spec(tmp_path, hyper=wild))
    ended.append(learner)
    begin(learner)
    good = newest(learner)
    for number in range(20):
        learner.add(make_records(number))
    failed = learner.end_episode(1, valid=True, timeout_s=PATIENCE_S)
    assert isinstance(failed, LearnerFailed)
    assert "training has diverged" in failed.cause
    assert learner.weights() is None
    assert np.isfinite(load_agent(good).predict(STATES)).all()
    if failed.checkpoint is not None:
        assert np.isfinite(load_agent(failed.checkpoint).predict(STATES)).all()
    assert learner.stop() == failed.checkpoint


def test_a_learner_that_cannot_begin_says_why(tmp_path: Path, ended: list[LearnerProcess]) -> None:
    learner = LearnerProcess(make_spec(tmp_path))
    (learner.spec.folder / "learner.lock").mkdir(parents=True)
    ended.append(learner)
    learner.start()
    failed = learner.wait_ready(PATIENCE_S)
    assert isinstance(failed, LearnerFailed)
    assert "Is a directory" in failed.cause
    assert failed.checkpoint is None
    assert "Traceback" in learner.log.read_text()


def test_adding_never_waits_for_a_learner_that_hangs(tmp_path: Path, ended: list[LearnerProcess]) -> None:
    make_replay(tmp_path)
    learner = LearnerProcess(make_spec(tmp_path, updates_per_record=0.0), outbox=4)
    ended.append(learner)
    begin(learner)
    assert learner.pid is not None
    os.kill(learner.pid, signal.SIGSTOP)
    # More than any socket holds: if one call waited, the test would not end.
    taken = sum(learner.add(make_records(1)) for _ in range(5000))
    assert learner.dropped == 5000 - taken > 0
    late = learner.end_episode(1, valid=True, timeout_s=0.2)
    assert isinstance(late, LearnerFailed)
    assert late.alive
    assert "did not answer within 0.2 s" in late.cause
    assert learner.failure is None
    os.kill(learner.pid, signal.SIGCONT)
    learned = finish(learner, 2)
    assert learned.dropped == learner.dropped
    assert learned.live_records == taken


def test_it_waits_until_an_earlier_learner_of_the_vehicle_has_saved(
    tmp_path: Path, ended: list[LearnerProcess]
) -> None:
    told = Told()
    learner = LearnerProcess(make_spec(tmp_path), tell=told)
    ended.append(learner)
    learner.spec.folder.mkdir(parents=True)
    with (learner.spec.folder / "learner.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        learner.start()
        told.wait_for(Waiting)
        late = learner.wait_ready(0.0)
        assert isinstance(late, LearnerFailed)
        assert late.alive
        assert "another learner holds" in late.cause
        earlier = LearnerCore(learner.spec)
        for number in range(5):
            earlier.take(make_records(number))
            earlier.learn()
    ready = learner.wait_ready(PATIENCE_S)
    assert isinstance(ready, LearnerReady)
    assert ready.updates == 5


@pytest.mark.parametrize(
    "first",
    [b"GET / HTTP/1.1\r\n\r\n", encode(Stop()), encode(EpisodeEnd(number=1, valid=True))],
    ids=["no frame", "stop", "episode end"],
)
def test_a_wrong_first_message_ends_it(first: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [sys.executable, "-m", "tspace_core.online.learner_main", "--fd", str(theirs.fileno())]
        with subprocess.Popen(command, pass_fds=[theirs.fileno()], stderr=subprocess.DEVNULL) as process:
            theirs.close()
            ours.sendall(first)
            ours.settimeout(PATIENCE_S)
            answer = b"".join(iter(lambda: ours.recv(4096), b""))
            code = process.wait(PATIENCE_S)
    if first == encode(Stop()):
        assert (code, answer) == (0, b"")
        return
    assert code == 1
    [frame] = Decoder().feed(answer)
    assert frame.message.kind == "failed"  # type: ignore[attr-defined]


def test_started_by_hand_it_says_how_it_is_started() -> None:
    command = [sys.executable, "-m", "tspace_core.online.learner_main"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "the Avatar starts it" in done.stderr


def test_a_spec_of_an_older_version_is_refused(tmp_path: Path) -> None:
    text = make_spec(tmp_path).model_dump_json().replace('"run"', '"name"')
    with pytest.raises(ValueError, match="run"):
        LearnerSpec.model_validate_json(text)
