"""A remote CAN service with a telematics box behind it, on a real HTTP server; a test tells it what to do."""

import contextlib
import queue
import socket
import threading

import numpy as np
from numpy.typing import NDArray

from tests.link.remote_server import Behaviour, Exchange, RemoteServer, answer
from tspace_core.can.box_window import SIGNALS, encode_window
from tspace_core.config import Vehicle, load_site
from tspace_core.config.remote import UNIT_SAMPLES

LONG_S = 30.0
_GONE_S = 5.0


class FakeService:
    """Answers get_signal with the samples that a test gives, once there are enough of them.

    The box uploads only while it is asked: ``forget`` throws away what nobody has asked for.

    Attributes:
        calls: what each get_signal asked for, s.
        wrong: what no client may do: two calls at once, or one while ``busy``.
        busy: set while nothing may be asked for.
        under_way: set while a get_signal is being answered.
    """

    def __init__(self, vehicle: Vehicle, start_ns: int) -> None:
        self._zone = load_site(vehicle.site).zone
        self._period_ns = vehicle.sampling.period_ns
        self.start_ns = start_ns
        self.calls: list[float] = []
        self.wrong: list[str] = []
        self.busy = threading.Event()
        self.under_way = threading.Event()
        self._changed = threading.Condition()
        self._active = 0
        self._samples: list[list[float]] = []
        self._first = 0
        self._script: queue.Queue[Behaviour] = queue.Queue()
        self.server = RemoteServer(default=self._serve)
        self.url = self.server.url

    def script(self, *behaviours: Behaviour) -> None:
        """Answer the next calls so instead."""
        for behaviour in behaviours:
            self._script.put(behaviour)

    def give(self, sample: dict[str, float]) -> None:
        """A sample that follows the one before by one period."""
        with self._changed:
            self._samples.append([sample.get(name, 0.0) for name in SIGNALS])
            self._changed.notify_all()

    def forget(self) -> None:
        """What the box has recorded by now is never asked for."""
        with self._changed:
            self._first += len(self._samples)
            self._samples.clear()

    def window(self, values: NDArray[np.float64], first: int) -> dict[str, object]:
        """The ``result`` with these samples, the first of which has that number."""
        return self.window_at(values, self.start_ns + first * self._period_ns)

    def window_at(self, values: NDArray[np.float64], start_ns: int) -> dict[str, object]:
        """The ``result`` with these samples, the first of which was taken then."""
        return encode_window(values, start_ns, self._zone)

    def wait_for_calls(self, count: int) -> None:
        """Until so many get_signal have come."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.calls) >= count, LONG_S), self.calls

    def wait_until_idle(self) -> None:
        """Until no call is under way."""
        with self._changed:
            assert self._changed.wait_for(lambda: not self._active, LONG_S)

    def stop(self) -> None:
        """Nobody listens any more."""
        self.server.stop()

    def start(self) -> None:
        """Listen on the same port again."""
        self.server.start()

    def _serve(self, exchange: Exchange) -> None:
        gone = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(exchange.connection, gone), daemon=True)
        with self._changed:
            # A client that has given a call up may be here again before word of that is.
            if not self._changed.wait_for(lambda: not self._active, _GONE_S):
                self.wrong.append("two calls at once")
            if self.busy.is_set():
                self.wrong.append("a get_signal while a flash was under way")
            self._active += 1
            self.under_way.set()
            self.calls.append(float(exchange.request.body["signal_duration"]))
            self._changed.notify_all()
        watcher.start()
        try:
            try:
                behave = self._script.get_nowait()
            except queue.Empty:
                behave = self._box(gone)
            behave(exchange)
        finally:
            with self._changed:
                self._active -= 1
                self.under_way.clear()
                self._changed.notify_all()

    def _box(self, gone: threading.Event) -> Behaviour:
        def behave(exchange: Exchange) -> None:
            wanted = round(exchange.request.body["signal_duration"] * UNIT_SAMPLES)
            with self._changed:
                self._changed.wait_for(
                    lambda: len(self._samples) >= wanted or gone.is_set() or exchange.ending.is_set(), LONG_S
                )
                if len(self._samples) < wanted or gone.is_set():
                    return
                values = np.array(self._samples[:wanted])
                del self._samples[:wanted]
                first, self._first = self._first, self._first + wanted
            answer({"success": True, "result": self.window(values, first)})(exchange)

        return behave

    def _watch(self, connection: socket.socket, gone: threading.Event) -> None:
        """Notice that the client has given the call up."""
        with contextlib.suppress(OSError):
            if connection.recv(1, socket.MSG_PEEK):
                return
        with self._changed:
            gone.set()
            self._changed.notify_all()
