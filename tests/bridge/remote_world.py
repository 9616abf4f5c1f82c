"""A vehicle behind a real HTTP service, and its bridge in this process."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.bridge.world import FIRST_ROW, LIMIT_S, AgentTwin, await_message, until
from tests.link.remote_server import OK, Behaviour, Exchange, RemoteServer
from tests.ports import free_port
from tspace_core.bridge.base import BridgeBase, BridgeOptions
from tspace_core.bridge.choice import bridge_of
from tspace_core.config import Vehicle, load_vehicle
from tspace_core.config.link import PortConfig
from tspace_core.config.settings import settings
from tspace_core.link.channel import ChannelClient
from tspace_core.link.endpoints import bridge_key
from tspace_core.link.messages import Arm, Armed, Hello, Message, Observe, Report, Status

Floats = NDArray[np.float32]


class Car:
    """What drives behind the service: takes rows, and answers by the server's script or with success.

    Attributes:
        table: the map in effect.
        calls: first row and number of rows of each call.
        changed: notified with each call.
    """

    def __init__(self, vehicle: Vehicle) -> None:
        self.reference = vehicle.default_map().table
        self.table: Floats = self.reference.copy()
        self.calls: list[tuple[int, int]] = []
        self.changed = threading.Condition()
        self.server = RemoteServer(default=self.does(OK))

    def does(self, then: Behaviour) -> Behaviour:
        """The rows take effect; then the answer."""

        def behave(exchange: Exchange) -> None:
            body = exchange.request.body
            rows = np.array(body["torque"], np.float32)
            with self.changed:
                self.calls.append((body["start_line"], len(rows)))
                self.table[body["start_line"] : body["start_line"] + len(rows)] = rows
                self.changed.notify_all()
            then(exchange)

        return behave

    def held(self, release: threading.Event, then: Behaviour = OK) -> Behaviour:
        """The rows take effect; the answer comes when released."""

        def wait(exchange: Exchange) -> None:
            release.wait(LIMIT_S)
            then(exchange)

        return self.does(wait)

    @property
    def on_reference(self) -> bool:
        return np.array_equal(self.table, self.reference)

    def wait_for(self, done: Callable[[], bool], timeout_s: float = LIMIT_S) -> bool:
        """Until a call made it so."""
        with self.changed:
            return self.changed.wait_for(done, timeout_s)


class RemoteAgent(AgentTwin):
    """An agent that tells of a window now and then, as one does that asks for them."""

    def __init__(self, client: ChannelClient) -> None:
        super().__init__(client)
        self.observe()

    def observe(self, velocity: float = 60.0, thrust: float = 30.0, *, reason: str = "") -> None:
        self.client.send(
            Observe(
                velocity_kmh=velocity,
                thrust_percent=thrust,
                brake_percent=0.0,
                age_ms=500.0,
                valid=not reason,
                reason=reason,
            )
        )

    def armed(self) -> Armed:
        answer = self.arm()
        assert answer.ok, answer.reason
        return answer

    def arm(self, resume: str | None = None) -> Armed:
        self.client.send(Arm(by="test", resume=resume))
        return self.expect(Armed)


class RemoteWorld:
    """The bridge of twin_remote and what is around it."""

    def __init__(self, stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
        ports = PortConfig(udp=free_port(socket.SOCK_DGRAM), bridge=free_port(socket.SOCK_STREAM))
        vehicle = load_vehicle("twin_remote")
        assert vehicle.remote is not None
        remote = vehicle.remote.model_copy(update={"set_torque_s": 8.0, "backoff_s": 0.01})
        self.vehicle = vehicle.model_copy(update={"ports": ports, "remote": remote})
        assert ports.bridge is not None
        self.channel = ports.bridge
        self.car = Car(self.vehicle)
        self.server = self.car.server
        stack.enter_context(self.server)
        monkeypatch.setenv("TSPACE_REMOTE__URL", self.server.url)
        settings.cache_clear()
        self.told: list[str] = []
        self.cause = ""
        self.error: BaseException | None = None
        self._stack = stack
        self.bridge: BridgeBase = bridge_of(self.vehicle, BridgeOptions(tell=self.told.append))
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        stack.callback(self.end)
        until(lambda: self.bridge.ready.is_set() or not self._thread.is_alive(), "the bridge")
        assert self.bridge.ready.is_set(), self.error

    def _run(self) -> None:
        try:
            self.cause = self.bridge.run(signals=())
        except BaseException as error:  # told by who waits for it
            self.error = error

    @property
    def audit(self) -> Path:
        return settings().online_dir / self.vehicle.id / "audit.jsonl"

    def rows(self, factor: float = 0.99) -> Floats:
        """Rows that the guard takes: a little less torque where it is positive."""
        rows = np.array(self.vehicle.default_map().table[FIRST_ROW : FIRST_ROW + 4])
        rows[rows > 0] *= np.float32(factor)
        return rows

    def connect(self, role: str = "agent") -> ChannelClient:
        hello = Hello.model_validate(
            {"role": role, "vehicle_id": self.vehicle.id, "run_id": f"{role}-1", "version": "0"}
        )
        return ChannelClient.connect("127.0.0.1", self.channel, bridge_key(), hello, timeout_s=LIMIT_S)

    def armed(self) -> RemoteAgent:
        agent = RemoteAgent(self.connect())
        self._stack.callback(agent.close)
        agent.armed()
        return agent

    def flashed(self) -> RemoteAgent:
        agent = self.armed()
        answer = agent.flash(self.rows())
        assert answer.result == "APPLIED", answer.reason
        assert not self.car.on_reference
        return agent

    def report(self) -> Report:
        return self.operate(Status())

    def operate(self, command: Message) -> Report:
        """The bridge's report when an operator's command is done."""
        with self.connect("operator") as client:
            client.send(command)
            return await_message(client, Report)

    def end(self) -> None:
        if self._thread.is_alive():
            self.bridge.stop("the test is over")
            self._thread.join(LIMIT_S)
        assert not self._thread.is_alive()


@contextmanager
def remote_world(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RemoteWorld]:
    """A bridge whose state on disk is below ``folder``; all is ended at the end."""
    monkeypatch.setenv("TSPACE_DATA_DIR", str(folder))
    settings.cache_clear()
    try:
        with ExitStack() as stack:
            yield RemoteWorld(stack, monkeypatch)
    finally:
        settings.cache_clear()
