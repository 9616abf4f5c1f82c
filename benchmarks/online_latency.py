"""From a complete window to the proposal, with the learner at work beside it and with the learner stopped.

A whole run (``Avatar``: KvaserCAN, Cruncher, DriverAgent, keeper, LearnerProcess) in this process; a bridge
without a bus in another one (``online_bridge``) sends real datagrams at the vehicle's rate and answers
proposals at once. Two figures a decision:

========  ===========================================================================================
decide    from the moment at which KvaserCAN has the window's last datagram from its socket to the
          moment at which the proposal is written to the channel's socket
way       from just before the bridge sends that datagram to the proposal's arrival at the bridge: both
          ways through the machine's loopback and all waking of threads included
========  ===========================================================================================

The learner has 1000 updates to do for each record, so that it never waits while it is on. It is
turned off by SIGSTOP and on by SIGCONT every few seconds, within one run: all else stays the same. Windows
are short (6 samples for 30) so that there are some decisions; ``--window 30`` decides every 3 s as the field.
"""

import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from interleaved import Result
from numpy.typing import NDArray
from online_bridge import KEY, VEHICLE

from tspace_core.config import Vehicle, load_vehicle
from tspace_core.link.datagrams import Status, encode_status
from tspace_core.link.endpoints import Endpoints
from tspace_core.link.messages import Message, Propose
from tspace_core.objects.path import AnyPath
from tspace_core.online.avatar import Avatar, AvatarOptions, ResumeFrom
from tspace_core.online.learner import LearnerFailed, LearnerProcess
from tspace_core.online.learner_protocol import EpisodeLearned, LearnerSpec
from tspace_core.online.results import EpisodeResult
from tspace_core.storage.lake import Lake
from tspace_core.supervision import Supervisor
from tspace_core.vehicle.bridge_link import Client
from tspace_core.vehicle.intake import Intake, Taken
from tspace_core.vehicle.kvaser import KvaserCAN, KvaserOptions
from tspace_core.vehicle.stream import ControlStream, EpisodeBegun, Liveness, StreamItem
from tspace_core.vehicle.windows import Window

UPDATES_PER_RECORD = 1000.0
PATIENCE_S = 90.0
WARM_S = 3.0
SETTLE_S = 1.0
"""After the learner was turned on or off, decisions this long are of neither."""


@dataclass
class Decision:
    """One decision's instants.

    Attributes:
        stamp_ns: ns UTC at which the bridge made the window's last datagram.
        received_ns: ``perf_counter_ns`` at which KvaserCAN had it.
        written_ns: ``perf_counter_ns`` at which the proposal was written.
        number: of the proposal.
    """

    stamp_ns: int
    received_ns: int
    written_ns: int
    number: int


@dataclass
class Notes:
    """What the instruments write down."""

    received: dict[int, int] = field(default_factory=dict)
    decisions: list[Decision] = field(default_factory=list)
    window_end_ns: int = 0
    episodes: list[list[Window]] = field(default_factory=list)

    @property
    def invalid(self) -> list[str]:
        """Why windows were not valid."""
        return [window.reason for episode in self.episodes for window in episode if not window.valid]


class TimedIntake(Intake):
    """Notes when each datagram came."""

    def __init__(self, vehicle: Vehicle, notes: Notes) -> None:
        super().__init__(vehicle)
        self._notes = notes

    def take(self, data: bytes, sender: tuple[str, int]) -> Taken:
        """Read a datagram, its instant noted before."""
        now = time.perf_counter_ns()
        taken = super().take(data, sender)
        if taken.observation is not None:
            self._notes.received[taken.observation.time_ns] = now
        return taken


class TimedStream(ControlStream):
    """Notes which window the control thread has taken last."""

    def __init__(self, liveness: Liveness, notes: Notes) -> None:
        super().__init__(liveness)
        self._notes = notes

    def get(self, timeout_s: float | None = None) -> StreamItem:
        """Take the oldest item."""
        item = super().get(timeout_s)
        if isinstance(item, EpisodeBegun):
            self._notes.episodes.append([])
        elif isinstance(item, Window):
            self._notes.episodes[-1].append(item)
            self._notes.window_end_ns = item.end_ns
        return item


class TimedClient:
    """Notes when each proposal is out."""

    def __init__(self, client: Client, notes: Notes) -> None:
        self._client, self._notes = client, notes
        self.welcome = client.welcome

    def send(self, message: Message, timeout_s: float = 1.0) -> None:
        """Send a message."""
        self._client.send(message, timeout_s)
        if isinstance(message, Propose):
            written, notes = time.perf_counter_ns(), self._notes
            received = notes.received.get(notes.window_end_ns)
            if received is not None:
                notes.decisions.append(Decision(notes.window_end_ns, received, written, message.id))

    def receive(self, timeout_s: float) -> Message | None:
        """The next message."""
        return self._client.receive(timeout_s)

    def close(self) -> None:
        """Close the channel."""
        self._client.close()


class TimedCar(KvaserCAN):
    """KvaserCAN with its instruments; ``notes`` is what they wrote down."""

    def __init__(self, vehicle: Vehicle, options: KvaserOptions) -> None:
        super().__init__(vehicle, options)
        self.notes = Notes()
        self.intake = TimedIntake(vehicle, self.notes)
        # Before anybody has it: the control thread and the episodes' control share one stream.
        self.stream = self.control._stream = TimedStream(self.liveness, self.notes)

    def connect(self, supervisor: Supervisor) -> None:
        """Connect and listen in on the channel."""
        super().connect(supervisor)
        assert self.bridge is not None
        self.bridge._client = TimedClient(self.bridge._client, self.notes)


class BusyLearner(LearnerProcess):
    """A learner that has more to do than it can; its end is not waited for."""

    def end_episode(
        self, number: int, *, valid: bool, timeout_s: float = 0.0
    ) -> EpisodeLearned | LearnerFailed:
        """Learn nothing from the episode as a whole."""
        del number, valid, timeout_s
        return LearnerFailed(cause="a benchmark does not wait for it", checkpoint=None, alive=True)

    def stop(self, timeout_s: float = 1.0) -> AnyPath | None:
        """End it."""
        return super().stop(timeout_s)


@dataclass(frozen=True)
class Leg:
    """A stretch of the run in which the learner was on or off all the time; ``perf_counter_ns``."""

    learning: bool
    begin_ns: int
    end_ns: int
    busy: float
    """Share of a processor that the learner took."""


class Run:
    """A run of a vehicle that learns, on its way in a thread of its own.

    Args:
        vehicle: which.
        root: of the lake.
        options: of its vehicle interface.
        learner: what kind.
        on_episode: told of each stored episode.
    """

    def __init__(
        self,
        vehicle: Vehicle,
        root: Path,
        options: KvaserOptions,
        *,
        learner: type[LearnerProcess] = LearnerProcess,
        on_episode: Callable[[EpisodeResult], object] = lambda result: None,
    ) -> None:
        self.learner: LearnerProcess | None = None
        self.car: TimedCar | None = None
        self._options, self._kind = options, learner
        self._waiting = threading.Event()
        self.avatar = Avatar(
            vehicle,
            Lake(root),
            AvatarOptions(track=False, hmi="udp"),
            on_episode=on_episode,
            tell=self._tell,
            car=self._make_car,
            learner=self._make_learner,
        )
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="avatar")
        self._thread.start()
        if not self._waiting.wait(PATIENCE_S):
            sys.exit(f"the run did not come up: {self.error}")
        if self.error is not None:
            sys.exit(f"the run did not come up: {self.error}")

    @property
    def notes(self) -> Notes:
        """What its instruments wrote down."""
        assert self.car is not None
        return self.car.notes

    @property
    def alive(self) -> bool:
        """Whether it goes on."""
        return self._thread.is_alive()

    def join(self, timeout_s: float = PATIENCE_S) -> None:
        """Wait until it has ended."""
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            sys.exit("the run did not end")

    def _run(self) -> None:
        try:
            self.avatar.run()
        except BaseException as error:
            self.error = error
        finally:
            self._waiting.set()

    def _tell(self, line: str) -> None:
        print(line, file=sys.stderr)
        if "waiting for begin" in line:
            self._waiting.set()

    def _make_car(self, vehicle: Vehicle, options: AvatarOptions, resume: ResumeFrom) -> TimedCar:
        del options, resume
        self.car = TimedCar(vehicle, self._options)
        return self.car

    def _make_learner(self, spec: LearnerSpec) -> LearnerProcess:
        self.learner = self._kind(spec)
        return self.learner


def say(status: Status, port: int) -> None:
    """Say something as the HMI."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(encode_status(status), ("127.0.0.1", port))


def free_port(kind: socket.SocketKind = socket.SOCK_DGRAM) -> int:
    """A port that nobody uses now."""
    with socket.socket(socket.AF_INET, kind) as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def processor_s(pid: int) -> float:
    """Seconds of processor that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def _bridge(udp_port: int, rate_hz: float) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, str(Path(__file__).with_name("online_bridge.py")), str(udp_port), str(rate_hz)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@dataclass(frozen=True)
class Measured:
    """Latencies in ms by whether the learner was on, a list a leg."""

    decide: dict[bool, list[NDArray[np.float64]]]
    way: dict[bool, list[NDArray[np.float64]]]
    busy: float
    bridge_late_ms: float
    invalid: int


def measure(rounds: int, leg_s: float, window: int) -> Measured:
    """Run and switch the learner off and on.

    Args:
        rounds: each has a leg without and one with learning.
        leg_s: length of a leg.
        window: samples in a window.
    """
    vehicle = load_vehicle(VEHICLE)
    vehicle = vehicle.model_copy(
        update={
            "sampling": vehicle.sampling.model_copy(update={"window": window}),
            # Half as many samples a second would do: a short window feels one that comes 30 ms late.
            "guard": vehicle.guard.model_copy(update={"window_rate_min": 0.5}),
            "online": vehicle.online.model_copy(update={"updates_per_record": UPDATES_PER_RECORD}),
        }
    )
    root = Path(tempfile.mkdtemp(prefix="tspace-latency-"))
    port = free_port()
    try:
        with _bridge(port, vehicle.sampling.rate_hz) as bridge:
            assert bridge.stdout is not None
            addresses = Endpoints("127.0.0.1", port, "127.0.0.1", int(bridge.stdout.readline()))
            options = KvaserOptions(hmi="udp", addresses=addresses, key=KEY)
            run = Run(vehicle, root, options, learner=BusyLearner)
            legs = _legs(run, rounds, leg_s, port)
            told, _ = bridge.communicate(timeout=PATIENCE_S)
        return _sorted(run, legs, json.loads(told))
    finally:
        shutil.rmtree(root)


def _legs(run: Run, rounds: int, leg_s: float, port: int) -> list[Leg]:
    assert run.learner is not None
    pid = run.learner.pid
    assert pid is not None
    pause = threading.Event()
    legs = []
    say("begin", port)
    pause.wait(WARM_S)  # the learner gets its first records, and everything is warm
    try:
        for number in range(rounds):
            for learning in (False, True):
                os.kill(pid, signal.SIGCONT if learning else signal.SIGSTOP)
                pause.wait(SETTLE_S)
                begin, before = time.perf_counter_ns(), processor_s(pid)
                pause.wait(leg_s)
                end = time.perf_counter_ns()
                busy = (processor_s(pid) - before) / (end - begin) * 1e9
                legs.append(Leg(learning, begin, end, busy))
            print(f"latency: round {number + 1} of {rounds}", file=sys.stderr)
            if not run.alive:
                sys.exit(f"the run ended: {run.error}")
    finally:
        os.kill(pid, signal.SIGCONT)
    say("end_invalid", port)
    say("exit", port)
    run.join()
    return legs


def _sorted(run: Run, legs: list[Leg], told: Any) -> Measured:
    arrived = {int(number): instant for number, instant in told["arrived"].items()}
    decide: dict[bool, list[NDArray[np.float64]]] = {False: [], True: []}
    way: dict[bool, list[NDArray[np.float64]]] = {False: [], True: []}
    for leg in legs:
        within = [one for one in run.notes.decisions if leg.begin_ns <= one.received_ns < leg.end_ns]
        decide[leg.learning].append(np.array([one.written_ns - one.received_ns for one in within]) / 1e6)
        way[leg.learning].append(np.array([arrived[one.number] - one.stamp_ns for one in within]) / 1e6)
    busy = statistics.fmean(leg.busy for leg in legs if leg.learning)
    return Measured(decide, way, busy, told["late_ms"], len(run.notes.invalid))


def results(measured: Measured) -> list[Result]:
    """p50 and p99 over all decisions, and how much the learner adds to them."""
    lines = []
    for title, times in (
        ("window complete -> proposal written", measured.decide),
        ("datagram sent -> proposal at the bridge", measured.way),
    ):
        joined = {learning: np.concatenate(legs) for learning, legs in times.items()}
        for learning, values in joined.items():
            name = f"{title}, learner {'on' if learning else 'off'}"
            lines += [
                Result(f"{name}: p50", "tspace", float(np.quantile(values, 0.5)), "ms", "lower"),
                Result(f"{name}: p99", "tspace", float(np.quantile(values, 0.99)), "ms", "lower"),
                Result(f"{name}: decisions", "tspace", float(len(values)), "decisions", "higher"),
            ]
        rounds = zip(times[True], times[False], strict=True)
        ratio = statistics.median(float(np.median(on) / np.median(off)) for on, off in rounds)
        lines.append(Result(f"{title}: p50 on / off", "tspace", ratio, "x", "lower"))
        tails = {learning: float(np.quantile(values, 0.99)) for learning, values in joined.items()}
        lines.append(Result(f"{title}: p99 on / off", "tspace", tails[True] / tails[False], "x", "lower"))
    lines.append(Result("learner on: share of a processor", "tspace", 100 * measured.busy, "%", "higher"))
    lines.append(Result("invalid windows", "tspace", float(measured.invalid), "windows", "lower"))
    lines.append(Result("datagrams: worst lateness", "stub bridge", measured.bridge_late_ms, "ms", "lower"))
    return lines
