"""A vehicle on its CAN bus: samples by the bridge's datagrams, flashes by the bridge's channel."""

import time
from dataclasses import dataclass

from tspace_core.config import Vehicle
from tspace_core.vehicle.bridge_link import ARM_TIMEOUT_S, FLASH_TIMEOUT_S
from tspace_core.vehicle.bridged import NOT_FLASHING, BridgedVehicle, DriveOptions
from tspace_core.vehicle.intake import Intake
from tspace_core.vehicle.observation import Observation
from tspace_core.vehicle.windows import WindowBuilder

__all__ = ["NOT_FLASHING", "KvaserCAN", "KvaserOptions"]


@dataclass(frozen=True)
class KvaserOptions(DriveOptions):
    """How a vehicle on its CAN bus is driven; to observe, any bridge that sends the datagrams will do.

    Attributes:
        flash_timeout_s: longest wait for the answer to a proposal.
        arm_timeout_s: longest wait for the answer to arming.
    """

    flash_timeout_s: float = FLASH_TIMEOUT_S
    arm_timeout_s: float = ARM_TIMEOUT_S


class KvaserCAN(BridgedVehicle[Observation]):
    """A vehicle on its CAN bus, or its twin on one.

    Raises:
        ConfigError: the HMI's source does not exist, or a state signal has no key in datagrams.
    """

    def __init__(self, vehicle: Vehicle, options: KvaserOptions | None = None) -> None:
        self.options = KvaserOptions() if options is None else options
        self.builder = WindowBuilder(vehicle)
        super().__init__(
            vehicle,
            self.options,
            self.builder,
            Intake(vehicle),
            flash_timeout_s=self.options.flash_timeout_s,
            arm_timeout_s=self.options.arm_timeout_s,
        )

    def produce(self) -> None:
        """Task: take datagrams until the run stops; count silence while an episode is captured."""
        receiver = self._receiver
        assert receiver is not None
        silence_s = self.vehicle.online.silence_s
        quiet_since, samples = time.monotonic(), self.intake.samples
        epoch = self.control.epoch
        with self._udp:
            while not self._stopping():
                left = quiet_since + silence_s - time.monotonic()
                self.hear(receiver, max(left, 0.0), self.observe)
                now = time.monotonic()
                if self.intake.samples != samples or self.control.epoch != epoch:
                    quiet_since, samples, epoch = now, self.intake.samples, self.control.epoch
                elif now - quiet_since >= silence_s:
                    quiet_since = now
                    if self.control.capturing:
                        self.watchdog.capture_failure(f"silence: no sample for {silence_s:g} s")
