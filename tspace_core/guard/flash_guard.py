"""The one door to the VCU's map: who may flash, when, and what brings the reference map back."""

from collections.abc import Callable

from tspace_core.config.torque_map import TorqueMap
from tspace_core.config.vehicle import Vehicle
from tspace_core.guard.audit import AuditLog
from tspace_core.guard.state import ArmResult, FlashOutcome, GuardState, Proposal, VehicleState
from tspace_core.guard.target import FlashTarget


class FlashGuard:
    """Facade of the guard; one thread calls it, except for `interrupt`.

    Args:
        vehicle: whose limits hold.
        target: carries maps into the VCU.
        audit: where everything is recorded before it takes effect.
        now_ns: monotonic clock, ns.
        utc_ns: UTC, ns since 1970.
    """

    state: GuardState
    cause: str
    live: TorqueMap
    reference: TorqueMap

    def __init__(
        self,
        vehicle: Vehicle,
        target: FlashTarget,
        audit: AuditLog,
        *,
        now_ns: Callable[[], int],
        utc_ns: Callable[[], int],
    ) -> None:
        raise NotImplementedError

    def arm(self, *, by: str, token: str | None, resume: TorqueMap | None) -> ArmResult:
        """Allow flashes, where everything that must hold does; never while LOCKED."""
        raise NotImplementedError

    def heartbeat(self) -> None:
        """The agent is alive."""
        raise NotImplementedError

    def observe(self, state: VehicleState) -> None:
        """Judge one sample of the vehicle, 20 times a second."""
        raise NotImplementedError

    def propose(self, proposal: Proposal) -> FlashOutcome:
        """Clip or refuse the rows, flash them, and say what is in effect."""
        raise NotImplementedError

    def trip(self, cause: str) -> None:
        """Reference page, DISARMED."""
        raise NotImplementedError

    def lock(self, cause: str) -> None:
        """Reference page, LOCKED until a person clears it."""
        raise NotImplementedError

    def clear(self, by: str) -> None:
        """A person has looked at what locked the guard: DISARMED."""
        raise NotImplementedError

    def tick(self) -> None:
        """Heartbeat limits, stale signals, keep-alive; at least 20 times a second."""
        raise NotImplementedError

    def interrupt(self, cause: str) -> None:
        """From any thread: abort a running flash and put the reference page into effect."""
        raise NotImplementedError
