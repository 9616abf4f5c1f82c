"""A vehicle behind its telematics box: windows by the remote CAN service, flashes by the bridge's channel.

One connection at a time to the service: a window is asked for, and the next one only when the control thread
has dealt with it, its flash included. Nothing is asked for outside an episode.
"""

import logging
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass

from tspace_core.can.box_window import decode_window
from tspace_core.config import Vehicle
from tspace_core.config.remote import UNIT_S, UNIT_SAMPLES, RemoteConfig
from tspace_core.errors import AiModeOffError, LinkError, RemoteCanError, StorageError
from tspace_core.guard.state import VehicleState
from tspace_core.link.messages import Observe
from tspace_core.link.remote_can import RemoteCanClient
from tspace_core.link.remote_codes import CODES
from tspace_core.supervision import Supervisor
from tspace_core.vehicle.box_windows import BoxWindows, Fetched
from tspace_core.vehicle.bridge_link import BridgeLink
from tspace_core.vehicle.bridged import BridgedVehicle, DriveOptions
from tspace_core.vehicle.control import Countdown
from tspace_core.vehicle.hmi import DATAGRAM_SOURCES
from tspace_core.vehicle.intake import Intake
from tspace_core.vehicle.interface import Task
from tspace_core.vehicle.states import Event
from tspace_core.vehicle.windows import Window

_log = logging.getLogger(__name__)

RESERVE_S = 4.0
"""For the way to the bridge and back, and what it does before and after its call."""
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 5.0
_AGE_MS_MOST = 3_600_000.0
_REASON_LENGTH = 2000


@dataclass(frozen=True)
class RemoteOptions(DriveOptions):
    """How a vehicle behind its telematics box is driven.

    Attributes:
        flash_timeout_s: longest wait for the answer to a proposal; None: of a set_torque and a reserve.
        arm_timeout_s: longest wait for the answer to arming; None: of two and a reserve, for the reference
            map of the episode before may still be on its way when a whole map is to be sent.
    """

    flash_timeout_s: float | None = None
    arm_timeout_s: float | None = None


class RemoteCAN(BridgedVehicle[Fetched]):
    """A vehicle behind its telematics box, or its twin behind a simulated one.

    Raises:
        ConfigError: the vehicle has no telematics box, the HMI's source does not exist, or a state signal is
            none that a box sends.
    """

    def __init__(self, vehicle: Vehicle, options: RemoteOptions | None = None) -> None:
        self.options = RemoteOptions() if options is None else options
        self.builder = BoxWindows(vehicle)
        remote = vehicle.remote or RemoteConfig()
        flash_s, arm_s = self.options.flash_timeout_s, self.options.arm_timeout_s
        super().__init__(
            vehicle,
            self.options,
            self.builder,
            Intake(vehicle, requests_only=True),
            flash_timeout_s=remote.set_torque_s + RESERVE_S if flash_s is None else flash_s,
            arm_timeout_s=2 * remote.set_torque_s + RESERVE_S if arm_s is None else arm_s,
        )
        self._units = vehicle.sampling.window // UNIT_SAMPLES
        self._client: RemoteCanClient | None = None
        # Who resumes the client has made sure under this lock that nothing has ended what he asks for.
        self._calling = threading.Lock()
        self._asking: int | None = None
        self._over = False
        self._silence = Countdown(self._silent)
        self._pause = _Pause()

    @property
    def hears_datagrams(self) -> bool:
        """Whether the address of the datagrams is this run's: where the HMI sends them."""
        return self._hmi in DATAGRAM_SOURCES

    def connect(self, supervisor: Supervisor) -> None:
        """Make the client, say hello to the bridge, and take the HMI's address over from it."""
        with ExitStack() as undo:
            self._client = RemoteCanClient(self.vehicle)
            undo.callback(self._client.close)
            supervisor.on_stop("remote CAN service", lambda: self._abort("the run is stopping"))
            supervisor.on_stop("silence", self._silence.close)
            super().connect(supervisor)
            undo.pop_all()

    def disconnect(self) -> None:
        """Close the channel, after the last disarm went out, and the service's connection."""
        super().disconnect()
        if self._client is not None:
            self._client.close()

    def tasks(self) -> dict[str, Task]:
        """Every task by its name."""
        more: dict[str, Task] = {"silence": self._silence.run}
        if self._receiver is not None:
            more["datagrams"] = self.datagrams
        return super().tasks() | more

    def datagrams(self) -> None:
        """Task: hear the HMI's datagrams until the run stops."""
        receiver = self._receiver
        assert receiver is not None
        with self._udp:
            while not self._stopping():
                self.hear(receiver, None)

    def produce(self) -> None:
        """Task: while an episode is captured, ask for one window after the other."""
        while not self._stopping():
            epoch = self.control.wait_capture()
            if epoch is None or self.stream.closed:
                return
            if self._dealt_with() and self._rested(epoch):
                self._fetch(epoch)

    def built(self, window: Window) -> None:
        """Tell the bridge what was seen last, before anything is decided on it."""
        self._pause.judge(valid=window.valid)
        if self.bridge is not None:
            _tell(self.bridge, self.builder.seen)

    def before_resuming(self, bridge: BridgeLink) -> None:
        """Look at the vehicle: the bridge resumes at standstill only, and sees what it is told."""
        looking = BoxWindows(self.vehicle)
        try:
            with self._calling:
                if self._over or self._stopping():
                    return
                self._service.resume()
            found = self._ask(UNIT_S, units=1)
        except (LinkError, StorageError) as error:
            if not self._over and not self._stopping():
                self.watchdog.capture_failure(str(error))
            return
        looking.push(found)
        _tell(bridge, looking.seen)

    def capture_stopped(self) -> None:
        """Give up what is being asked for."""
        self._abort("capture has stopped")

    def disarm(self, cause: str) -> None:
        """Leave the connection to the bridge, and ask it for the reference map."""
        self._abort(cause)
        super().disarm(cause)

    def urgent(self, cause: str) -> None:
        """The run ends: what is being asked for is of no use any more."""
        self._over = True
        if not self.control.capturing:
            self._abort(cause)
        super().urgent(cause)

    @property
    def _service(self) -> RemoteCanClient:
        assert self._client is not None
        return self._client

    def _abort(self, cause: str) -> None:
        with self._calling:
            if self._client is not None:
                self._client.abort(cause)

    def _dealt_with(self) -> bool:
        """Wait until nothing is under way any more between here and the control thread's last decision."""
        limit_s = self.flash_timeout_s + self.vehicle.online.silence_s
        if self._observations.wait_idle(limit_s) and self.stream.wait_idle(limit_s):
            return True
        if not self._stopping() and not self.stream.closed:
            self.watchdog.capture_failure(f"the control thread did not come back within {limit_s:g} s")
        return False

    def _rested(self, epoch: int) -> bool:
        """Wait after a failure; whether that epoch is still captured then."""
        left_s = self._pause.left_s(epoch)
        return not (left_s > 0 and self.control.wait_over(epoch, left_s)) and self.control.captures(epoch)

    def _fetch(self, epoch: int) -> None:
        """Ask for a window, and pass it on if its epoch is captured still."""
        number = self.control.number
        silence_s = self.vehicle.online.silence_s
        with self._calling:
            if not self.control.captures(epoch) or self._stopping():
                return
            self._service.resume()
            self._asking = epoch
            self._silence.start(epoch, silence_s)
        self._pause.asked()
        try:
            found = self._ask(self.vehicle.sampling.window_s, units=self._units)
        except (LinkError, StorageError) as error:
            if self.control.captures(epoch):
                self._failed(error, number)
            return
        finally:
            with self._calling:
                self._asking = None
                self._silence.cancel()
        self.observe(found, epoch)

    def _ask(self, seconds: float, *, units: int) -> Fetched:
        result = self._service.get_signals(seconds)
        received_ns = time.time_ns()
        box = decode_window(result, self.vehicle, near_ns=received_ns, units=units)
        return Fetched(box, received_ns)

    def _failed(self, error: LinkError | StorageError, number: int) -> None:
        reason = str(error)
        self._pause.failed()
        self.watchdog.capture_failure(reason)
        row = CODES.get(error.code) if isinstance(error, RemoteCanError) else None
        if row is not None and row.lasting:
            self.control.post(Event.FAIL, reason)
        elif isinstance(error, AiModeOffError):
            self.control.post(Event.INTERRUPT, reason, episode=number)

    def _silent(self, epoch: int) -> None:
        silence_s = self.vehicle.online.silence_s
        with self._calling:
            if self._asking != epoch or not self.control.captures(epoch):
                return
            self._silence.start(epoch, silence_s)
        self.watchdog.capture_failure(f"silence: no sample for {silence_s:g} s")


class _Pause:
    """How long to wait before the next window is asked for: longer with every failure in a row.

    A call that failed is waited for after its end. An invalid window is waited for from when it was asked
    for: one that took its time to come costs no more of it, one that comes at once makes no busy loop.
    """

    def __init__(self) -> None:
        self._failures = 0
        self._since = 0.0
        self._epoch = -1

    def asked(self) -> None:
        """A window is asked for now."""
        self._since = time.monotonic()

    def failed(self) -> None:
        """It did not come."""
        self._failures += 1
        self._since = time.monotonic()

    def judge(self, *, valid: bool) -> None:
        """It came."""
        self._failures = 0 if valid else self._failures + 1

    def left_s(self, epoch: int) -> float:
        """Seconds still to wait in that epoch; a new one begins without failures."""
        if epoch != self._epoch:
            self._epoch, self._failures = epoch, 0
        if not self._failures:
            return 0.0
        pause_s = min(FIRST_PAUSE_S * 2.0 ** min(self._failures - 1, 10), LONGEST_PAUSE_S)
        return self._since + pause_s - time.monotonic()


def _tell(bridge: BridgeLink, seen: VehicleState) -> None:
    age_ms = min(max(time.time_ns() - seen.at_ns, 0) / 1e6, _AGE_MS_MOST)
    bridge.observe(
        Observe(
            velocity_kmh=seen.velocity_kmh,
            thrust_percent=seen.thrust_percent,
            brake_percent=seen.brake_percent,
            age_ms=age_ms,
            valid=seen.valid,
            reason=seen.reason[:_REASON_LENGTH],
        )
    )
