"""A remote CAN service that is soon done, and a bridge that applies at once, as one process.

::

    python benchmarks/remote_service.py

It says where it listens, as JSON, and ends when its standard input is closed; then it tells how long each
answer took it (s, in their order). Windows follow one another in a time that runs ahead of the clock. No more
HTTP is spoken than must be: next to nothing of what is measured is its own.
"""

import asyncio
import json
import sys
import threading
import time

import numpy as np
from online_bridge import KEY, Stub, sample

from tspace_core.can.box_window import SIGNALS, encode_window
from tspace_core.config import load_site, load_vehicle
from tspace_core.config.remote import UNIT_SAMPLES
from tspace_core.link.channel import ChannelServer

VEHICLE = "twin_remote"
PERIOD_NS = 1_000_000_000 // UNIT_SAMPLES
PAUSE_S = 0.05
"""Of each answer: 80 times as fast as a box, which takes 4 s, and the run's other threads have their turn."""


class Service:
    """Answers get_signal with the window that follows the one before."""

    def __init__(self) -> None:
        vehicle = load_vehicle(VEHICLE)
        self._zone = load_site(vehicle.site).zone
        self._start_ns = time.time_ns()
        self._samples = 0
        self.seconds: list[float] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, call after call."""
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
                asked = json.loads(await reader.readexactly(length))
                began = time.perf_counter()
                await asyncio.sleep(PAUSE_S)
                body = self._window(round(asked["signal_duration"]) * UNIT_SAMPLES)
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: "
                    b"%d\r\n\r\n%s" % (len(body), body)
                )
                self.seconds.append(time.perf_counter() - began)
        except (asyncio.IncompleteReadError, asyncio.CancelledError):
            writer.close()

    def _window(self, count: int) -> bytes:
        values = np.array([self._values((self._samples + n) / UNIT_SAMPLES) for n in range(count)])
        result = encode_window(values, self._start_ns + self._samples * PERIOD_NS, self._zone)
        self._samples += count
        return json.dumps({"success": True, "result": result}).encode()

    def _values(self, seconds: float) -> list[float]:
        found = {**sample(seconds), "gear": 4.0}
        return [found[name] for name in SIGNALS]


async def serve(service: Service, port_of_bridge: int) -> None:
    """Serve until standard input is closed."""
    server = await asyncio.start_server(service.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    print(json.dumps({"url": f"http://127.0.0.1:{port}", "bridge": port_of_bridge}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.close()


def main() -> None:
    service = Service()
    channel = ChannelServer("127.0.0.1", 0, KEY, Stub(VEHICLE))
    stopping = threading.Event()
    thread = threading.Thread(target=channel.serve, args=(stopping,))
    thread.start()
    asyncio.run(serve(service, channel.port))
    stopping.set()
    channel.wake()
    thread.join()
    print(json.dumps(service.seconds), flush=True)


if __name__ == "__main__":
    main()
