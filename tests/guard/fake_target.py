"""A VCU in memory for the tests of what flashes it: pages, faults at any call, and a clock that it moves."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tspace_core.config import TorqueMap, Vehicle
from tspace_core.guard.target import Identity

Floats = NDArray[np.float32]


@dataclass
class Clock:
    """A clock that moves only when told; call it for ns."""

    ns: int = 1_000_000_000_000

    def __call__(self) -> int:
        return self.ns

    def pass_s(self, seconds: float) -> None:
        self.ns += round(seconds * 1e9)


@dataclass
class FakeTarget:
    """A `FlashTarget`; keeps every call in ``calls``.

    Attributes:
        pages: content of each page; the reference page is never written.
        active: the page in effect.
        cost_s: how far each call moves the clock.
        before: called with the number of the call (from 0) and its name before it acts; may raise or act.
        after: the same after it acted.
    """

    identity: Identity
    pages: dict[int, Floats]
    clock: Clock
    reference_page: int = 0
    active: int = 0
    cost_s: float = 0.001
    unlocked: bool = False
    calls: list[str] = field(default_factory=list)
    switches: list[int] = field(default_factory=list)
    before: Callable[[int, str], None] | None = None
    after: Callable[[int, str], None] | None = None

    @classmethod
    def of(cls, vehicle: Vehicle, clock: Clock, reference: TorqueMap | None = None) -> "FakeTarget":
        """The VCU that the vehicle's file describes, on its reference page."""
        assert vehicle.xcp is not None
        place = vehicle.xcp.parameters.get(vehicle.xcp.map_name)
        table = (reference or vehicle.default_map()).table
        pages = {page: table.copy() for page in (vehicle.xcp.reference_page, *vehicle.xcp.working_pages)}
        address = 0x8001_0000 if place is None else place.address
        identity = Identity(vehicle.vin, vehicle.xcp.software_id, address)
        return cls(identity, pages, clock, vehicle.xcp.reference_page, vehicle.xcp.reference_page)

    @property
    def in_effect(self) -> Floats:
        """The map that the vehicle drives by."""
        return self.pages[self.active]

    @property
    def working(self) -> list[int]:
        return [page for page in self.pages if page != self.reference_page]

    def _call(self, name: str) -> int:
        number = len(self.calls)
        self.calls.append(name)
        self.clock.pass_s(self.cost_s)
        if self.before is not None:
            self.before(number, name)
        return number

    def _done(self, number: int) -> None:
        if self.after is not None:
            self.after(number, self.calls[number])

    def identify(self) -> Identity:
        self._done(self._call("identify"))
        return self.identity

    def unlock(self) -> None:
        number = self._call("unlock")
        self.unlocked = True
        self._done(number)

    def idle_page(self) -> int:
        number = self._call("idle_page")
        idle = [page for page in self.working if page != self.active]
        if not idle:
            self._switch(self.reference_page)
            idle = self.working
        self._done(number)
        return idle[0]

    def write(self, page: int, table: Floats) -> int:
        number = self._call("write")
        assert self.unlocked, "written before seed and key"
        assert page != self.reference_page, "the reference page was written"
        assert page != self.active, "the page in effect was written"
        different = int(np.count_nonzero(self.pages[page] != table))
        self.pages[page] = np.array(table, dtype=np.float32)
        self._done(number)
        return different

    def read(self, page: int, first_row: int, rows: int) -> Floats:
        number = self._call("read")
        found = self.pages[page][first_row : first_row + rows].copy()
        self._done(number)
        return found

    def checksum_ok(self, page: int, table: Floats) -> bool:
        number = self._call("checksum_ok")
        same = self.pages[page].tobytes() == np.asarray(table, dtype=np.float32).tobytes()
        self._done(number)
        return same

    def activate(self, page: int) -> None:
        number = self._call("activate")
        self._switch(page)
        self._done(number)

    def active_page(self) -> int:
        number = self._call("active_page")
        self._done(number)
        return self.active

    def keep_alive(self) -> None:
        self._done(self._call("keep_alive"))

    def _switch(self, page: int) -> None:
        if page != self.active:
            self.switches.append(page)
        self.active = page
