"""What is watched of a vehicle that is seen window by window, as its agent tells it."""

from tspace_core.config.remote import RemoteConfig
from tspace_core.config.vehicle import Vehicle
from tspace_core.guard.state import VehicleState, implausible
from tspace_core.guard.supervision import AgentWatch


class WindowWatch(AgentWatch):
    """Judges heartbeats and windows.

    The agent tells the last sample of each window, or that a window was none. Time without a valid sample
    counts from that sample on, but not while the guard itself held the vehicle's one connection: call
    `answered` then.

    Args:
        vehicle: whose limits hold.
        remote: its telematics box.
    """

    def __init__(self, vehicle: Vehicle, remote: RemoteConfig) -> None:
        super().__init__(vehicle)
        self._age_ns = round(remote.signal_age_s * 1e9)
        self._valid_ns = 0
        self._invalid = 0

    def begin(self, now_ns: int) -> None:
        """A run begins: the agent is alive, no window is invalid."""
        super().begin(now_ns)
        self._invalid = 0
        self._valid_ns = now_ns

    def answered(self, now_ns: int) -> None:
        """A call of the guard is over; no window could come meanwhile."""
        self._valid_ns = max(self._valid_ns, now_ns)

    def observe(self, state: VehicleState, now_ns: int) -> str | None:
        """Take one window's last sample in; returns why the reference map must come back, or None."""
        self.latest = state
        age_ns = now_ns - state.at_ns
        why = implausible(state, self._limits)
        if why is None and not 0 <= age_ns <= self._age_ns:
            why = f"its last sample is {age_ns / 1e9:.1f} s old, at most {self._age_ns / 1e9:g} s"
        if why is None:
            self._invalid = 0
            self._valid_ns = max(self._valid_ns, state.at_ns)
            return self._overridden(state)
        self._invalid += 1
        if self._invalid < self._limits.invalid_windows:
            return None
        return f"{self._invalid} invalid windows in a row, the last one: {why}"

    def windows(self, now_ns: int) -> str | None:
        """Why too long a time without a valid sample brings the reference map back, or None."""
        without_ns = now_ns - self._valid_ns
        if without_ns < 2 * self._age_ns:
            return None
        most_s = 2 * self._age_ns / 1e9
        return f"no valid sample of the vehicle for {without_ns / 1e9:.0f} s, at most {most_s:g} s"
