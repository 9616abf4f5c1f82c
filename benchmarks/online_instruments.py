"""What the benchmarks of the online loop measure with: a run in this process that notes its instants."""

import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tspace_core.config import Vehicle
from tspace_core.link.datagrams import Status, encode_status
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
"""So that a learner never waits."""
PATIENCE_S = 90.0


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
    """A learner that has more to do than it can; its end is not waited for.

    The newest that it made comes as new whenever ``renew`` is called, and only then.
    """

    _newest: Path | None = None
    _renewed = True

    def weights(self) -> Path | None:
        """The newest weights, once at first and once more after ``renew``."""
        self._newest = super().weights() or self._newest
        if self._newest is None or not self._renewed:
            return None
        self._renewed = False
        return self._newest

    def renew(self) -> None:
        """Let there be new weights."""
        self._renewed = True
        self._wake()

    def end_episode(
        self, number: int, *, valid: bool, timeout_s: float = 0.0
    ) -> EpisodeLearned | LearnerFailed:
        """Learn nothing from the episode as a whole."""
        del number, valid, timeout_s
        return LearnerFailed(cause="a benchmark does not wait for it", checkpoint=None, alive=True)

    def stop(self, timeout_s: float = 1.0) -> AnyPath | None:
        """End it."""
        return super().stop(timeout_s)


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
