"""What is watched between flashes: the agent's heartbeat, the vehicle's signals, the driver."""

from abc import ABC, abstractmethod

from tspace_core.config.vehicle import Vehicle
from tspace_core.guard.envelope import Envelope
from tspace_core.guard.rules import wrong_state
from tspace_core.guard.state import VehicleState, implausible

KEEP_ALIVE_S = 0.5
"""A quarter of the silence after which the VCU falls back by itself."""
LOST_AFTER = 3
"""Questions in a row that the VCU did not answer until its session counts as lost."""
RETRY_S = 0.5
"""Until the first try to put an unconfirmed reference page into effect."""
QUIET_S = 2.5
"""Between further tries: each keeps the VCU's session alive, which left in silence falls back by itself."""


class AgentWatch(ABC):
    """Judges the agent's heartbeat; what is known of the vehicle is its subclasses' matter.

    Time is given in ns of a monotonic clock.

    Attributes:
        latest: the newest sample of the vehicle, however old.
    """

    def __init__(self, vehicle: Vehicle) -> None:
        self._limits = vehicle.guard
        self._heartbeat_ns = 0
        self.latest: VehicleState | None = None

    def begin(self, now_ns: int) -> None:
        """A run begins: the agent is alive."""
        self._heartbeat_ns = now_ns

    def heartbeat(self, now_ns: int) -> None:
        """The agent was alive at ``now_ns``; word that comes late makes it no younger."""
        self._heartbeat_ns = max(self._heartbeat_ns, now_ns)

    @abstractmethod
    def observe(self, state: VehicleState, now_ns: int) -> str | None:
        """Take one sample in; returns why the reference map must come back, or None."""

    @abstractmethod
    def windows(self, now_ns: int) -> str | None:
        """Why what is known of the vehicle brings the reference map back, or None."""

    def agent_lost(self, now_ns: int) -> str | None:
        """Why the reference map must come back, or None."""
        return self._silent(now_ns, self._limits.reference_after_s, "reference map")

    def agent_late(self, now_ns: int) -> str | None:
        """Why nothing may be flashed, or None."""
        return self._silent(now_ns, self._limits.no_flash_after_s, "no flash")

    def _silent(self, now_ns: int, limit_s: float, then: str) -> str | None:
        silent_s = (now_ns - self._heartbeat_ns) / 1e9
        if silent_s < limit_s:
            return None
        return f"no heartbeat of the agent for {silent_s:.2f} s, {then} after {limit_s:g} s"

    def _overridden(self, state: VehicleState) -> str | None:
        most = self._limits.override_brake_percent
        if state.valid and state.brake_percent > most:
            return f"driver override: brake at {state.brake_percent:g} %, beyond {most:g} %"
        return None


class Supervision(AgentWatch):
    """Judges heartbeats and samples; it decides nothing itself but says what there is to decide.

    Time is given in ns of a monotonic clock. Windows as long as the vehicle's follow one another from `begin`
    on; one is invalid with fewer than 90 % of its samples, with one sample that is stale (older than 10
    periods) or implausible, with a gap of more than 10 periods, or with 5 counter errors.
    """

    def __init__(self, vehicle: Vehicle) -> None:
        super().__init__(vehicle)
        self._window_ns = round(vehicle.sampling.window_s * 1e9)
        self._samples = vehicle.sampling.window
        self._stale_ns = round(vehicle.guard.stale_periods / vehicle.sampling.rate_hz * 1e9)
        self._seen_ns = 0
        self._invalid = 0
        self._reason = ""
        self._start_ns = self._count = self._errors = 0
        self._why: str | None = None

    def begin(self, now_ns: int) -> None:
        """A run begins: the agent is alive, no window is invalid."""
        super().begin(now_ns)
        self._seen_ns = now_ns
        self._invalid = 0
        self._open_window(now_ns)

    def observe(self, state: VehicleState, now_ns: int) -> str | None:
        """Take one sample in; returns why the reference map must come back, or None."""
        cause = self.windows(now_ns)
        self.latest = state
        self._count += 1
        self._errors += state.counter_errors
        why = implausible(state, self._limits)
        age_ns = now_ns - state.at_ns
        if why is None and not 0 <= age_ns <= self._stale_ns:
            why = f"the signals are {age_ns / 1e9:.3f} s old, at most {self._stale_ns / 1e9:g} s"
        self._note_gap(now_ns)
        self._seen_ns = now_ns
        self._why = self._why or why
        return self._overridden(state) or cause

    def dead(self, now_ns: int, envelope: Envelope) -> str | None:
        """Why the signals are not alive enough to arm on, or None."""
        if self.latest is None:
            return "there was no sample of the vehicle yet: is the bus alive?"
        problem = wrong_state(self.latest, envelope, now_ns)
        return None if problem is None else f"the vehicle's signals are not alive: {problem.reason}"

    def windows(self, now_ns: int) -> str | None:
        """Close the windows that are over; returns why the reference map must come back, or None."""
        while now_ns - self._start_ns >= self._window_ns and self._invalid < self._limits.invalid_windows:
            end_ns = self._start_ns + self._window_ns
            self._note_gap(end_ns)
            why = self._why or self._too_few()
            self._invalid = self._invalid + 1 if why else 0
            self._reason = why or ""
            self._open_window(end_ns)
        if self._invalid >= self._limits.invalid_windows:
            return f"{self._invalid} invalid windows in a row, the last one: {self._reason}"
        return None

    def _open_window(self, start_ns: int) -> None:
        self._start_ns = start_ns
        self._count = 0
        self._errors = 0
        self._why = None

    def _note_gap(self, now_ns: int) -> None:
        gap_ns = now_ns - max(self._seen_ns, self._start_ns)
        if gap_ns > self._stale_ns and self._why is None:
            self._why = f"no sample for {gap_ns / 1e9:.2f} s, at most {self._stale_ns / 1e9:g} s"

    def _too_few(self) -> str | None:
        least = self._limits.window_rate_min * self._samples
        if self._count < least:
            return f"{self._count} samples of {self._samples}, at least {least:g}"
        if self._errors >= self._limits.counter_errors:
            return f"{self._errors} counter errors, fewer than {self._limits.counter_errors} are allowed"
        return None
