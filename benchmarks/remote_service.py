"""A remote CAN service that has the next window at once, and a bridge that applies at once, as one process.

::

    python benchmarks/remote_service.py

It says where it listens, as JSON, and ends when its standard input is closed; then it tells how long each
answer took it (s, in their order). Windows follow one another in a time that runs ahead of the clock.
"""

import json
import sys
import threading
import time

import numpy as np
from online_bridge import KEY, Stub, sample
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tspace_core.can.box_window import SIGNALS, encode_window
from tspace_core.config import load_site, load_vehicle
from tspace_core.config.remote import UNIT_SAMPLES
from tspace_core.link.channel import ChannelServer
from tspace_core.twin.cloud.http_server import HttpServer

VEHICLE = "twin_remote"
PERIOD_NS = 1_000_000_000 // UNIT_SAMPLES


class Service:
    """Answers get_signal with the window that follows the one before."""

    def __init__(self) -> None:
        vehicle = load_vehicle(VEHICLE)
        self._zone = load_site(vehicle.site).zone
        self._start_ns = time.time_ns()
        self._samples = 0
        self.seconds: list[float] = []

    async def get_signal(self, request: Request) -> Response:
        """The wire contract's call."""
        asked = await request.json()
        began = time.perf_counter()
        count = round(asked["signal_duration"]) * UNIT_SAMPLES
        values = np.array([self._values((self._samples + n) / UNIT_SAMPLES) for n in range(count)])
        result = encode_window(values, self._start_ns + self._samples * PERIOD_NS, self._zone)
        self._samples += count
        body = json.dumps({"success": True, "result": result})
        self.seconds.append(time.perf_counter() - began)
        return Response(body, media_type="application/json")

    def _values(self, seconds: float) -> list[float]:
        found = {**sample(seconds), "gear": 4.0}
        return [found[name] for name in SIGNALS]


def main() -> None:
    service = Service()
    app = Starlette(routes=[Route("/get_signal", service.get_signal, methods=["POST"])])
    server = HttpServer(app, "127.0.0.1", 0)
    channel = ChannelServer("127.0.0.1", 0, KEY, Stub(VEHICLE))
    stopping = threading.Event()
    thread = threading.Thread(target=channel.serve, args=(stopping,))
    thread.start()
    server.start()
    print(json.dumps({"url": server.url, "bridge": channel.port}), flush=True)
    sys.stdin.read()
    stopping.set()
    channel.wake()
    thread.join()
    server.stop()
    print(json.dumps(service.seconds), flush=True)


if __name__ == "__main__":
    main()
