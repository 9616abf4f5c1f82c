"""The torque map in the VCU over XCP: pages, changed cells only, read-back, checksum.

``Calibration`` is the ``FlashTarget`` that the guard flashes through. It decides nothing: what may be
written is the guard's; that it is written where and as it was asked for is this module's.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tspace_core.config.vehicle import Vehicle
from tspace_core.errors import ConfigError, LinkError, XcpCommandError, XcpError, XcpProtocolError
from tspace_core.guard.target import Identity, failure_code
from tspace_core.link.float_buffer import CELL_BYTES, from_bytes, to_bytes
from tspace_core.link.map_pages import DownloadCost, MapPages, Words, runs
from tspace_core.link.parameters import Place, check_stored_axes, find_places
from tspace_core.link.xcp import XcpMaster
from tspace_core.link.xcp_checksum import checksum
from tspace_core.link.xcp_key import KeyFunction, load_key_function
from tspace_core.link.xcp_packets import ErrorCode, PageMode, Resource

if TYPE_CHECKING:
    from tspace_core.config.link import XcpConfig

__all__ = ["Calibration", "failure_code"]

DIFF_LIMIT_S = 3.0
WHOLE_LIMIT_S = 5.0
"""Time limits of ``send_float_array``, with and without ``sw_diff``."""


class Calibration:
    """The calibration pages of one VCU. One thread uses it; only ``abort`` and ``resume`` are for others too.

    Args:
        master: on the transport of the vehicle; it stays the caller's.
        vehicle: with an ``xcp`` section.

    Raises:
        ConfigError: the vehicle has no ``xcp``, its A2L file does not hold what is needed, or its axes are
            not those of the vehicle's torque map.
    """

    def __init__(self, master: XcpMaster, vehicle: Vehicle) -> None:
        if vehicle.xcp is None:
            message = f"vehicle {vehicle.id} has no `xcp:` section, so nothing can be flashed by CAN; add it"
            raise ConfigError(message)
        self._master = master
        self._vehicle = vehicle
        self._config: XcpConfig = vehicle.xcp
        self._places = find_places(vehicle)
        self._maps: dict[str, MapPages] = {}
        self._map = self._pages_of(self._config.map_name)
        self._had_session = False
        self._fits = False  # whether the VCU of this session was seen to be one that the map fits into
        self._key_of: KeyFunction | None = None
        if self._config.unlock is not None:
            self._key_of = load_key_function(self._config.unlock)

    @property
    def reference_page(self) -> int:
        """The page that cannot be written."""
        return self._config.reference_page

    def open(self) -> None:
        """Begin a session: nothing is known of the pages, and the VCU is one this map fits into.

        Raises:
            XcpProtocolError: it has no calibration, another byte order, or other axes in its memory.
            LinkError: it does not answer as it must.
        """
        self._connect()
        slave = self._master.slave
        place = self._places[self._config.map_name]
        message = ""
        if not slave.resources & Resource.CAL_PAG:
            message = "the VCU's XCP slave offers no calibration (CAL/PAG): it may be its production software"
        elif place.big_endian or (place.big_endian is None and slave.byte_order == "big"):
            message = "the VCU keeps numbers with the highest byte first; the map is little endian float32"
        elif CELL_BYTES % slave.granularity:
            message = f"the VCU counts memory in {slave.granularity} bytes, a cell has {CELL_BYTES}"
        if message:
            self._master.disconnect()
            message += "; this VCU cannot be flashed, check vehicle and xcp section"
            raise XcpProtocolError(message)
        try:
            check_stored_axes(self._master, place, self._vehicle)
        except LinkError:
            self._master.disconnect()
            raise
        self._fits = True

    def close(self) -> None:
        """End the session; which page is in effect does not change, so put the reference there first."""
        self._had_session = False
        self._master.disconnect()

    def abort(self, cause: str) -> None:
        """Have the running command and all after it raise, until ``resume``; from any thread."""
        self._master.abort(cause)

    def resume(self) -> None:
        """Allow commands again after ``abort``."""
        self._master.resume()

    @contextmanager
    def limited(self, seconds: float, what: str) -> Iterator[None]:
        """Let the commands within take at most ``seconds`` together, then XcpTimeoutError."""
        with self._master.limited(seconds, what):
            yield

    def identify(self) -> Identity:
        """Open the session where it is not open, and read VIN, software id and the map's address."""
        if not self._master.connected or not self._fits:
            self.open()
        return Identity(
            vin=self._text(self._config.vin_name),
            software_id=self._text(self._config.software_name),
            map_address=self._map.address,
        )

    def unlock(self) -> None:
        """Seed and key, where the VCU asks for it.

        Raises:
            XcpCommandError: the key is wrong.
            XcpError: no function is configured, or it failed.
        """
        if not self._master.get_status().protected & Resource.CAL_PAG:
            return
        if self._key_of is None:
            message = (
                "the VCU's calibration is locked by seed and key and the vehicle names no function for it; "
                "set xcp.unlock to `module:function`"
            )
            raise XcpError(message)
        self._master.unlock_resource(Resource.CAL_PAG, self._key_of)

    def idle_page(self) -> int:
        """The working page to write next; the only one is taken out of effect first."""
        working = self._config.working_pages
        active = self.active_page()
        if len(working) == 1 and active == working[0]:
            self.activate(self.reference_page)
            active = self.reference_page
        return next(page for page in working if page != active)

    def write(self, page: int, table: NDArray[np.float32]) -> int:
        """Bring a working page to ``table`` (Nm, the whole map).

        Args:
            page: a working page that is not in effect.
            table: shape (rows, columns), finite, within the limits of the A2L file.

        Returns:
            Cells that differed from what the page was known to hold and are now written. Cells between them
            that were cheaper to send again than to pass over are not counted.

        Raises:
            XcpError: the page is in effect or no working page, or the table is not one; nothing was sent.
            LinkError: it was not acknowledged; what was under way counts as unknown from now on.
        """
        return self._write(self._config.map_name, page, table)

    def read(self, page: int, first_row: int, rows: int) -> NDArray[np.float32]:
        """Rows of a page as they are in the VCU, bit for bit, shape (rows, columns)."""
        return self._read(self._config.map_name, page, first_row, rows)

    def checksum_ok(self, page: int, table: NDArray[np.float32]) -> bool:
        """Whether the VCU's own checksum over the map of ``page`` is that of ``table``."""
        return self._checksum_ok(self._config.map_name, page, table)

    def activate(self, page: int) -> None:
        """Put a page into effect; for the reference page a lost session is opened and unlocked first."""
        if page != self.reference_page:
            self._master.check_alone()
            self._master.set_cal_page(PageMode.ECU, self._config.segment, page)
            return
        self._master.call_cal_page(self._config.segment, page)
        if self._master.connected:
            try:
                self._master.set_cal_page(PageMode.ECU, self._config.segment, page)
            except LinkError as error:
                locked = isinstance(error, XcpCommandError) and error.code == ErrorCode.ERR_ACCESS_LOCKED
                if self._master.connected and not locked:
                    raise
            else:
                return
        if not self._master.connected:
            self._connect()
        # A question may have opened the session anew; such a one is still locked.
        self.unlock()
        self._master.set_cal_page(PageMode.ECU, self._config.segment, page)

    def active_page(self) -> int:
        """The page in effect, asked of the VCU; a lost session is opened again first."""
        if not self._master.connected:
            self._connect()
        return self._master.get_cal_page(PageMode.ECU, self._config.segment)

    def keep_alive(self) -> None:
        """GET_STATUS: after 2 s without a command the VCU falls back to its reference page.

        A session that counts as lost because the VCU was silent goes on where it answers again in time.
        """
        self._master.get_status()

    def send_float_array(self, name: str, table: ArrayLike, sw_diff: bool) -> int:  # noqa: FBT001
        """Flash a map without the guard: identity, key, idle page, read-back, checksum, switch.

        For a bench and for tools; a moving vehicle is flashed through the guard only.

        Args:
            name: of a float32 parameter in the A2L file or in xcp.parameters.
            table: the whole map, shape (rows, columns).
            sw_diff: send only cells that differ from what the page holds since its last acknowledged flash.

        Returns:
            Cells sent.

        Raises:
            XcpTimeoutError: not done within 3 s, or 5 s without ``sw_diff``.
            LinkError: it failed; the map in effect is the one before, or the reference where there is one
                working page. ``failure_code`` gives the field's number.
        """
        cells = np.asarray(table, dtype=np.float32)
        with self._master.limited(DIFF_LIMIT_S if sw_diff else WHOLE_LIMIT_S, f"flash of {name}"):
            self._check_software()
            self.unlock()
            page = self.idle_page()
            pages = self._pages_of(name)
            if not sw_diff:
                pages.forget(page)
            sent = self._write(name, page, cells)
            back = self._read(name, page, 0, pages.shape[0])
            if to_bytes(back) != to_bytes(cells) or not self._checksum_ok(name, page, cells):
                pages.forget(page)
                message = f"{name} reads back otherwise than it was written; it was not put into effect"
                raise XcpProtocolError(message)
            self.activate(page)
            if self.active_page() != page:
                message = f"the VCU acknowledged page {page} and has page {self.active_page()} in effect"
                raise XcpProtocolError(message)
        return sent

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _connect(self) -> None:
        """A session that is good for pages, and for writing after ``open`` has looked at the VCU."""
        self._fits = False
        for pages in self._maps.values():
            pages.forget_all()
        if self._had_session:
            # The VCU may still be in the session that counts as lost here; CONNECT would lock it first.
            self._master.call_cal_page(self._config.segment, self.reference_page)
        self._master.connect()
        self._had_session = True

    def _write(self, name: str, page: int, table: NDArray[np.float32]) -> int:
        pages, master = self._pages_of(name), self._master
        words = self._checked(name, pages, table)
        if page not in self._config.working_pages:
            message = f"page {page} is no working page {self._config.working_pages}; nothing was written"
            raise XcpError(message)
        if not self._fits:
            message = (
                "the session was opened anew since the VCU was identified; call identify() and unlock() first"
            )
            raise XcpProtocolError(message)
        if master.get_cal_page(PageMode.ECU, self._config.segment) == page:
            message = f"page {page} is in effect; the VCU may be reading it, so write the idle page"
            raise XcpError(message)
        changed = pages.changed(page, words)
        if not changed.any():
            return 0
        master.set_cal_page(PageMode.XCP, self._config.segment, page)
        step = master.slave.granularity
        for start, stop in runs(changed, DownloadCost.of(master.slave, master.block_mode)):
            part = words[start:stop]
            pages.forget(page, start, stop)
            master.set_mta(pages.address + start * CELL_BYTES // step, pages.extension)
            master.download(part.astype("<u4").tobytes())
            pages.holds(page, start, part)
        return int(np.count_nonzero(changed))

    def _read(self, name: str, page: int, first_row: int, rows: int) -> NDArray[np.float32]:
        pages, master = self._pages_of(name), self._master
        height, columns = pages.shape
        if rows < 1 or not 0 <= first_row <= height - rows:
            message = f"rows {first_row} to {first_row + rows - 1} are not in a map of {height} rows"
            raise XcpError(message)
        start = first_row * columns
        master.set_cal_page(PageMode.XCP, self._config.segment, page)
        master.set_mta(pages.address + start * CELL_BYTES // master.slave.granularity, pages.extension)
        data = master.upload(rows * columns * CELL_BYTES)
        pages.holds(page, start, np.frombuffer(data, dtype="<u4").astype(np.uint32))
        return from_bytes(data, columns)

    def _checksum_ok(self, name: str, page: int, table: NDArray[np.float32]) -> bool:
        pages, master = self._pages_of(name), self._master
        data = to_bytes(table)
        master.set_cal_page(PageMode.XCP, self._config.segment, page)
        master.set_mta(pages.address, pages.extension)
        found = master.build_checksum(len(data))
        return found.value == checksum(found.type, data)

    def _checked(self, name: str, pages: MapPages, table: NDArray[np.float32]) -> Words:
        """The table's bits, if it is one that may be written at all."""
        place = self._places[name]
        if table.shape != pages.shape:
            message = f"{name} has shape {pages.shape}, got a table of {table.shape}; nothing was written"
            raise XcpError(message)
        low, high = place.limits
        wrong = np.argwhere(~((table >= low) & (table <= high)))
        if len(wrong):
            row, column = wrong[0]
            message = (
                f"{name}: row {row}, column {column} is {table[row, column]}, not in {low:g} to {high:g}; "
                "nothing was written"
            )
            raise XcpError(message)
        return np.ascontiguousarray(table, dtype="<f4").view("<u4").ravel().astype(np.uint32)

    def _pages_of(self, name: str) -> MapPages:
        if name not in self._maps:
            if name not in self._places:
                self._places |= find_places(self._vehicle, (name,))
            place = self._places[name]
            if place.shape is None:
                message = f"{name} is a text, not a map of float32; give the name of a map"
                raise ConfigError(message)
            self._maps[name] = MapPages(place.address, place.extension, place.shape)
        return self._maps[name]

    def _text(self, name: str) -> str:
        place: Place = self._places[name]
        data = self._master.short_upload(place.address, place.length, place.extension)
        text = data.split(b"\0")[0].decode("ascii", errors="replace").strip()
        if not text.isprintable() or "\ufffd" in text:
            message = (
                f"{name} at {place.address:#x} holds {data.hex(' ')}, which is no text; the addresses belong "
                "to another software of the VCU"
            )
            raise XcpProtocolError(message)
        return text

    def _check_software(self) -> None:
        found = self.identify()
        if found.vin != self._vehicle.vin or found.software_id != self._config.software_id:
            message = (
                f"the VCU is {found.vin} with software {found.software_id}, the config is for "
                f"{self._vehicle.vin} with {self._config.software_id}; nothing was written"
            )
            raise XcpProtocolError(message)
