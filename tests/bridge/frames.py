"""What tests of the bridge put in place of a truck: its frames, and a VCU's pages in memory."""

import threading
from collections.abc import Callable

import can
import numpy as np
from numpy.typing import NDArray

from tspace_core.config.vehicle import Vehicle
from tspace_core.errors import LinkError
from tspace_core.guard.target import Identity

SPEED, PEDALS, BATTERY = 272, 288, 528


def frame(number: int, data: bytes, *, extended: bool = False) -> can.Message:
    return can.Message(arbitration_id=number, data=data, is_extended_id=extended)


def speed(kmh: float, counter: int) -> can.Message:
    return frame(SPEED, round(kmh * 100).to_bytes(2, "little") + bytes(5) + bytes([counter % 16]))


def pedals(thrust: float, brake: float, counter: int) -> can.Message:
    data = round(thrust * 10).to_bytes(2, "little") + round(brake * 10).to_bytes(2, "little")
    return frame(PEDALS, data + bytes(3) + bytes([counter % 16]))


def battery(amps: float, volts: float, counter: int) -> can.Message:
    data = round(amps * 10).to_bytes(2, "big", signed=True) + round(volts * 10).to_bytes(2, "big")
    return frame(BATTERY, data + bytes(3) + bytes([counter % 16]))


def all_frames(counter: int) -> tuple[can.Message, ...]:
    """All that driving needs, of a truck that rolls along at 50 km/h."""
    return speed(50, counter), pedals(20, 0, counter), battery(-12.5, 650.5, counter)


class MemoryVcu:
    """A `FlashTarget` whose VCU is in memory.

    Attributes:
        page: the page in effect.
        pages: tables by page.
        dead: every command raises while set.
        hold: a write waits for it; set means it does not wait.
        writing: set while a write waits.
    """

    def __init__(self, vehicle: Vehicle) -> None:
        assert vehicle.xcp is not None
        self._xcp, self._vin = vehicle.xcp, vehicle.vin
        self.reference_page = self._xcp.reference_page
        table = np.array(vehicle.default_map().table)
        self.pages = {page: table.copy() for page in (self.reference_page, *self._xcp.working_pages)}
        self.page = self.reference_page
        self.changed = threading.Condition()
        self.dead = False
        self.hold = threading.Event()
        self.hold.set()
        self.writing = threading.Event()

    def _alive(self) -> None:
        if self.dead:
            message = "the VCU does not answer"
            raise LinkError(message)

    def identify(self) -> Identity:
        self._alive()
        return Identity(self._vin, self._xcp.software_id, 0)

    def unlock(self) -> None:
        self._alive()

    def idle_page(self) -> int:
        self._alive()
        return next(page for page in self._xcp.working_pages if page != self.page)

    def write(self, page: int, table: NDArray[np.float32]) -> int:
        self._alive()
        self.writing.set()
        self.hold.wait(30.0)
        self.pages[page] = np.array(table)
        return int(table.size)

    def read(self, page: int, first_row: int, rows: int) -> NDArray[np.float32]:
        self._alive()
        return np.array(self.pages[page][first_row : first_row + rows], np.float32)

    def checksum_ok(self, page: int, table: NDArray[np.float32]) -> bool:
        self._alive()
        return bool(np.array_equal(self.pages[page], table))

    def activate(self, page: int) -> None:
        self._alive()
        with self.changed:
            self.page = page
            self.changed.notify_all()

    def active_page(self) -> int:
        self._alive()
        return self.page

    def keep_alive(self) -> None:
        self._alive()

    def wait_page(self, wanted: Callable[[int], bool], timeout_s: float = 20.0) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: wanted(self.page), timeout_s)
