"""A bridge without a bus: it answers on a real channel as a test tells it to."""

import threading
from collections import Counter
from collections.abc import Callable

import numpy as np

from tests.ports import free_port
from tspace_core.config import Vehicle
from tspace_core.link.channel import ChannelServer, Peer
from tspace_core.link.float_buffer import to_hex
from tspace_core.link.messages import (
    Answer,
    Arm,
    Armed,
    Disarm,
    Failed,
    Heartbeat,
    Hello,
    Message,
    Propose,
    State,
    Welcome,
)
from tspace_core.supervision import Pipeline

KEY = b"a key of the tests"
LONG_S = 30.0

Answerer = Callable[[Propose], Message | None]


def applied(propose: Propose) -> Answer:
    """The rows as proposed, applied."""
    return Answer(
        id=propose.id,
        result="APPLIED",
        code=0,
        first_row=propose.first_row,
        rows=propose.rows,
        effect_ns=1,
        clipped={"budget": 2},
    )


def silent(propose: Propose) -> None:
    """No answer at all."""


def failing(code: int) -> Callable[[Propose], Answer]:
    """An answerer whose flashes fail with that code; 0: the guard refuses."""

    def answer(propose: Propose) -> Answer:
        return Answer(
            id=propose.id,
            result="REFUSED" if code == 0 else "REVERTED",
            code=code,
            reason="as the test wants",
            first_row=propose.first_row,
            rows=propose.rows,
        )

    return answer


class FakeBridge:
    """Serves one vehicle's channel.

    Attributes:
        answer: what becomes of a proposal.
        armed: answer to arming; None: none comes.
        heard: arms, proposals and disarms in their order.
        beats: a token for each heartbeat.
        gone: set when the agent is gone.
    """

    def __init__(self, vehicle: Vehicle) -> None:
        self.vehicle = vehicle
        table = vehicle.default_map()
        self.welcome: Welcome | Failed = Welcome(
            vehicle_id=vehicle.id, version="0", state="DISARMED", reference_sha256=table.sha256()
        )
        self.armed: Armed | Failed | None = Armed(ok=True, live=to_hex(table.table))
        self.answer: Answerer = applied
        self.heard: Pipeline[Message] = Pipeline("heard", 1000)
        self.beats: Pipeline[int] = Pipeline("beats", 1000, when_full="drop_oldest")
        self.counts: Counter[str] = Counter()
        self.gone = threading.Event()
        self.came = threading.Event()
        self.server = ChannelServer("127.0.0.1", 0, KEY, self)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self.server.serve, args=(self._stopping,), daemon=True)
        self._thread.start()

    def opened(self, peer: Peer, hello: Hello) -> Welcome | Failed:
        self.came.set()
        return self.welcome

    def received(self, peer: Peer, message: Message) -> Message | None:
        self.counts[message.kind] += 1
        if isinstance(message, Heartbeat):
            self.beats.put(message.n)
            return None
        self.heard.put(message)
        match message:
            case Arm():
                return self.armed
            case Propose():
                return self.answer(message)
            case Disarm():
                return State(state="DISARMED", cause=message.cause)
            case _:
                return None

    def closed(self, peer: Peer, cause: str) -> None:
        self.gone.set()

    def next(self) -> Message:
        """The next arm, proposal or disarm."""
        return self.heard.get(LONG_S)

    def stop(self) -> None:
        """Close the channel, as if the process had died."""
        self._stopping.set()
        self.server.wake()
        self._thread.join(LONG_S)
        assert not self._thread.is_alive()


def live_of(vehicle: Vehicle) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """The vehicle's default table."""
    return vehicle.default_map().table


def free_udp_port() -> int:
    """A port that a run can bind later."""
    return free_port()
