"""How long it takes to write and to flash a torque map over XCP, beside what the bus itself needs for it.

Three ways to the simulated VCU: python-can's ``virtual`` bus in this process, ``udp_multicast`` to another
process, and a simulated wire of 500 kbit/s in this process, on which each frame takes the time of its bits
(``online_wire``). The first two have no bit rate, so only the third says how near to the bus' limit we come:
the limit is the sum of the bits of the frames that were really sent, answers included. "Unstuffed" leaves
their stuff bits out, "worst case" has as many as frames of these lengths can have. "Best tenth" is the 10 %
quantile of the calls: what remains where nothing else wants the processor.

=========  ==========================================================================================
download   SET_MTA and DOWNLOADs of 272 bytes: what pyxcp's ``push`` does
write      ``Calibration.write``: is the page idle, select it, then only what changed
flash      the guard's whole transaction: page in effect, its checksum, write, read back, checksum,
           switch, page in effect; without the audit log's fsync
=========  ==========================================================================================
"""

import logging
import socket
import statistics
import subprocess
import sys
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import can
import numpy as np
from interleaved import Result
from numpy.typing import NDArray
from online_vcu import VEHICLE, answering_vcu
from online_wire import Traffic, Wire, simulated_wire

from tspace_core.config import TorqueMap, Vehicle, load_vehicle
from tspace_core.config.link import BusConfig
from tspace_core.guard.commands import Commands
from tspace_core.guard.transaction import Session, flash
from tspace_core.link.bus import SharedBus
from tspace_core.link.calibration import Calibration
from tspace_core.link.parameters import find_places
from tspace_core.link.xcp import XcpMaster
from tspace_core.link.xcp_can import XcpCan, ids_of
from tspace_core.link.xcp_packets import PageMode
from tspace_core.twin.seed_and_key import key_of

BITRATE = 500_000
GROUP = "239.74.163.9"
WIRE = f"{BITRATE // 1000} kbit/s"
WAYS = ("virtual", "udp_multicast", WIRE)
ROWS = slice(4, 8)
DOWNLOAD = "download 272 bytes"
PATIENCE_S = 60.0

Call = Callable[[], object]


class Effort(NamedTuple):
    """How often something is done: first some that do not count, then those that are timed."""

    warm_ups: int
    calls: int


@dataclass
class Timed:
    """Seconds of each call, and what one of them puts on the bus."""

    seconds: list[float] = field(default_factory=list)
    traffic: Traffic = field(default_factory=Traffic)

    @property
    def median_s(self) -> float:
        """Of a call."""
        return statistics.median(self.seconds)

    def run(self, call: Call, effort: Effort, wire: Wire | None) -> None:
        """Time further calls."""
        for number in range(effort.warm_ups + effort.calls):
            before = wire.traffic if wire is not None else Traffic()
            began = time.perf_counter()
            call()
            took = time.perf_counter() - began
            if number >= effort.warm_ups:
                self.seconds.append(took)
                if wire is not None:
                    self.traffic = wire.traffic - before


Found = dict[tuple[str, bool, str, str], Timed]
"""By way, block mode, what, subject."""


def changed_maps(default: TorqueMap) -> dict[str, NDArray[np.float32]]:
    """The default map with other cells in four rows, by what changed."""
    generator = np.random.default_rng(5)
    shape = default.table[ROWS].shape
    side_by_side = np.zeros(shape, bool)
    side_by_side[:, 4:9] = True
    scattered = np.zeros(shape, bool)
    scattered.flat[generator.choice(scattered.size, 20, replace=False)] = True
    chosen = {
        "4 rows": np.ones(shape, bool),
        "20 cells side by side": side_by_side,
        "20 cells scattered": scattered,
    }
    found = {}
    for name, cells in chosen.items():
        table = default.table.copy()
        table[ROWS][cells] -= np.float32(20.25)
        found[name] = table
    return found


def rows_of(table: TorqueMap, address: int) -> tuple[int, bytes]:
    """Where the rows lie in a page whose map begins at ``address``, and their bytes."""
    return address + ROWS.start * table.table.shape[1] * 4, table.table[ROWS].astype("<f4").tobytes()


class OurMaster:
    """Our calibration on a bus: calls that can be made again and again, each with the same bytes."""

    def __init__(self, vehicle: Vehicle, bus: SharedBus) -> None:
        assert vehicle.xcp is not None
        self._segment = vehicle.xcp.segment
        self._default = vehicle.default_map()
        self._master = XcpMaster(XcpCan(bus, vehicle.xcp), vehicle.xcp)
        self._calibration = Calibration(self._master, vehicle)
        self._identity = self._calibration.identify()
        self._calibration.unlock()

    def close(self) -> None:
        """End the session."""
        self._calibration.close()

    def calls(self) -> Iterator[tuple[str, Call]]:
        """Each with the VCU prepared for it."""
        yield DOWNLOAD, self._download()
        for name, table in changed_maps(self._default).items():
            yield f"write {name}", self._write(table)
        for name, table in changed_maps(self._default).items():
            yield f"flash {name}", self._flash(table)
            self._calibration.activate(self._calibration.reference_page)

    def _download(self) -> Call:
        address, data = rows_of(self._default, self._identity.map_address)
        self._master.set_cal_page(PageMode.XCP, self._segment, self._calibration.idle_page())

        def download() -> None:
            self._master.set_mta(address)
            self._master.download(data)

        return download

    def _write(self, table: NDArray[np.float32]) -> Call:
        page = self._calibration.idle_page()
        tables = [self._default.table, table]

        def write() -> None:
            self._calibration.write(page, tables[0])
            tables.reverse()

        return write

    def _flash(self, table: NDArray[np.float32]) -> Call:
        commands = Commands(self._calibration, time.monotonic_ns)
        session = Session(self._identity, self._calibration.active_page(), self._default)
        # Two working pages, each with two maps of its own that differ by what is to be written: the idle page
        # holds the map of the last flash but one, and no flash asks for the map in effect.
        axes = self._default.pedal_axis, self._default.speed_axis_kmh
        shift = np.zeros_like(table)
        shift[-1] = 1.0
        one, two = self._default.table, table
        maps = [TorqueMap(*axes, cells) for cells in (one, one - shift, two, two - shift)]

        def call() -> None:
            wanted = maps.pop(0)
            maps.append(wanted)
            done = flash(
                commands,
                session,
                wanted,
                record=lambda page, cells: None,
                now_ns=time.monotonic_ns,
                limit_s=2.0,
                mark=commands.mark(),
            )
            if done.result != "APPLIED" or done.page is None:
                sys.exit(f"a flash was not applied: {done}")
            session.page, session.live = done.page, wanted

        return call


@contextmanager
def pyxcp_push(vehicle: Vehicle, bus: can.BusABC) -> Iterator[Call]:
    """What the peer does for the same 272 bytes.

    Raises:
        ImportError: it is not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pyxcp.config import create_application_from_config
        from pyxcp.master import Master
    sys.excepthook = sys.__excepthook__  # it puts one of its own there
    assert vehicle.xcp is not None
    can_config = {"can_id_master": vehicle.xcp.request_id, "can_id_slave": vehicle.xcp.response_id}
    settings = {"Transport": {"CAN": can_config}}
    application = create_application_from_config(settings, log_level=logging.CRITICAL)
    application.transport.timeout = 5.0
    start = find_places(vehicle)[vehicle.xcp.map_name].address
    address, data = rows_of(vehicle.default_map(), start)
    with Master("can", config=application, transport_layer_interface=bus) as master:
        master.connect()
        _unlock(master)
        master.setCalPage(PageMode.XCP, vehicle.xcp.segment, vehicle.xcp.working_pages[0])
        if master.getCommModeInfo().commModeOptional.masterBlockMode:
            yield lambda: master.push(address, 0, data)
        else:
            yield lambda: _download(master, address, data)
        master.disconnect()


def _download(master: Any, address: int, data: bytes) -> None:
    """Packet by packet: without block mode its ``push`` does not wait for answers and loses count of them."""
    master.setMta(address)
    for first in range(0, len(data), 6):
        master.download(data[first : first + 6])


def _unlock(master: Any) -> None:
    answer = master.getSeed(0, 1)
    seed = bytes(answer.seed)
    while len(seed) < answer.length:
        seed += bytes(master.getSeed(1, 1).seed)
    key = key_of(seed, 1)
    for first in range(0, len(key), 6):
        master.unlock(len(key) - first, key[first : first + 6])


@contextmanager
def _vcu_process(port: int, *, block_mode: bool) -> Iterator[None]:
    command = [sys.executable, str(__file__).replace("online_flash", "online_vcu"), GROUP]
    process = subprocess.Popen(
        [*command, str(port), str(block_mode)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        if process.stdout.readline() != "ready\n":
            sys.exit("the process with the VCU did not start")
        yield
    finally:
        process.stdin.close()
        process.wait(PATIENCE_S)
        process.stdout.close()


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@dataclass
class Stage:
    """A bus with a VCU on it."""

    way: str
    block_mode: bool
    config: BusConfig
    wire: Wire | None
    plain: Callable[[], can.BusABC]
    """Opens the same bus as python-can does, for the peer."""


@contextmanager
def _stage(way: str, vehicle: Vehicle, *, block_mode: bool) -> Iterator[Stage]:
    if way == "udp_multicast":
        port = _free_port()
        config = BusConfig(interface="udp_multicast", channel=GROUP, port=port)
        with _vcu_process(port, block_mode=block_mode):
            yield Stage(way, block_mode, config, None, lambda: can.Bus(GROUP, "udp_multicast", port=port))
        return
    config = BusConfig(interface="virtual", channel=f"flash-{uuid.uuid4()}", bitrate=BITRATE)
    with ExitStack() as stack:
        wire = stack.enter_context(simulated_wire(BITRATE)) if way == WIRE else None
        stack.enter_context(answering_vcu(vehicle, config, block_mode=block_mode))
        channel = config.channel
        plain = wire.port if wire is not None else (lambda: can.Bus(channel, "virtual"))
        yield Stage(way, block_mode, config, wire, plain)


def measure(rounds: int, effort: Effort, block_modes: Sequence[bool] = (True, False)) -> Found:
    """Time everything in turns.

    Args:
        rounds: each opens every bus anew.
        effort: calls of each kind in each round.
        block_modes: with block mode, without.
    """
    vehicle = load_vehicle(VEHICLE)
    found: Found = {}
    for number in range(rounds):
        for way in WAYS:
            for block in block_modes:
                print(f"flash: round {number + 1} of {rounds}, {way}, block mode {block}", file=sys.stderr)
                with _stage(way, vehicle, block_mode=block) as stage:
                    _measure(stage, vehicle, effort, found)
    return found


def _measure(stage: Stage, vehicle: Vehicle, effort: Effort, found: Found) -> None:
    assert vehicle.xcp is not None
    with SharedBus(stage.config, ids=ids_of(vehicle.xcp)) as bus:
        ours = OurMaster(vehicle, bus)
        for what, call in ours.calls():
            timed = found.setdefault((stage.way, stage.block_mode, what, "tspace"), Timed())
            timed.run(call, effort, stage.wire)
        ours.close()
    try:
        with stage.plain() as plain, pyxcp_push(vehicle, plain) as call:
            timed = found.setdefault((stage.way, stage.block_mode, DOWNLOAD, "pyxcp"), Timed())
            timed.run(call, effort, stage.wire)
    except ImportError as error:
        print(f"pyxcp is left out: {error}; install the `dev` extra for it", file=sys.stderr)
    except SystemExit as error:  # how it ends on a protocol error
        print(f"pyxcp gave up: {error}", file=sys.stderr)


def results(found: Found) -> list[Result]:
    """Milliseconds of everything, and on the wire what the bus needs and how near to it we come."""
    lines = []
    for (way, block, what, subject), timed in found.items():
        name = f"{what}, {'blocks' if block else 'no blocks'}, {way}"
        lines.append(Result(name, subject, 1e3 * timed.median_s, "ms", "lower"))
        if way != WIRE:
            continue
        traffic = timed.traffic
        limit_s = traffic.bits / BITRATE
        tenth_s = statistics.quantiles(timed.seconds, n=10, method="inclusive")[0]
        figures = (
            ("frames", float(traffic.frames), "frames"),
            ("bus limit", 1e3 * limit_s, "ms"),
            ("limit unstuffed", 1e3 * traffic.least / BITRATE, "ms"),
            ("limit worst case", 1e3 * traffic.most / BITRATE, "ms"),
            ("time / limit", timed.median_s / limit_s, "x"),
            ("time / limit, best tenth", tenth_s / limit_s, "x"),
        )
        lines += [Result(f"{name}: {title}", subject, value, unit, "lower") for title, value, unit in figures]
    return lines
