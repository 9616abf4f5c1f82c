"""One command and its answer over XCP: time-outs, SYNCH, events and errors, all of it bounded.

The rules are those of the standard's error tables in simple form: a command that was not answered is tried
again after SYNCH, at most ``attempts`` times and never for ever; what a command assumes (the MTA) is restored
before. Packets that come late are told from the true answer because the VCU answers in order: all that came
before the answer to SYNCH is old.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from tspace_core.config.link import XcpConfig
from tspace_core.errors import XcpCommandError, XcpError, XcpProtocolError, XcpTimeoutError
from tspace_core.link.xcp_packets import Command, ErrorCode, EventCode, Pid, error_message
from tspace_core.link.xcp_transport import WakingTransport, XcpTransport

_log = logging.getLogger(__name__)

PENDING_LIMIT = 20
"""EV_CMD_PENDING prolongs a command to at most this many times its time-out."""
BUSY_LIMIT = 5
"""A command answered with ERR_CMD_BUSY is sent again this often, one time-out apart."""
SLOW_FACTOR = {Command.BUILD_CHECKSUM: 3.0}
"""Commands with a longer time-out (the standard's T2), as a factor."""
_PAGES_ALWAYS = frozenset(
    {Command.CONNECT, Command.SYNCH, Command.DISCONNECT, Command.SET_CAL_PAGE, Command.GET_CAL_PAGE}
)
"""What is done even if a second master is there: above all, to put the reference page into effect."""

_REGAINING = frozenset({Command.SYNCH, Command.GET_STATUS})
"""What may be tried where the slave was silent: neither changes anything."""


class XcpSession:
    """Sends commands and waits for their answers; used by one thread, but for ``abort``."""

    def __init__(self, transport: XcpTransport, config: XcpConfig) -> None:
        self.transport = transport
        self.config = config
        self.connected = False
        self.silent = False
        """Whether the session counts as lost only because SYNCH was not answered."""
        self.strays = 0
        """Answers that were none to the running command: late ones, or those to another master."""
        self.error_packet = b""
        """The last error packet, for what it carries behind the code."""
        self._unsure = False
        self._deadline: tuple[float, str] | None = None
        self._foreign = 0
        self._abort: str | None = None
        self._abort_event = threading.Event()

    def abort(self, cause: str) -> None:
        """Have the running command and all after it raise, until ``resume``; from any thread."""
        self._abort = cause
        self._abort_event.set()
        if isinstance(self.transport, WakingTransport):
            self.transport.wake()

    def resume(self) -> None:
        """End ``abort``."""
        self._abort_event.clear()
        self._abort = None

    @contextmanager
    def limited(self, seconds: float, what: str) -> Iterator[None]:
        """Let all commands within take at most ``seconds`` together; then an XcpTimeoutError."""
        before = self._deadline
        deadline = time.monotonic() + seconds
        if before is None or deadline < before[0]:
            self._deadline = deadline, f"{what} was not done within {seconds:g} s"
        try:
            yield
        finally:
            self._deadline = before

    def call_out(self, packet: bytes) -> None:
        """Send a command at once and wait for nothing, where it is not sure that the VCU answers.

        A VCU that hears and whose answers are late or lost does it; SYNCH sorts its answer out afterwards.
        Nothing is sent where all is in order: the command itself can go then.
        """
        if self._unsure or not self.connected:
            self._unsure = True
            self.transport.send(packet)

    def begin(self) -> None:
        """Forget what was before CONNECT: whether answers may be late, and what a second master did."""
        self._foreign = self.transport.foreign_requests
        self._unsure = self.silent = False

    def check_alone(self) -> None:
        """Refuse to go on where another master commands the VCU.

        Raises:
            XcpProtocolError: commands of somebody else were seen since CONNECT.
        """
        seen = self.transport.foreign_requests - self._foreign
        if seen:
            message = (
                f"a second master sent {seen} commands to the VCU: its answers and its memory are no longer "
                "ours alone; disconnect the other tool, then arm again"
            )
            raise XcpProtocolError(message)

    def transact(
        self,
        command: Command,
        packets: Sequence[bytes],
        take: Callable[[bytes], bool] | None = None,
        *,
        restore: Callable[[], None] | None = None,
        gap_s: float = 0.0,
        tries: int | None = None,
    ) -> bytes:
        """Send the packets of one command and wait for its answer, again after SYNCH where none comes.

        Args:
            command: whose packets they are.
            packets: one, or a block.
            take: is given each positive answer and says whether it was the last; None: one is enough.
            restore: what must be done before another try, as SET_MTA; called before ``take`` sees anything.
            gap_s: least time between two packets of a block.
            tries: most tries; None: the config's.

        Returns:
            The last answer.

        Raises:
            XcpTimeoutError: no answer in any try, or the limit of ``limited`` was reached.
            XcpCommandError: the VCU refused it.
            XcpProtocolError: it answered nonsense, ended the session, or is not ours alone.
            LinkError: the transport failed.
        """
        open_ = self.connected or (self.silent and command in _REGAINING)
        if command is not Command.CONNECT and not open_:
            message = f"{command.name}: there is no XCP session; call connect() first"
            raise XcpProtocolError(message)
        tries = self.config.attempts if tries is None else tries
        busy = 0
        attempt = 0
        while True:
            if self._unsure and command is not Command.SYNCH and command is not Command.CONNECT:
                self.synch()
            if attempt + busy and restore is not None:
                restore()
            try:
                return self._try(command, packets, take, gap_s)
            except XcpTimeoutError as error:
                attempt += 1
                if attempt >= tries or self._expired():
                    raise self._timed_out(command, attempt, error) from error
            except XcpCommandError as error:
                self._unsure = len(packets) > 1  # what follows the refused one is refused too
                if error.code == ErrorCode.ERR_CMD_BUSY and busy < BUSY_LIMIT:
                    busy += 1
                    self._abort_event.wait(self.config.timeout_s)
                elif error.code == ErrorCode.ERR_SEQUENCE and restore is not None and attempt + 1 < tries:
                    self._unsure = True
                    attempt += 1
                else:
                    raise

    def synch(self) -> None:
        """SYNCH: after it, answers belong to commands again.

        Raises:
            XcpTimeoutError: not answered; the session is lost.
        """
        try:
            self.transact(Command.SYNCH, [bytes((Command.SYNCH,))])
        except XcpTimeoutError as error:
            if not self._expired():
                self.connected, self.silent = False, True
            message = f"{error}; the XCP session is lost: connect again"
            raise XcpTimeoutError(message) from error
        self.connected, self.silent = True, False  # a slave without a session does not answer SYNCH

    def _try(
        self, command: Command, packets: Sequence[bytes], take: Callable[[bytes], bool] | None, gap_s: float
    ) -> bytes:
        self._check(command)
        strays = self.strays
        for packet in self.transport.discard():
            self._side_packet(command, packet)
        if self.strays != strays and command not in (Command.SYNCH, Command.CONNECT):
            self.synch()  # more may be on its way and be taken for the answer
        self._unsure = True  # until the answer is here, whatever ends the waiting
        for index, packet in enumerate(packets):
            if index and gap_s > 0:
                self._abort_event.wait(gap_s)
            self._check(command)
            self.transport.send(packet)
        while True:
            answer = self._answer(command)
            self._check(command)
            if take is None or take(answer):
                self._unsure = False
                return answer

    def _answer(self, command: Command) -> bytes:
        """The next packet that can be this command's answer."""
        allowed = self.config.timeout_s * SLOW_FACTOR.get(command, 1.0)
        begun = time.monotonic()
        deadline = begun + allowed
        while True:
            now = time.monotonic()
            end = deadline if self._deadline is None else min(deadline, self._deadline[0])
            try:
                packet = self.transport.receive(max(0.0, end - now))
            finally:
                self._check(command)  # an abort is no time-out
            if packet[0] == Pid.EVENT and len(packet) > 1 and packet[1] == EventCode.EV_CMD_PENDING:
                deadline = min(time.monotonic() + allowed, begun + PENDING_LIMIT * allowed)
            elif command is Command.SYNCH:
                if packet[0] == Pid.ERROR and packet[1:2] == bytes((ErrorCode.ERR_CMD_SYNCH,)):
                    return packet
                self._side_packet(command, packet)
            elif packet[0] == Pid.RESPONSE:
                return packet
            elif packet[0] == Pid.ERROR and packet[1:2] != bytes((ErrorCode.ERR_CMD_SYNCH,)):
                self.error_packet = packet
                code = packet[1] if len(packet) > 1 else ErrorCode.ERR_GENERIC
                raise XcpCommandError(error_message(command.name, code), command.name, code)
            else:
                self._side_packet(command, packet)
            if time.monotonic() >= deadline:
                message = f"only other packets for {time.monotonic() - begun:.3f} s"
                raise XcpTimeoutError(message)

    def _side_packet(self, command: Command, packet: bytes) -> None:
        """What is no answer to the running command: an event, a late answer, a measured value."""
        if packet[0] != Pid.EVENT:
            self.strays += packet[0] in (Pid.RESPONSE, Pid.ERROR)
            _log.debug("%s: packet %s is no answer to it and is dropped", command.name, packet.hex(" "))
            return
        code = packet[1] if len(packet) > 1 else None
        if code == EventCode.EV_SESSION_TERMINATED and command is not Command.CONNECT:
            self.connected = self.silent = False
            message = (
                f"{command.name}: the VCU ended the XCP session (EV_SESSION_TERMINATED); it is on its "
                "reference page or will be: connect again"
            )
            raise XcpProtocolError(message)
        _log.info("the VCU sent event %s", packet.hex(" "))

    def _check(self, command: Command) -> None:
        if self._abort is not None:
            message = f"{command.name} was given up: {self._abort}"
            raise XcpError(message)
        if command not in _PAGES_ALWAYS:
            self.check_alone()
        if self._deadline is not None and time.monotonic() >= self._deadline[0]:
            raise XcpTimeoutError(self._deadline[1])

    def _expired(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline[0]

    def _timed_out(self, command: Command, tries: int, error: XcpTimeoutError) -> XcpTimeoutError:
        if self._deadline is not None and self._expired():
            return XcpTimeoutError(f"{command.name}: {self._deadline[1]}; check the load of the bus")
        allowed = self.config.timeout_s * SLOW_FACTOR.get(command, 1.0)
        return XcpTimeoutError(f"{command.name}: not answered within {allowed:g} s in {tries} tries: {error}")
