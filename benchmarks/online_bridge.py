"""A bridge without a bus, as a process of its own: samples at the vehicle's rate, proposals answered at once.

::

    python benchmarks/online_bridge.py UDP_PORT RATE_HZ

It says the port of its channel and ends when its standard input is closed; then it tells, as JSON, when each
proposal arrived (ns UTC by its number) and how late its clock was at worst (ms).
"""

import json
import math
import socket
import sys
import threading
import time

from tspace_core.config import load_vehicle
from tspace_core.link.channel import ChannelServer, Peer
from tspace_core.link.datagrams import encode_sample
from tspace_core.link.float_buffer import to_hex
from tspace_core.link.messages import (
    Answer,
    Arm,
    Armed,
    Disarm,
    Failed,
    Hello,
    Message,
    Propose,
    State,
    Welcome,
)

VEHICLE = "twin_truck"
KEY = b"a key of the benchmarks"


class Stub:
    """Applies whatever is proposed for a vehicle."""

    def __init__(self, vehicle_id: str = VEHICLE) -> None:
        self._vehicle_id = vehicle_id
        self._default = load_vehicle(vehicle_id).default_map()
        self.arrived: dict[int, int] = {}

    def opened(self, peer: Peer, hello: Hello) -> Welcome | Failed:
        """Welcome everybody."""
        del peer, hello
        sha256 = self._default.sha256()
        return Welcome(vehicle_id=self._vehicle_id, version="0", state="DISARMED", reference_sha256=sha256)

    def received(self, peer: Peer, message: Message) -> Message | None:
        """Arm and apply."""
        del peer
        now = time.time_ns()
        match message:
            case Arm():
                return Armed(ok=True, live=to_hex(self._default.table))
            case Propose():
                self.arrived[message.id] = now
                return Answer(
                    id=message.id,
                    result="APPLIED",
                    code=0,
                    first_row=message.first_row,
                    rows=message.rows,
                    effect_ns=now,
                )
            case Disarm():
                return State(state="DISARMED", cause=message.cause)
            case _:
                return None

    def closed(self, peer: Peer, cause: str) -> None:
        """Do nothing about a peer that has gone."""


def sample(seconds: float) -> dict[str, float]:
    """A truck that never stops: what it does is of no concern, that it is plausible is."""
    slow = math.sin(seconds / 7)
    return {
        "velocity": 50 + 30 * slow,
        "thrust": 30 + 25 * math.cos(seconds / 7),
        "brake": 0.0,
        "current": 150 + 100 * math.cos(seconds / 7),
        "voltage": 650 - 10 * slow,
    }


def send(stopping: threading.Event, port: int, rate_hz: float) -> float:
    """Send samples on a grid that does not drift; the worst lateness in ms.

    Ticks that were missed are left out, as the real bridge does: made up for in a burst they would be samples
    that no vehicle has.
    """
    late, number, sent, start = 0.0, 0, 0, time.monotonic()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        while not stopping.wait(max(start + number / rate_hz - time.monotonic(), 0.0)):
            late = max(late, time.monotonic() - start - number / rate_hz)
            data = encode_sample(sample(number / rate_hz), seq=sent, time_ns=time.time_ns())
            out.sendto(data, ("127.0.0.1", port))
            sent += 1
            number = max(number + 1, int((time.monotonic() - start) * rate_hz) + 1)
    return 1e3 * late


def main() -> None:
    port, rate_hz = int(sys.argv[1]), float(sys.argv[2])
    stub = Stub()
    server = ChannelServer("127.0.0.1", 0, KEY, stub)
    stopping = threading.Event()
    worst: list[float] = []
    threads = [
        threading.Thread(target=server.serve, args=(stopping,)),
        threading.Thread(target=lambda: worst.append(send(stopping, port, rate_hz))),
    ]
    for thread in threads:
        thread.start()
    print(server.port, flush=True)
    sys.stdin.read()
    stopping.set()
    server.wake()
    for thread in threads:
        thread.join()
    print(json.dumps({"arrived": stub.arrived, "late_ms": worst[0]}), flush=True)


if __name__ == "__main__":
    main()
