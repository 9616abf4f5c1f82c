"""The simulated VCU's XCP slave (ASAM MCD-1 XCP): packets in, packets out; no bus, no clock of its own."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tspace_core.errors import TwinError
from tspace_core.twin.seed_and_key import SEED_BYTES, key_of
from tspace_core.twin.vcu import Vcu
from tspace_core.twin.vcu_memory import VcuMemory, checksum, xcp_config
from tspace_core.twin.xcp_codes import (
    ALL_SEGMENTS,
    CAL_PAG,
    ECU_ACCESS,
    FIRST_COMMAND,
    POSITIVE,
    XCP_ACCESS,
    Checksum,
    Command,
    ErrorCode,
    XcpFault,
)

SILENCE_S = 2.0
"""Without a command this long the VCU leaves a working page by itself."""
MOST_BYTES = 255
"""A DOWNLOAD or UPLOAD counts its bytes in one byte."""


@dataclass(frozen=True)
class VcuEvent:
    """Something that happened in the VCU and that a test or a person wants to see.

    Attributes:
        kind: ``page``: another page is in effect (or was selected again); ``written``: bytes of the page in
            effect changed; the others are the session's.
        at_ns: instant on the slave's clock.
        page: page in effect after it.
        reason: why.
    """

    kind: Literal["xcp_connect", "xcp_disconnect", "xcp_unlock", "page", "written"]
    at_ns: int
    page: int
    reason: str


def ignore(event: VcuEvent) -> None:
    """What is done with events where nobody asks for them."""


class XcpSlave:
    """Answers XCP commands and watches over its session. Not thread-safe.

    While a working page is in effect and no command came for ``silence_s``, the reference page is put into
    effect and the session is closed: whoever flashed is gone. ``tick`` does this, and ``handle`` before all.

    Args:
        vcu: holds the pages; its vehicle has an ``xcp`` section.
        now_ns: monotonic clock, ns.
        max_cto: longest packet in bytes, 8 on classical CAN, up to 64 on CAN FD, up to 255 on Ethernet.
        block_mode: whether blocks go in both directions (DOWNLOAD_NEXT, UPLOAD of more than a packet).
        min_st: shortest time between packets of a block that the slave asks for, in 100 us.
        silence_s: see above.
        checksum_kind: what BUILD_CHECKSUM computes.
        seed: gives so many random bytes.
        memory: addresses; None: those of the vehicle's config.
        on_event: called at once, in the caller's thread.

    Raises:
        TwinError: ``max_cto`` is out of range, or the vehicle has no XCP slave.
    """

    def __init__(
        self,
        vcu: Vcu,
        *,
        now_ns: Callable[[], int],
        max_cto: int = 8,
        block_mode: bool = True,
        min_st: int = 0,
        silence_s: float = SILENCE_S,
        checksum_kind: Checksum = Checksum.CRC_32,
        seed: Callable[[int], bytes] = os.urandom,
        memory: VcuMemory | None = None,
        on_event: Callable[[VcuEvent], None] = ignore,
    ) -> None:
        if not 8 <= max_cto <= MOST_BYTES:
            message = f"max_cto is {max_cto} bytes; XCP allows 8 to {MOST_BYTES}"
            raise TwinError(message)
        config = xcp_config(vcu.vehicle)
        self._vcu = vcu
        self._memory = VcuMemory(vcu) if memory is None else memory
        self._now_ns = now_ns
        self._max_cto = max_cto
        self._block_mode = block_mode
        self._min_st = min_st
        self._silence_s = silence_s
        self._checksum_kind = checksum_kind
        self._seed_source = seed
        self._on_event = on_event
        self._segment = config.segment
        self._protected = CAL_PAG if config.unlock is not None else 0
        self._connected = False
        self._xcp_page = vcu.reference_page
        self._heard_ns = now_ns()
        self._reset()

    @property
    def connected(self) -> bool:
        """Whether a master has a session."""
        return self._connected

    @property
    def locked(self) -> bool:
        """Whether pages cannot be written or switched before seed and key."""
        return bool(self._locked)

    @property
    def xcp_page(self) -> int:
        """The page that XCP reads and writes; the page in effect is the VCU's."""
        return self._xcp_page

    def tick(self) -> None:
        """Look at the clock; call it some 10 times a second or more often."""
        if self._vcu.page == self._vcu.reference_page:
            return
        if self._now_ns() - self._heard_ns >= self._silence_s * 1e9:
            reason = f"xcp silent for {self._silence_s:g} s"
            self._select(self._vcu.reference_page, reason)
            self._xcp_page = self._vcu.reference_page
            self._close(reason)

    def handle(self, packet: bytes) -> list[bytes]:
        """Answer one packet of a master.

        Args:
            packet: as it came, with or without padding at its end.

        Returns:
            Answers in their order; none where the standard asks for none.
        """
        self.tick()
        if not packet or packet[0] < FIRST_COMMAND or not (self._connected or packet[0] == Command.CONNECT):
            return []
        self._heard_ns = self._now_ns()
        if packet[0] != Command.DOWNLOAD_NEXT:
            self._expected = 0
        try:
            return self._dispatch(packet)
        except XcpFault as fault:
            return [fault.answer()]

    def _dispatch(self, packet: bytes) -> list[bytes]:
        found = _HANDLERS.get(packet[0])
        if found is None:
            raise XcpFault(ErrorCode.CMD_UNKNOWN)
        shortest, handler = found
        if not shortest <= len(packet) <= self._max_cto:
            raise XcpFault(ErrorCode.CMD_SYNTAX)
        return handler(self, packet)

    def _reset(self) -> None:
        self._locked = self._protected
        self._mta: tuple[int, int] | None = None
        self._expected = 0
        self._seed = b""
        self._seed_left = b""
        self._key = b""
        self._key_wanted = 0

    def _tell(
        self, kind: Literal["xcp_connect", "xcp_disconnect", "xcp_unlock", "page", "written"], reason: str
    ) -> None:
        self._on_event(VcuEvent(kind, self._now_ns(), self._vcu.page, reason))

    def _select(self, page: int, reason: str) -> None:
        self._vcu.select(page)
        self._tell("page", reason)

    def _close(self, reason: str) -> None:
        if self._connected:
            self._connected = False
            self._reset()
            self._tell("xcp_disconnect", reason)

    def _connect(self, packet: bytes) -> list[bytes]:
        if packet[1] != 0:
            # A user-defined mode that is not this slave's is not answered.
            return []
        reason = "a new session takes over" if self._connected else "a new session"
        self._connected = True
        self._reset()
        self._tell("xcp_connect", reason)
        mode = 0x80 | (0x40 if self._block_mode else 0)
        max_dto = self._max_cto.to_bytes(2, "little")
        return [bytes([POSITIVE, CAL_PAG, mode, self._max_cto, *max_dto, 1, 1])]

    def _disconnect(self, _packet: bytes) -> list[bytes]:
        self._close("DISCONNECT")
        return [bytes([POSITIVE])]

    def _get_status(self, _packet: bytes) -> list[bytes]:
        return [bytes([POSITIVE, 0, self._locked, 0, 0, 0])]

    def _synch(self, _packet: bytes) -> list[bytes]:
        raise XcpFault(ErrorCode.CMD_SYNCH)

    def _get_comm_mode_info(self, _packet: bytes) -> list[bytes]:
        if not self._block_mode:
            return [bytes([POSITIVE, 0, 0, 0, 0, 0, 0, 0x10])]
        longest = -(-MOST_BYTES // (self._max_cto - 2))
        return [bytes([POSITIVE, 0, 0x01, 0, longest, self._min_st, 0, 0x10])]

    def _get_id(self, packet: bytes) -> list[bytes]:
        length = 0
        if packet[1] == 0:
            address, extension, length = self._memory.identity
            self._mta = (extension, address)
        return [bytes([POSITIVE, 0, 0, 0]) + length.to_bytes(4, "little")]

    def _get_seed(self, packet: bytes) -> list[bytes]:
        mode, resource = packet[1], packet[2]
        if mode == 0:
            if resource != CAL_PAG:
                raise XcpFault(ErrorCode.OUT_OF_RANGE)
            self._seed = self._seed_source(SEED_BYTES) if self._locked else b""
            self._seed_left = self._seed
            self._key, self._key_wanted = b"", 0
        elif mode != 1:
            raise XcpFault(ErrorCode.MODE_NOT_VALID)
        elif not self._seed_left:
            raise XcpFault(ErrorCode.SEQUENCE)
        room = self._max_cto - 2
        part, left = self._seed_left[:room], len(self._seed_left)
        self._seed_left = self._seed_left[room:]
        return [bytes([POSITIVE, left]) + part]

    def _unlock(self, packet: bytes) -> list[bytes]:
        if not self._seed or self._seed_left:
            raise XcpFault(ErrorCode.SEQUENCE)
        wanted = packet[1] if not self._key else self._key_wanted
        if packet[1] != wanted or wanted == 0:
            raise XcpFault(ErrorCode.SEQUENCE)
        part = packet[2 : 2 + wanted]
        self._key += part
        self._key_wanted = wanted - len(part)
        if self._key_wanted == 0:
            right = self._key == key_of(self._seed, CAL_PAG)
            self._seed = self._key = b""
            if not right:
                self._close("wrong key")
                raise XcpFault(ErrorCode.ACCESS_LOCKED)
            self._locked = 0
            self._tell("xcp_unlock", "right key")
        return [bytes([POSITIVE, self._locked])]

    def _set_mta(self, packet: bytes) -> list[bytes]:
        self._mta = (packet[3], int.from_bytes(packet[4:8], "little"))
        return [bytes([POSITIVE])]

    def _read(self, count: int) -> bytes:
        if self._mta is None:
            raise XcpFault(ErrorCode.SEQUENCE)
        extension, address = self._mta
        data = self._memory.read(self._xcp_page, extension, address, count)
        self._mta = (extension, address + count)
        return data

    def _upload(self, packet: bytes) -> list[bytes]:
        count, room = packet[1], self._max_cto - 1
        if count == 0 or (count > room and not self._block_mode):
            raise XcpFault(ErrorCode.OUT_OF_RANGE)
        data = self._read(count)
        return [bytes([POSITIVE]) + data[first : first + room] for first in range(0, count, room)]

    def _short_upload(self, packet: bytes) -> list[bytes]:
        count = packet[1]
        if count == 0 or count > self._max_cto - 1:
            raise XcpFault(ErrorCode.OUT_OF_RANGE)
        self._mta = (packet[3], int.from_bytes(packet[4:8], "little"))
        return [bytes([POSITIVE]) + self._read(count)]

    def _build_checksum(self, packet: bytes) -> list[bytes]:
        size = int.from_bytes(packet[4:8], "little")
        if size == 0:
            raise XcpFault(ErrorCode.OUT_OF_RANGE)
        value = checksum(self._checksum_kind, self._read(size))
        return [bytes([POSITIVE, self._checksum_kind, 0, 0]) + value.to_bytes(4, "little")]

    def _write(self, data: bytes, block: int) -> None:
        """Write at the MTA; ``block`` bytes from there must be writable."""
        if self._locked:
            raise XcpFault(ErrorCode.ACCESS_LOCKED)
        if self._mta is None:
            raise XcpFault(ErrorCode.SEQUENCE)
        extension, address = self._mta
        self._memory.check_writable(self._xcp_page, extension, address, block)
        self._memory.write(self._xcp_page, extension, address, data)
        self._mta = (extension, address + len(data))
        if self._xcp_page == self._vcu.page:
            self._tell("written", f"{len(data)} bytes at {address:#x} while the page is in effect")

    def _download(self, packet: bytes) -> list[bytes]:
        count, room = packet[1], self._max_cto - 2
        if count == 0 or (count > room and not self._block_mode):
            raise XcpFault(ErrorCode.OUT_OF_RANGE)
        if len(packet) < 2 + min(count, room):
            raise XcpFault(ErrorCode.CMD_SYNTAX)
        data = packet[2 : 2 + min(count, room)]
        self._write(data, count)
        self._expected = count - len(data)
        return [] if self._expected else [bytes([POSITIVE])]

    def _download_next(self, packet: bytes) -> list[bytes]:
        if packet[1] != self._expected or self._expected == 0:
            raise XcpFault(ErrorCode.SEQUENCE, bytes([self._expected]))
        part = min(self._expected, self._max_cto - 2)
        if len(packet) < 2 + part:
            raise XcpFault(ErrorCode.CMD_SYNTAX)
        self._write(packet[2 : 2 + part], part)
        self._expected -= part
        return [] if self._expected else [bytes([POSITIVE])]

    def _download_max(self, packet: bytes) -> list[bytes]:
        if len(packet) < self._max_cto:
            raise XcpFault(ErrorCode.CMD_SYNTAX)
        self._write(packet[1:], self._max_cto - 1)
        return [bytes([POSITIVE])]

    def _check_page(self, segment: int, page: int) -> None:
        if segment != self._segment:
            raise XcpFault(ErrorCode.SEGMENT_NOT_VALID)
        if page not in self._vcu.pages:
            raise XcpFault(ErrorCode.PAGE_NOT_VALID)

    def _set_cal_page(self, packet: bytes) -> list[bytes]:
        mode, segment, page = packet[1:4]
        if self._locked:
            raise XcpFault(ErrorCode.ACCESS_LOCKED)
        access = mode & (ECU_ACCESS | XCP_ACCESS)
        if not access or mode & ~(access | ALL_SEGMENTS):
            raise XcpFault(ErrorCode.MODE_NOT_VALID)
        self._check_page(self._segment if mode & ALL_SEGMENTS else segment, page)
        if access & XCP_ACCESS:
            self._xcp_page = page
        if access & ECU_ACCESS:
            self._select(page, "SET_CAL_PAGE")
        return [bytes([POSITIVE])]

    def _get_cal_page(self, packet: bytes) -> list[bytes]:
        mode, segment = packet[1:3]
        if mode not in (ECU_ACCESS, XCP_ACCESS):
            raise XcpFault(ErrorCode.MODE_NOT_VALID)
        if segment != self._segment:
            raise XcpFault(ErrorCode.SEGMENT_NOT_VALID)
        return [bytes([POSITIVE, 0, 0, self._vcu.page if mode == ECU_ACCESS else self._xcp_page])]

    def _copy_cal_page(self, packet: bytes) -> list[bytes]:
        if self._locked:
            raise XcpFault(ErrorCode.ACCESS_LOCKED)
        self._check_page(packet[1], packet[2])
        self._check_page(packet[3], packet[4])
        if packet[4] == self._vcu.reference_page:
            raise XcpFault(ErrorCode.WRITE_PROTECTED)
        self._vcu.copy(packet[2], packet[4])
        if packet[4] == self._vcu.page:
            self._tell("written", f"page {packet[2]} copied over the page in effect")
        return [bytes([POSITIVE])]


_HANDLERS: dict[int, tuple[int, Callable[[XcpSlave, bytes], list[bytes]]]] = {
    Command.CONNECT: (2, XcpSlave._connect),
    Command.DISCONNECT: (1, XcpSlave._disconnect),
    Command.GET_STATUS: (1, XcpSlave._get_status),
    Command.SYNCH: (1, XcpSlave._synch),
    Command.GET_COMM_MODE_INFO: (1, XcpSlave._get_comm_mode_info),
    Command.GET_ID: (2, XcpSlave._get_id),
    Command.GET_SEED: (3, XcpSlave._get_seed),
    Command.UNLOCK: (3, XcpSlave._unlock),
    Command.SET_MTA: (8, XcpSlave._set_mta),
    Command.UPLOAD: (2, XcpSlave._upload),
    Command.SHORT_UPLOAD: (8, XcpSlave._short_upload),
    Command.BUILD_CHECKSUM: (8, XcpSlave._build_checksum),
    Command.DOWNLOAD: (2, XcpSlave._download),
    Command.DOWNLOAD_NEXT: (2, XcpSlave._download_next),
    Command.DOWNLOAD_MAX: (2, XcpSlave._download_max),
    Command.SET_CAL_PAGE: (4, XcpSlave._set_cal_page),
    Command.GET_CAL_PAGE: (3, XcpSlave._get_cal_page),
    Command.COPY_CAL_PAGE: (5, XcpSlave._copy_cal_page),
}
"""Shortest length and handler of each command."""
