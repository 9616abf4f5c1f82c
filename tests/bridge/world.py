"""A bridge in this process for tests: a virtual bus, a truck's frames, and a VCU in memory."""

import itertools
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import BaseModel

from tests.bridge.frames import MemoryVcu, all_frames
from tests.ports import free_port
from tspace_core.bridge.bridge import Bridge, BridgeOptions
from tspace_core.config import load_vehicle
from tspace_core.config.link import BusConfig, PortConfig
from tspace_core.config.settings import settings
from tspace_core.errors import ChannelError
from tspace_core.link.bus import SharedBus
from tspace_core.link.channel import ChannelClient
from tspace_core.link.endpoints import bridge_key
from tspace_core.link.float_buffer import to_hex
from tspace_core.link.messages import (
    Answer,
    Arm,
    Armed,
    Heartbeat,
    Hello,
    Message,
    Propose,
    Report,
    State,
    Status,
)

M = TypeVar("M", bound=BaseModel)
LIMIT_S = 30.0
FIRST_ROW = 8
PASSES = ("interval", "heartbeat", "age", "stale")
"""Refusals that pass: too soon after the flash before, or something late on a busy machine."""
LATE = {"REFUSED": 0}
"""Put over the counts of flashes, it leaves those refusals out of account."""


def until(done: Callable[[], bool], what: str) -> None:
    """Wait for something that only polling can see."""
    pause = threading.Event()
    deadline = time.monotonic() + LIMIT_S
    while not done():
        assert time.monotonic() < deadline, f"waited {LIMIT_S:.0f} s for {what}"
        pause.wait(0.01)


def await_message(client: ChannelClient, kind: type[M]) -> M:
    """The next message of that kind; pushed states before it are skipped."""
    while (message := client.receive(LIMIT_S)) is not None:
        if isinstance(message, kind):
            return message
        assert isinstance(message, State), message
    pytest.fail(f"no {kind.__name__} within {LIMIT_S:.0f} s")


class Truck:
    """Sends what a rolling truck sends, all 20 ms, while ``rolling`` is set."""

    def __init__(self, bus: SharedBus) -> None:
        self.bus = bus
        self.rolling = threading.Event()
        self.rolling.set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        for counter in itertools.count():
            if self._ended.wait(0.02):
                return
            if self.rolling.is_set():
                for one in all_frames(counter):
                    self.bus.send(one.arbitration_id, bytes(one.data))

    def end(self) -> None:
        self._ended.set()
        self._thread.join(LIMIT_S)


class AgentTwin:
    """An agent on the channel that sends heartbeats until told otherwise."""

    def __init__(self, client: ChannelClient) -> None:
        self.client = client
        self.beating = threading.Event()
        self.beating.set()
        self.states: list[State] = []
        self._ended = threading.Event()
        self._numbers = itertools.count()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        while not self._ended.wait(0.1):
            if self.beating.is_set():
                try:
                    self.client.send(Heartbeat(n=next(self._numbers)))
                except ChannelError:
                    return

    def expect(self, kind: type[M]) -> M:
        """The next message of that kind; states before it are kept in ``states``."""
        deadline = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline:
            message = self.client.receive(LIMIT_S)
            if isinstance(message, State):
                self.states.append(message)
            if isinstance(message, kind):
                return message
            assert isinstance(message, State), message
        pytest.fail(f"no {kind.__name__} within {LIMIT_S:.0f} s")

    def expect_state(self, state: str) -> State:
        deadline = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline:
            found = self.expect(State)
            if found.state == state:
                return found
        pytest.fail(f"never {state}")

    def arm(self, resume: str | None = None) -> Armed:
        self.client.send(Arm(by="test", resume=resume))
        return self.expect(Armed)

    def propose(self, number: int, rows: NDArray[np.float32], first_row: int = FIRST_ROW) -> Answer:
        self.client.send(Propose(id=number, first_row=first_row, rows=to_hex(rows)))
        return self.expect(Answer)

    def flash(self, rows: NDArray[np.float32], number: int = 1) -> Answer:
        """The answer to rows that were proposed until nothing was against them that passes."""
        deadline = time.monotonic() + LIMIT_S
        answer = self.propose(number, rows)
        while answer.reason.startswith(PASSES) and time.monotonic() < deadline:
            threading.Event().wait(0.1)
            answer = self.propose(number, rows)
        return answer

    def close(self) -> None:
        self._ended.set()
        self.client.close()
        self._thread.join(LIMIT_S)


class World:
    """The bridge of a twin_truck and what is around it.

    Attributes:
        told: the lines that the bridge told whoever watches.
        cause: why it ended.
    """

    def __init__(self, stack: ExitStack, *, standby: bool) -> None:
        vehicle = load_vehicle("twin_truck")
        bus = BusConfig(interface="virtual", channel=f"bridge-{os.getpid()}-{secrets.token_hex(4)}")
        ports = PortConfig(udp=free_port(socket.SOCK_DGRAM), bridge=free_port(socket.SOCK_STREAM))
        self.vehicle = vehicle.model_copy(update={"bus": bus, "ports": ports})
        assert ports.udp is not None
        assert ports.bridge is not None
        self.udp, self.channel = ports.udp, ports.bridge
        self.bus = stack.enter_context(SharedBus(bus))
        self.truck = Truck(self.bus)
        stack.callback(self.truck.end)
        self.vcu = MemoryVcu(self.vehicle)
        self.told: list[str] = []
        self.cause = ""
        self.error: BaseException | None = None
        self._stack = stack
        self.bridge = Bridge(
            self.vehicle,
            BridgeOptions(standby=standby, tell=self.told.append),
            connect=lambda vehicle, bus: self.vcu,
        )
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

    def rows(self, factor: float = 0.99) -> NDArray[np.float32]:
        """Rows that the guard takes: a little less torque where it is positive."""
        rows = np.array(self.vehicle.default_map().table[FIRST_ROW : FIRST_ROW + 4])
        rows[rows > 0] *= np.float32(factor)
        return rows

    def connect(self, role: str = "agent", key: bytes | None = None) -> ChannelClient:
        hello = Hello.model_validate(
            {"role": role, "vehicle_id": self.vehicle.id, "run_id": f"{role}-1", "version": "0"}
        )
        return ChannelClient.connect("127.0.0.1", self.channel, key or bridge_key(), hello, timeout_s=LIMIT_S)

    def agent(self) -> AgentTwin:
        """An agent; samples have come, so that it may arm."""
        agent = AgentTwin(self.connect())
        self._stack.callback(agent.close)
        until(
            lambda: len(self.report().signals) > 0 and self.report().signals["velocity"] is not None,
            "samples",
        )
        return agent

    def armed(self) -> AgentTwin:
        agent = self.agent()
        answer = agent.arm()
        deadline = time.monotonic() + LIMIT_S
        while "not alive" in answer.reason and time.monotonic() < deadline:  # samples that were late
            threading.Event().wait(0.1)
            answer = agent.arm()
        assert answer.ok, answer.reason
        return agent

    def flashed(self) -> AgentTwin:
        """An armed agent whose map is in effect."""
        agent = self.armed()
        answer = agent.flash(self.rows())
        assert answer.result == "APPLIED", answer.reason
        assert self.vcu.page != self.vcu.reference_page
        return agent

    def report(self) -> Report:
        return self.operate(Status())

    def operate(self, command: Message) -> Report:
        """The bridge's report when an operator's command is done."""
        with self.connect("operator") as client:
            client.send(command)
            return await_message(client, Report)

    def hmi(self, status: str) -> None:
        """The HMI says something to the bridge in standby."""
        assert self.bridge._standby is not None
        assert self.bridge._standby.listening.wait(LIMIT_S)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(json.dumps({"status": status}).encode(), ("127.0.0.1", self.udp))

    def on_reference(self) -> bool:
        return self.vcu.wait_page(lambda page: page == self.vcu.reference_page, LIMIT_S)

    def end(self) -> None:
        if self._thread.is_alive():
            self.bridge.stop("the test is over")
            self._thread.join(LIMIT_S)
        assert not self._thread.is_alive()


@contextmanager
def world(folder: Path, monkeypatch: pytest.MonkeyPatch, *, standby: bool = True) -> Iterator[World]:
    """A bridge whose state on disk is below ``folder``; all is ended at the end."""
    monkeypatch.setenv("TSPACE_DATA_DIR", str(folder))
    settings.cache_clear()
    try:
        with ExitStack() as stack:
            yield World(stack, standby=standby)
    finally:
        settings.cache_clear()
