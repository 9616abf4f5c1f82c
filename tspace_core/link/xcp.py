"""The XCP master: the commands that a map flash needs, on any transport (docs/xcp.md)."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from tspace_core.config.link import XcpConfig
from tspace_core.errors import LinkError, XcpCommandError, XcpError, XcpProtocolError, XcpTimeoutError
from tspace_core.link import xcp_packets as packets
from tspace_core.link.xcp_key import KeyFunction
from tspace_core.link.xcp_packets import (
    BlockMode,
    Checksum,
    Command,
    ErrorCode,
    PageMode,
    Resource,
    SlaveInfo,
    Status,
)
from tspace_core.link.xcp_session import XcpSession
from tspace_core.link.xcp_transport import XcpTransport

_log = logging.getLogger(__name__)

_CONNECTS = 3
"""CONNECT is repeated this often where late answers of an older session get in its way."""


class XcpMaster:
    """One session with one slave. One thread uses it; only ``abort`` and ``resume`` may come from others.

    Every command returns or raises within a bounded time (``transact`` of ``XcpSession``) and never repeats
    for ever. Lengths are in bytes; where the slave counts in larger elements they must be whole.

    Args:
        transport: how packets get to the slave and back; it stays the caller's.
        config: time-out, tries, whether block mode is wanted.
    """

    def __init__(self, transport: XcpTransport, config: XcpConfig) -> None:
        self.transport = transport
        self.config = config
        self._session = XcpSession(transport, config)
        self._slave: SlaveInfo | None = None
        self._block = BlockMode()
        self._mta: tuple[int, int] | None = None

    @property
    def connected(self) -> bool:
        """Whether there is a session, as far as is known."""
        return self._session.connected

    @property
    def slave(self) -> SlaveInfo:
        """What CONNECT told.

        Raises:
            XcpProtocolError: there was no CONNECT.
        """
        if self._slave is None:
            message = "the XCP slave is not known yet; call connect() first"
            raise XcpProtocolError(message)
        return self._slave

    @property
    def block_mode(self) -> BlockMode:
        """The block mode in use: what the slave offers, unless the config forbids it."""
        return self._block if self.config.block_mode else BlockMode()

    def abort(self, cause: str) -> None:
        """Have the running command and all after it raise, on UDP after its time-out; from any thread."""
        self._session.abort(cause)

    def resume(self) -> None:
        """Allow commands again after ``abort``."""
        self._session.resume()

    @contextmanager
    def limited(self, seconds: float, what: str) -> Iterator[None]:
        """Let the commands within take at most ``seconds`` together, then XcpTimeoutError."""
        with self._session.limited(seconds, what):
            yield

    def check_alone(self) -> None:
        """Refuse to go on where another master commands the VCU.

        Raises:
            XcpProtocolError: commands of somebody else were seen since CONNECT.
        """
        self._session.check_alone()

    def connect(self) -> SlaveInfo:
        """CONNECT, and GET_COMM_MODE_INFO where the slave has it.

        Raises:
            XcpTimeoutError: nobody answers.
            XcpProtocolError: the answer is not one the standard allows.
        """
        session = self._session
        session.connected = False
        self._mta = None
        session.begin()
        for _ in range(_CONNECTS):
            answer = session.transact(Command.CONNECT, [packets.connect()])
            strays = session.strays
            session.connected = True
            try:
                session.synch()
                if session.strays == strays:
                    slave = packets.parse_connect(answer)
                    break
            except LinkError:
                session.connected = False
                raise
        else:
            session.connected = False
            message = (
                f"CONNECT: {_CONNECTS} times more answers came than were asked for; another master or "
                "a second slave uses the same ids"
            )
            raise XcpProtocolError(message)
        self._slave = replace(slave, max_cto=min(slave.max_cto, self.transport.max_cto))
        self._block = self.get_comm_mode_info() if slave.has_comm_mode_info else BlockMode()
        return self._slave

    def disconnect(self) -> None:
        """DISCONNECT; a slave that is gone already is fine."""
        if not self.connected:
            return
        try:
            self._session.transact(Command.DISCONNECT, [bytes((Command.DISCONNECT,))], tries=1)
        except LinkError as error:
            _log.info("the VCU did not confirm the end of the XCP session: %s", error)
        finally:
            self._session.connected = False
            self._mta = None

    def synch(self) -> None:
        """SYNCH: drop late answers and any block under way; regains a session that only was silent."""
        self._session.synch()

    def get_status(self) -> Status:
        """GET_STATUS: state of the session and which resources are locked.

        A session that counts as lost because the slave was silent is regained where it answers again.
        """
        return packets.parse_status(self._simple(Command.GET_STATUS, bytes((Command.GET_STATUS,))))

    def get_comm_mode_info(self) -> BlockMode:
        """GET_COMM_MODE_INFO: whether and how a DOWNLOAD may go on in blocks."""
        packet = bytes((Command.GET_COMM_MODE_INFO,))
        return packets.parse_comm_mode_info(self._simple(Command.GET_COMM_MODE_INFO, packet))

    def get_seed(self, resource: Resource) -> bytes:
        """GET_SEED, in as many parts as it needs; empty: the resource is not locked.

        Not repeated by itself: a lost part makes the seed void, ``unlock_resource`` asks for a new one.
        """
        room = self.slave.max_cto - 2
        seed, total, first = b"", 0, True
        while first or len(seed) < total:
            packet = packets.get_seed(resource, first=first)
            answer = self._simple(Command.GET_SEED, packet, tries=1)
            packets.need(answer, 2, Command.GET_SEED)
            remaining = answer[1]
            part = min(remaining, room)
            packets.need(answer, 2 + part, Command.GET_SEED)
            if first:
                total = remaining
            elif remaining != total - len(seed):
                message = (
                    f"GET_SEED: {remaining} bytes are left by the VCU's count, {total - len(seed)} by ours"
                )
                raise XcpProtocolError(message)
            seed += answer[2 : 2 + part]
            first = False
        return seed

    def unlock(self, key: bytes) -> Resource:
        """UNLOCK with a key, in as many parts as it needs; returns what is still locked."""
        answer = b""
        for packet in packets.unlock(self.slave, key):
            try:
                answer = self._simple(Command.UNLOCK, packet, tries=1)
            except XcpCommandError as error:
                if error.code == ErrorCode.ERR_ACCESS_LOCKED:
                    self._session.connected = False  # a wrong key ends the session, says the standard
                raise
            packets.need(answer, 2, Command.UNLOCK)
        return packets.protected(answer[1])

    def unlock_resource(self, resource: Resource, key_of: KeyFunction) -> None:
        """Seed, key and UNLOCK, begun anew where a packet was lost.

        Raises:
            XcpCommandError: the VCU refused the key.
            XcpError: ``key_of`` failed, or the resource is still locked.
        """
        for left in reversed(range(self.config.attempts)):
            try:
                seed = self.get_seed(resource)
                if seed:
                    locked = self.unlock(key_of(seed, int(resource)))
                    if locked & resource:
                        message = (
                            f"UNLOCK: the key was taken, but {resource.name} is still locked; see xcp.unlock"
                        )
                        raise XcpError(message)
            except XcpTimeoutError:
                if not left or not self.connected:
                    raise
            except XcpCommandError as error:
                if not left or error.code != ErrorCode.ERR_SEQUENCE:
                    raise
            else:
                return

    def set_mta(self, address: int, extension: int = 0) -> None:
        """SET_MTA: where the next ``download``, ``upload`` or ``build_checksum`` works."""
        self._mta = None
        self._simple(Command.SET_MTA, packets.set_mta(self.slave, address, extension))
        self._mta = address, extension

    def download(self, data: bytes) -> None:
        """Write at the MTA, which moves on; in blocks where both sides have block mode.

        A block whose answer was lost is written again from its start after SYNCH and SET_MTA: repeated
        blindly it would land behind itself, since the MTA has moved.

        Raises:
            XcpProtocolError: the MTA is not set.
        """
        block = self.block_mode
        largest = self.slave.download_bytes
        if block.offered:
            largest = min(largest * block.max_bs, packets.MOST_ELEMENTS * self.slave.granularity)
        self._whole(len(data))
        for start in range(0, len(data), largest):
            part = data[start : start + largest]
            self._at_mta(
                Command.DOWNLOAD, packets.download(self.slave, part), len(part), gap_s=block.min_st_s
            )

    def upload(self, length: int) -> bytes:
        """Read from the MTA, which moves on; in blocks where the slave has block mode.

        Raises:
            XcpProtocolError: the MTA is not set, or an answer is too short.
        """
        self._whole(length)
        largest = self.slave.upload_bytes
        if self.slave.slave_block_mode and self.config.block_mode:
            largest = packets.MOST_ELEMENTS * self.slave.granularity
        found = b""
        for start in range(0, length, largest):
            found += self._upload_part(min(largest, length - start))
        return found

    def short_upload(self, address: int, length: int, extension: int = 0) -> bytes:
        """Read without an MTA of one's own, as many SHORT_UPLOADs as it needs; the MTA is void after it."""
        self._whole(length)
        self._mta = None
        step = self.slave.granularity
        found = b""
        while len(found) < length:
            part = min(self.slave.upload_bytes, length - len(found))
            at = address + len(found) // step
            packet = packets.short_upload(self.slave, part // step, at, extension)
            answer = self._simple(Command.SHORT_UPLOAD, packet)
            packets.need(answer, step + part, Command.SHORT_UPLOAD)
            found += answer[step : step + part]
        return found

    def build_checksum(self, length: int) -> Checksum:
        """BUILD_CHECKSUM over ``length`` bytes from the MTA, which moves on.

        Raises:
            XcpCommandError: refused; where the length was too much, the message says how much is allowed.
        """
        self._whole(length)
        packet = packets.build_checksum(self.slave, length // self.slave.granularity)
        try:
            answer = self._at_mta(Command.BUILD_CHECKSUM, [packet], length)
        except XcpCommandError as error:
            carried = self._session.error_packet
            if error.code != ErrorCode.ERR_OUT_OF_RANGE or len(carried) < 8:
                raise
            most = int.from_bytes(carried[4:8], self.slave.byte_order) * self.slave.granularity
            message = f"{error}; it sums at most {most} bytes at once, {length} were asked for"
            raise XcpCommandError(message, error.command, error.code) from error
        return packets.parse_checksum(self.slave, answer)

    def set_cal_page(self, mode: PageMode, segment: int, page: int) -> None:
        """SET_CAL_PAGE: put a page into effect (``PageMode.ECU``) or have XCP write and read it (``XCP``)."""
        self._simple(Command.SET_CAL_PAGE, packets.set_cal_page(mode, segment, page))

    def call_cal_page(self, segment: int, page: int) -> None:
        """SET_CAL_PAGE ahead of everything, unanswered, where the session is out of step or counts as lost.

        Only for a page that may be put into effect at any time; ``set_cal_page`` follows.
        """
        self._session.call_out(packets.set_cal_page(PageMode.ECU, segment, page))

    def get_cal_page(self, mode: PageMode, segment: int) -> int:
        """GET_CAL_PAGE: the page in effect, or the one that XCP writes and reads."""
        answer = self._simple(Command.GET_CAL_PAGE, packets.get_cal_page(mode, segment))
        packets.need(answer, 4, Command.GET_CAL_PAGE)
        return answer[3]

    def _simple(self, command: Command, packet: bytes, *, tries: int | None = None) -> bytes:
        return self._session.transact(command, [packet], tries=tries)

    def _upload_part(self, length: int) -> bytes:
        slave, step = self.slave, self.slave.granularity
        found = bytearray()

        def take(answer: bytes) -> bool:
            # A frame may be filled up behind the data, so its length alone does not tell.
            most = max(slave.upload_bytes, min(len(answer), slave.max_dto) - step)
            part = min(length - len(found), most)
            packets.need(answer, step + part, Command.UPLOAD)
            found.extend(answer[step : step + part])
            return len(found) >= length

        self._at_mta(Command.UPLOAD, [packets.upload(length // step)], length, take=take, anew=found.clear)
        return bytes(found)

    def _at_mta(
        self,
        command: Command,
        to_send: list[bytes],
        length: int,
        *,
        take: Callable[[bytes], bool] | None = None,
        anew: Callable[[], None] | None = None,
        gap_s: float = 0.0,
    ) -> bytes:
        """A command at the MTA, which it moves by ``length`` bytes; another try begins with SET_MTA."""
        if self._mta is None:
            message = f"{command.name}: the MTA is not set, or void after a failure; call set_mta() first"
            raise XcpProtocolError(message)
        address, extension = self._mta

        def restore() -> None:
            if anew is not None:
                anew()
            self._simple(Command.SET_MTA, packets.set_mta(self.slave, address, extension))

        self._mta = None
        answer = self._session.transact(command, to_send, take, restore=restore, gap_s=gap_s)
        self._mta = address + length // self.slave.granularity, extension
        return answer

    def _whole(self, length: int) -> None:
        if length <= 0 or length % self.slave.granularity:
            message = (
                f"{length} bytes are no whole number of the VCU's elements of {self.slave.granularity}; "
                "give a multiple of it"
            )
            raise XcpError(message)
