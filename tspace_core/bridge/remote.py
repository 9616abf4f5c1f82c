"""The bridge process of a vehicle behind a telematics box: guarded flashes through the remote CAN service.

Tasks beside those of every bridge:

=============  ===================================================================================
``watch``      an agent that falls silent while a flash is on its way is not waited for
=============  ===================================================================================

It has no bus: what the vehicle does it is told by the agent, window by window. Nothing at the other end falls
back by itself as a VCU on the bus does, so the reference map that the guard sends last counts: whether it is
confirmed is told, and ends the process with an error where it is not. After a kill -9 the audit log says that
a map may have been left behind, and the next bridge sends the reference map first.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tspace_core.bridge.base import BridgeBase, BridgeOptions, MakeGuard
from tspace_core.bridge.guard_task import GuardTask
from tspace_core.config.vehicle import Vehicle
from tspace_core.guard.audit import AuditLog
from tspace_core.guard.remote import LAST_TRY_S, RemoteGuard, remote_of
from tspace_core.guard.state import VehicleState
from tspace_core.link.remote_codes import flash_code
from tspace_core.supervision.supervisor import Supervisor

_LOOK_S = 0.25


class RowsClient(Protocol):
    """What is needed of `tspace_core.link.remote_can.RemoteCanClient`."""

    failures: Counter[int]

    def send_torque_map(
        self, first_row: int, rows: NDArray[np.float32], *, timeout_s: float | None = None
    ) -> bool:
        """Send rows; return when the service confirmed them, or raise a ``LinkError``.

        False: an earlier try of it may be carried out still, a second time.
        """

    def abort(self, cause: str) -> None:
        """End the running call and all after it until ``resume``."""

    def resume(self) -> None:
        """Allow calls again."""

    def close(self) -> None:
        """End everything."""


ClientFactory = Callable[[Vehicle], RowsClient]


def service_client(vehicle: Vehicle) -> RowsClient:
    """A client of the remote CAN service; nothing is sent yet.

    Raises:
        ConfigError: the settings name no service that may be used.
    """
    from tspace_core.link.remote_can import RemoteCanClient

    return RemoteCanClient(vehicle)


class ServiceTarget:
    """A client of the remote CAN service as the guard's `RowsTarget`."""

    def __init__(self, client: RowsClient) -> None:
        self._client = client

    def send(self, first_row: int, rows: NDArray[np.float32], *, timeout_s: float) -> bool:
        """Send rows; returns when the service confirmed them."""
        return self._client.send_torque_map(first_row, rows, timeout_s=timeout_s)

    def abort(self, cause: str) -> None:
        """End the running call."""
        self._client.abort(cause)

    def resume(self) -> None:
        """Allow calls again."""
        self._client.resume()


class RemoteBridge(BridgeBase):
    """The bridge of one vehicle behind a telematics box.

    Args:
        vehicle: with ``remote``.
        options: how it is run.
        connect: makes the client of the remote CAN service.

    Raises:
        ConfigError: the vehicle has no remote section.
    """

    revert_end_s = LAST_TRY_S + 2.0
    end_s = 2 * LAST_TRY_S + 5.0

    def __init__(
        self,
        vehicle: Vehicle,
        options: BridgeOptions | None = None,
        *,
        connect: ClientFactory = service_client,
    ) -> None:
        self._remote = remote_of(vehicle)
        super().__init__(vehicle, options)
        self._connect = connect
        self._seen: VehicleState | None = None
        self._windows = {"windows_valid": 0, "windows_invalid": 0}
        self._confirmed = True

    @property
    def failed(self) -> bool:
        """Whether something broke, or the reference map could not be confirmed at the end."""
        return super().failed or not self._confirmed

    @contextmanager
    def _way(self) -> Iterator[MakeGuard]:
        client = self._connect(self.vehicle)
        self._client = client
        try:
            yield lambda audit: self._guarded(ServiceTarget(client), audit)
        finally:
            client.close()

    def _guarded(self, target: ServiceTarget, audit: AuditLog) -> RemoteGuard:
        self._guard = RemoteGuard(
            self.vehicle,
            target,
            audit,
            now_ns=time.monotonic_ns,
            utc_ns=time.time_ns,
            code_of=flash_code,
        )
        return self._guard

    def _start(self, supervisor: Supervisor) -> None:
        # A call takes up to half a minute: who watches hears of the change before it, not after.
        self._guard.on_change = self._task.tell
        supervisor.start("watch", lambda: self._watch(supervisor.stopping))

    def _watch(self, stopping: threading.Event) -> None:
        limit_s = self.vehicle.guard.reference_after_s
        while not stopping.wait(_LOOK_S):
            if not (self._guard.flying and self._guard.state == "ARMED"):
                continue
            silent_s = (time.monotonic_ns() - self._peers.heard_ns) / 1e9
            if silent_s >= limit_s:
                self._task.revert(
                    f"no heartbeat of the agent for {silent_s:.2f} s while a flash is on its way, reference "
                    f"map after {limit_s:g} s"
                )

    def _begin_end(self, task: GuardTask) -> None:
        self._guard.hurry()
        super()._begin_end(task)

    def _ended(self, task: GuardTask) -> None:
        self._confirmed = task.ended.is_set() and self._guard.confirmed
        self.options.tell(self._guard.standing)

    def _observed(self) -> Callable[[VehicleState], None]:
        return self._see

    def _see(self, state: VehicleState) -> None:
        self._seen = state
        self._windows["windows_valid" if state.valid else "windows_invalid"] += 1

    def _counters(self) -> Mapping[str, int]:
        failures = sorted(self._client.failures.copy().items())
        return {
            **self._guard.counters,
            **self._windows,
            **{f"failures_{code}": count for code, count in failures},
        }

    def _signals(self) -> Mapping[str, float | None]:
        seen = self._seen
        values: dict[str, float] = {}
        if seen is not None and seen.valid:
            age_s = (time.monotonic_ns() - seen.at_ns) / 1e9
            if age_s <= self._remote.signal_age_s:
                values = {
                    "velocity": seen.velocity_kmh,
                    "thrust": seen.thrust_percent,
                    "brake": seen.brake_percent,
                }
        return {name: values.get(name) for name in self.vehicle.signals}
