"""A simulated VCU at the end of a simulated bus, one clock for both ends, and a witness beside it.

Everything that happens is a numbered *moment*: a frame about to be sent, sent, received, a wait that is over,
a line of the audit log. At each of them the witness looks at the map in effect, and whatever a test has
planned for that moment happens: a process dies, the VCU restarts, the next frame is lost.
"""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from random import Random

from tests.safety.witness import Proof, WatchedVcu, Witness
from tspace_core.config.loading import load_vehicle
from tspace_core.config.vehicle import Vehicle
from tspace_core.errors import XcpTimeoutError
from tspace_core.link.bus import FD_LENGTHS
from tspace_core.link.xcp_can import FILL
from tspace_core.twin.vcu_memory import VcuMemory, places, xcp_config
from tspace_core.twin.xcp_codes import Command
from tspace_core.twin.xcp_slave import SILENCE_S, XcpSlave

FRAME_NS = 250_000
"""A frame's way over the bus; the length of a frame at 500 kbit/s."""
TICK_NS = 50_000_000
"""How often the VCU looks at its clock."""
_WRITES = {Command.DOWNLOAD: 2, Command.DOWNLOAD_NEXT: 2, Command.DOWNLOAD_MAX: 1}


_ROOM = [next(room for room in FD_LENGTHS if room >= max(length, 8)) for length in range(65)]


def filled(packet: bytes) -> bytes:
    """A packet in a frame of 8 bytes, or of the next length of FD."""
    return packet.ljust(_ROOM[len(packet)], bytes((FILL,)))


@cache
def _addresses(vehicle_id: str) -> dict[str, tuple[int, int]]:
    return places(xcp_config(load_vehicle(vehicle_id)))


class Killed(BaseException):
    """The process is gone: nothing may catch this, and nothing of the process may reach the world again."""


@dataclass
class Life:
    """Whether a process lives."""

    alive: bool = True

    def check(self) -> None:
        if not self.alive:
            raise Killed


@dataclass
class Frame:
    """On its way; ``at_ns`` is when it arrives."""

    data: bytes
    at_ns: int
    to_vcu: bool
    proof: Proof | None = None
    lost: bool = False
    twice: bool = False


Tamper = Callable[[Frame], None]


def nothing(_frame: Frame) -> None:
    """The frame arrives as it was sent."""


def lost(frame: Frame) -> None:
    frame.lost = True


def doubled(frame: Frame) -> None:
    frame.twice = True


def late(chance: Random) -> Tamper:
    """Beyond one time-out, or beyond all of a command's."""

    def tamper(frame: Frame) -> None:
        frame.at_ns += round(chance.choice([0.05, 0.15, 0.5]) * 1e9)

    return tamper


def corrupt(chance: Random) -> Tamper:
    """One bit of an answer, or of what is written, is wrong; other commands are lost.

    A bus' CRC finds damaged frames and has them sent again; what remains is damage at the two ends.
    """

    def tamper(frame: Frame) -> None:
        first = _WRITES.get(frame.data[0]) if frame.to_vcu else 0  # type: ignore[call-overload]
        if first is None:
            frame.lost = True
            return
        place, bit = chance.randrange(first, len(frame.data)), chance.randrange(8)
        changed = bytes([frame.data[place] ^ (1 << bit)])
        frame.data = frame.data[:place] + changed + frame.data[place + 1 :]
        frame.proof = None

    return tamper


class Wire:
    """The clock, the bus and the VCU.

    Args:
        vehicle: with an xcp section.
        fd: frames of 64 bytes instead of 8.
        block_mode: whether the VCU offers block mode.
        silence_s: after which the VCU falls back by itself.
    """

    def __init__(self, vehicle: Vehicle, *, fd: bool, block_mode: bool, silence_s: float = SILENCE_S) -> None:
        self.vehicle = vehicle
        self.max_cto = 64 if fd else 8
        self._block_mode, self._silence_s = block_mode, silence_s
        self.ns = 1_000_000_000_000
        self.moments = 0
        self.plan: dict[int, Callable[[], None]] = {}
        self.witness = Witness(vehicle)
        self.frames = 0
        self.tampers: dict[int, Tamper] = {}  # by number of the frame, from 1
        self.tamper: Tamper = nothing  # with every frame
        self._commands: deque[Frame] = deque()
        self._answers: deque[Frame] = deque()
        self._next_tick_ns = self.ns
        self.vcu: WatchedVcu
        self.slave: XcpSlave
        self._power_on()

    def now_ns(self) -> int:
        return self.ns

    def restart_vcu(self) -> None:
        """The VCU loses its power for a moment; frames on their way are lost with it."""
        self._commands.clear()
        self._answers.clear()
        self._power_on()
        self.witness.look(self.vcu)

    def moment(self, life: Life | None = None) -> None:
        """Something happened; ``life``: to whom."""
        self.moments += 1
        self.witness.look(self.vcu)
        planned = self.plan.pop(self.moments, None)
        if planned is not None:
            planned()
        if life is not None:
            life.check()
        if self.witness.broken:
            raise Killed

    def tamper_next(self, tamper: Tamper) -> None:
        """Do this to the next frame, whichever way it goes."""
        self.tampers[self.frames + 1] = tamper

    def answer(self, packet: bytes) -> None:
        """The VCU says this, whatever it was asked."""
        self._enqueue(self._answers, Frame(filled(packet), self.ns + 2 * FRAME_NS, to_vcu=False))

    def open(self) -> None:
        """A process begins to listen: it hears what arrives from now on."""
        self._answers = deque(frame for frame in self._answers if frame.at_ns > self.ns)

    def put(self, packet: bytes) -> None:
        """A command goes onto the bus."""
        self._enqueue(self._commands, Frame(packet, self.ns + FRAME_NS, to_vcu=True))
        self.run_until(self.ns + FRAME_NS)

    def take(self, timeout_s: float) -> Frame | None:
        """The next answer, or the clock after the time-out."""
        deadline = self.ns + max(0, round(timeout_s * 1e9))
        while True:
            if self._answers and self._answers[0].at_ns <= deadline:
                # A command that is late may be answered in between; answers keep their order.
                self.run_until(max(self.ns, self._answers[0].at_ns))
                return self._answers.popleft()
            if self._commands and self._commands[0].at_ns <= deadline:
                self.run_until(self._commands[0].at_ns)
            else:
                self.run_until(deadline)
                return None

    def waiting(self) -> list[Frame]:
        """Answers that have arrived."""
        found = []
        while self._answers and self._answers[0].at_ns <= self.ns:
            found.append(self._answers.popleft())
        return found

    def run_until(self, ns: int) -> None:
        """The clock goes on, and the VCU with it."""
        while True:
            command = self._commands[0].at_ns if self._commands else ns + 1
            if command <= min(ns, self._next_tick_ns):
                self.ns = max(self.ns, command)
                self._deliver(self._commands.popleft())
            elif self._next_tick_ns <= ns:
                self.ns = max(self.ns, self._next_tick_ns)
                self._next_tick_ns += TICK_NS
                self.slave.tick()
                self.witness.look(self.vcu)
            else:
                self.ns = max(self.ns, ns)
                return

    def _power_on(self) -> None:
        self.witness.forget()
        self.vcu = WatchedVcu(self.vehicle, self.witness)
        self.slave = XcpSlave(
            self.vcu,
            now_ns=self.now_ns,
            max_cto=self.max_cto,
            block_mode=self._block_mode,
            silence_s=self._silence_s,
            seed=lambda count: bytes(range(1, count + 1)),
            memory=VcuMemory(self.vcu, _addresses(self.vehicle.id)),
        )

    def _deliver(self, frame: Frame) -> None:
        vcu = self.vcu
        vcu.command = frame.data[0]
        vcu.proved = None
        answers = self.slave.handle(frame.data)
        room = self.max_cto - 1
        for number, packet in enumerate(answers):
            proof = None if vcu.proved is None else vcu.proved.part(number * room, room)
            self._enqueue(self._answers, Frame(filled(packet), self.ns + FRAME_NS, to_vcu=False, proof=proof))
        self.witness.look(vcu)

    def _enqueue(self, queue: deque[Frame], frame: Frame) -> None:
        self.frames += 1
        self.tamper(frame)
        self.tampers.pop(self.frames, nothing)(frame)
        if frame.lost:
            return
        if queue:  # neither a CAN controller nor a socket changes the order
            frame.at_ns = max(frame.at_ns, queue[-1].at_ns)
        queue.append(frame)
        if frame.twice:
            queue.append(frame)


class WireTransport:
    """An `XcpTransport` of one process onto the wire.

    Attributes:
        fail: called before anything is sent or received; may raise.
    """

    foreign_requests = 0

    def __init__(self, wire: Wire, life: Life) -> None:
        self._wire, self._life = wire, life
        self.fail: Callable[[], None] = lambda: None
        wire.open()

    @property
    def max_cto(self) -> int:
        return self._wire.max_cto

    def send(self, packet: bytes) -> None:
        self._life.check()
        self._wire.moment(self._life)
        self.fail()
        self._wire.put(filled(packet))
        self._wire.moment(self._life)

    def receive(self, timeout_s: float) -> bytes:
        self._life.check()
        self.fail()
        frame = self._wire.take(timeout_s)
        if frame is not None and frame.proof is not None:
            self._wire.witness.arrived(frame.proof)
        self._wire.moment(self._life)
        if frame is None:
            message = f"nothing for {timeout_s:.3f} s"
            raise XcpTimeoutError(message)
        return frame.data

    def discard(self) -> list[bytes]:
        self._life.check()
        return [frame.data for frame in self._wire.waiting()]

    def exchange(self, packet: bytes, timeout_s: float) -> bytes:
        self.discard()
        self.send(packet)
        return self.receive(timeout_s)

    def close(self) -> None:
        """Nothing to let go of."""


class WireEvent(threading.Event):
    """What the XCP master waits for between two packets: on the simulated clock."""

    def __init__(self, wire: Wire) -> None:
        super().__init__()
        self._wire = wire

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None, "nobody waits for ever"
        self._wire.run_until(self._wire.ns + round(timeout * 1e9))
        self._wire.moment()
        return self.is_set()
