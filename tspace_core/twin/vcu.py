"""The simulated VCU's torque maps: a reference page that stays and working pages that are flashed."""

import hashlib
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tspace_core.config.torque_map import FLASHED_ROWS, TorqueMap
from tspace_core.config.vehicle import Vehicle
from tspace_core.errors import TwinError
from tspace_core.twin.fleet import Fleet
from tspace_core.twin.kernel import map_torque
from tspace_core.twin.truck import build_plant, table_of

if TYPE_CHECKING:
    from collections.abc import Callable


class Vcu:
    """Interpolates the torque map of the page in effect, as an ECU with calibration pages does.

    The reference page holds the default map and cannot be written. Working pages start as copies of it and
    hold whatever bytes are written, as memory does. Writing the page that is in effect acts at once, byte by
    byte; this is what a careful master avoids. Not thread-safe.

    Args:
        vehicle: a vehicle with a twin. Its ``xcp`` says which pages there are; without one: 0 and 1.
        fleet: where given, the page in effect drives its vehicle ``index``, from each change on.
        index: number of the vehicle in ``fleet``.

    Attributes:
        vehicle: as given.
        reference_page: number of the page that cannot be written; in effect at the start.
        working_pages: numbers of the others.
    """

    def __init__(self, vehicle: Vehicle, fleet: Fleet | None = None, index: int = 0) -> None:
        self.vehicle = vehicle
        self.reference_page = vehicle.xcp.reference_page if vehicle.xcp else 0
        self.working_pages = vehicle.xcp.working_pages if vehicle.xcp else (1,)
        self._reference = vehicle.default_map()
        self._bytes = {
            page: bytearray(self._reference.table.astype("<f4").tobytes())
            for page in (self.reference_page, *self.working_pages)
        }
        self._page = self.reference_page
        self._active = self._reference
        self._plant = build_plant(vehicle)
        self._put: Callable[[TorqueMap], None] | None = None
        if fleet is not None:
            self.drive(fleet, index)

    @property
    def pages(self) -> tuple[int, ...]:
        """Numbers of all pages, the reference page first."""
        return (self.reference_page, *self.working_pages)

    @property
    def page(self) -> int:
        """Number of the page in effect."""
        return self._page

    @property
    def size(self) -> int:
        """Bytes of a page."""
        return len(self._bytes[self.reference_page])

    @property
    def reference(self) -> TorqueMap:
        """The map of the reference page."""
        return self._reference

    @property
    def active(self) -> TorqueMap:
        """The map in effect. A cell of its page that is not finite counts as the reference's cell there."""
        return self._active

    def drive(self, fleet: Fleet, index: int = 0) -> None:
        """Let the page in effect drive vehicle ``index`` of ``fleet`` from now on, and no other."""

        def put(torque_map: TorqueMap) -> None:
            fleet.set_map(index, torque_map)

        self._put = put
        put(self._active)

    def table(self, page: int) -> NDArray[np.float32]:
        """The table of a page bit for bit, float32, shape (speeds, pedals), Nm; a copy.

        Raises:
            TwinError: there is no such page.
        """
        content = np.frombuffer(bytes(self._known(page)), dtype="<f4")
        return content.reshape(self._reference.table.shape).astype(np.float32)

    def sha256(self, page: int) -> str:
        """Hash of a page with the map's axes; that of ``TorqueMap.sha256`` for the same table."""
        digest = hashlib.sha256()
        for axis in (self._reference.pedal_axis, self._reference.speed_axis_kmh):
            digest.update(axis.astype("<f4").tobytes())
        digest.update(self._known(page))
        return digest.hexdigest()

    def read(self, page: int, offset: int, count: int) -> bytes:
        """Bytes of a page.

        Raises:
            TwinError: there is no such page, or the bytes are not all inside it.
        """
        content = self._known(page)
        self._inside(offset, count)
        return bytes(content[offset : offset + count])

    def write(self, page: int, offset: int, data: bytes) -> None:
        """Write bytes of a working page; in effect at once where that page is.

        Raises:
            TwinError: the page is the reference page or does not exist, or the bytes are not all inside it.
        """
        content = self._known(page)
        self._inside(offset, len(data))
        if page == self.reference_page:
            message = f"page {page} is the reference page and cannot be written; write {self.working_pages}"
            raise TwinError(message)
        content[offset : offset + len(data)] = data
        if page == self._page:
            self._activate()

    def write_rows(self, page: int, first_row: int, torque_nm: ArrayLike) -> None:
        """Write rows of a working page.

        Args:
            page: which.
            first_row: index of the first row written.
            torque_nm: shape (rows, columns), Nm.

        Raises:
            TwinError: the page cannot be written, or the rows do not fit or hold a value that is not finite.
        """
        rows = np.asarray(torque_nm, dtype=np.float32)
        shape = self._reference.table.shape
        fits = rows.ndim == 2 and rows.shape[1] == shape[1] and first_row >= 0
        if not fits or first_row + len(rows) > shape[0] or not np.all(np.isfinite(rows)):
            message = (
                f"rows of shape {rows.shape} from row {first_row} do not fit a map of {shape}, or "
                f"hold a value that is not finite; a flash writes {FLASHED_ROWS} finite rows inside the map"
            )
            raise TwinError(message)
        self.write(page, first_row * shape[1] * rows.itemsize, rows.astype("<f4").tobytes())

    def select(self, page: int) -> None:
        """Put a page into effect; all pages keep their content.

        Raises:
            TwinError: there is no such page.
        """
        self._known(page)
        self._page = page
        self._activate()

    def copy(self, source: int, target: int) -> None:
        """Make a working page a copy of another page.

        Raises:
            TwinError: one of them does not exist, or the target is the reference page.
        """
        self.write(target, 0, bytes(self._known(source)))

    def torque(self, pedal: float, speed_kmh: float) -> float:
        """Torque in Nm of the page in effect at a pedal position (fraction) and a speed."""
        plant = self._plant
        return map_torque(table_of(self._active, plant), plant.pedal_axis, plant.speed_axis, pedal, speed_kmh)

    def _known(self, page: int) -> bytearray:
        if page not in self._bytes:
            message = f"there is no page {page}; the VCU has {self.pages}"
            raise TwinError(message)
        return self._bytes[page]

    def _inside(self, offset: int, count: int) -> None:
        if offset < 0 or count < 0 or offset + count > self.size:
            message = f"{count} bytes from {offset} are not inside a page of {self.size} bytes"
            raise TwinError(message)

    def _activate(self) -> None:
        table = self.table(self._page)
        # A program's plausibility check: the truck's model cannot go on with a torque that is no number.
        table = np.where(np.isfinite(table), table, self._reference.table)
        self._active = TorqueMap(self._reference.pedal_axis, self._reference.speed_axis_kmh, table)
        if self._put is not None:
            self._put(self._active)
