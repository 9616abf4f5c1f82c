"""The one door to the map of a vehicle behind a telematics box.

::

    judged as on the bus -> audit log (on the disk) -> the four rows to the service -> its answer

APPLIED: the service confirmed the rows; there is no read-back, so effect and confirmation are one instant.
REVERTED: it is certain that nothing changed, or the reference map was called for and is confirmed. UNKNOWN:
the answer was lost, late or unclear; then the whole reference map is sent and confirmed before anything else
is accepted. Where even that is not confirmed the guard is LOCKED, says that the learned map may still be in
effect, and tries again with growing pauses until it is confirmed.

Which VCU is at the other end cannot be asked over this interface. In its place stand the VIN that every call
carries, and the service's own refusals: 303 (car not registered), 304 (car offline), 2000 (the box found
another software).

A flash that nobody confirmed may be carried out late, even after the reference map was confirmed: the service
or the box may have kept it back. So until its time is over nothing is armed, and then the reference map is
sent once more. The same holds for an earlier try of a flash that was confirmed. What is done later still than
a set_torque may take would not be seen.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from tspace_core.config.remote import RemoteConfig
from tspace_core.config.torque_map import TorqueMap
from tspace_core.config.vehicle import Vehicle
from tspace_core.errors import AuditError, ConfigError, LinkError, RemoteCanError
from tspace_core.guard.audit import AuditLog
from tspace_core.guard.base import GuardBase
from tspace_core.guard.commands import AbortedError
from tspace_core.guard.remote_watch import WindowWatch
from tspace_core.guard.rows_calls import RowsCalls, RowsTarget
from tspace_core.guard.state import ArmResult, GuardState
from tspace_core.guard.token import CampaignLedger
from tspace_core.guard.transaction import INTERNAL, TIMED_OUT, Flashed

__all__ = ["FIRST_PAUSE_S", "LAST_TRY_S", "LONGEST_PAUSE_S", "UNCONFIRMED", "RemoteGuard", "RowsTarget"]

FIRST_PAUSE_S, LONGEST_PAUSE_S = 2.5, 30.0
"""Between tries to have the reference map confirmed: doubled from the first to the longest."""
LAST_TRY_S = 10.0
"""Longest try when the bridge ends."""
UNCONFIRMED = "the learned map may still be in effect"
_BEGAN = "; it began with: "


class RemoteGuard(GuardBase):
    """The guard of a vehicle that is flashed through the remote CAN service.

    Arming needs no sample of the vehicle, but every flash and every resume needs a valid one that is fresh.

    Args:
        vehicle: with a ``remote`` section.
        target: carries rows into the vehicle.
        audit: where everything is recorded before it takes effect.
        now_ns: monotonic clock, ns.
        utc_ns: UTC, ns since 1970.
        code_of: the outcome's code of a failed call: 4 where it may heal, 2 where waiting does not help.
        ledger: spent campaign tokens; None: a file beside the audit log.
        driver: id of who drives, for campaign tokens; None: as the vehicle's file says.

    Raises:
        ConfigError: the vehicle has no remote section, or its limits are incomplete or exclude its default
            map.
    """

    _watch: WindowWatch

    def __init__(
        self,
        vehicle: Vehicle,
        target: RowsTarget,
        audit: AuditLog,
        *,
        now_ns: Callable[[], int],
        utc_ns: Callable[[], int],
        code_of: Callable[[LinkError], int],
        ledger: CampaignLedger | None = None,
        driver: str | None = None,
    ) -> None:
        remote = remote_of(vehicle)
        self._calls = RowsCalls(target, vehicle.default_map().table, remote.set_torque_s, now_ns)
        self._flash_s = min(remote.set_torque_s, vehicle.guard.flash_time_limit_s)
        self._code_of = code_of
        super().__init__(
            vehicle,
            self._calls,
            WindowWatch(vehicle, remote),
            audit,
            now_ns=now_ns,
            utc_ns=utc_ns,
            ledger=ledger,
            driver=driver,
        )
        self._retry_s = 0.0  # what the log calls unconfirmed is sent at once
        if not self._confirmed:
            self._doubt("the bridge before ended without a confirmed reference map; it is sent at once")
            if _may_be_late(audit.last or {}):
                self._calls.late_ns = now_ns() + round(remote.set_torque_s * 1e9)

    @property
    def counters(self) -> dict[str, int]:
        """Calls that the service confirmed, and those it did not; for how long a flash may come late, s."""
        calls = {f"set_torque_{name}": count for name, count in self._calls.counts.items()}
        return calls | {"late_flash_s": math.ceil(self._late_s(self._now_ns()) or 0)}

    @property
    def standing(self) -> str:
        """What is known of the map in effect, in words."""
        if not self._confirmed:
            return f"THE REFERENCE MAP IS NOT CONFIRMED: {self.cause}"
        late_s = self._late_s(self._now_ns())
        if late_s is not None:
            return (
                "the reference map is confirmed, but a flash of before may be carried out for "
                f"{late_s:.0f} s more; the next bridge sends the reference map once more"
            )
        problem = self._calls.problem
        if problem is None:
            return "the reference map is in effect"
        return (
            "the reference map is in effect, nothing else was sent since it was; the last try to send it "
            f"again was not confirmed: {problem}"
        )

    def hurry(self) -> None:
        """The process ends: no try from now on takes longer than `LAST_TRY_S`."""
        self._calls.limit_s = min(self._calls.limit_s, LAST_TRY_S)

    def tick(self) -> None:
        """As every guard; and the reference map once more when no flash can come late any more."""
        super().tick()
        late_s, now = self._late_s(self._now_ns()), self._now_ns()
        waits = late_s is None or late_s > 0 or now - self._retried_ns < self._retry_s * 1e9
        if waits or not self._confirmed or self.state == "ARMED":
            return
        problem = self._calls.revert()
        self._retried_ns, self._retry_s = self._now_ns(), self._pause_s()
        if problem is None:
            self._record("reference_repeated")
        else:
            self._record("reference_unconfirmed", problem=problem)

    def lock(self, cause: str) -> None:
        """Reference map, LOCKED until a person clears it; one that was sent in vain just now waits."""
        waits = self._now_ns() - self._retried_ns < self._retry_s * 1e9
        if self.state == "LOCKED" and not self._confirmed and waits:
            self._record("locked_again", why=cause)
        else:
            super().lock(cause)

    def _late_s(self, now: int) -> float | None:
        """For how long a flash may still be carried out late, 0: not any more, but nothing was sent since."""
        late_ns = self._calls.late_ns
        return None if late_ns is None else max(late_ns - now, 0) / 1e9

    def _unfit(self, now: int) -> str | None:
        late_s = self._late_s(now)
        if not late_s or self.state == "ARMED":
            return None
        return (
            "a flash that was not confirmed may still be carried out, and nobody would know; arm again in "
            f"{late_s:.0f} s"
        )

    def _certain(self) -> bool:
        return self._confirmed and self._calls.late_ns is None

    def _prepare(self, mark: int, token: str | None) -> dict[str, object] | None:
        campaign = self._campaigns.spend(token)
        self._calls.reference(mark)
        if not self._confirmed:
            self._settle(None)
        return campaign

    def _transact(self, table: TorqueMap, rows: slice, mark: int, record: Callable[..., None]) -> Flashed:
        sent = table.table[rows].copy()
        try:
            record(cells=sent.size)
            self._calls.send(rows.start, sent, mark=mark, timeout_s=self._flash_s)
            effect_ns = self._now_ns()
        except AuditError as error:  # before the call: nothing was sent
            return Flashed("REVERTED", INTERNAL, _text(error), None, None, 0, lock=True)
        except AbortedError as error:
            return Flashed("UNKNOWN", TIMED_OUT, _text(error), None, None, sent.size, trip=True)
        except LinkError as error:
            code = self._code_of(error)
            if isinstance(error, RemoteCanError) and error.unchanged:
                return Flashed("REVERTED", code, _text(error), None, None, 0)
            return Flashed("UNKNOWN", code, _text(error), None, None, sent.size, trip=True)
        except Exception as error:
            return Flashed("UNKNOWN", INTERNAL, _text(error), None, None, sent.size, lock=True)
        finally:
            self._watch.answered(self._now_ns())
        return Flashed("APPLIED", 0, "", None, effect_ns, sent.size)

    def _take_over(self, done: Flashed, table: TorqueMap, *, known: bool) -> None:
        if done.result == "APPLIED":
            self.live = table
        elif done.result == "REVERTED":
            self._confirmed = known

    def _call_off(self, *, later: bool) -> None:
        if later:
            self._calls.abort_all()
        else:
            self._calls.abort()

    def _way_back(self, *, later: bool) -> str | None:
        return self._calls.revert_anew() if later else self._calls.revert()

    def _cleared(self) -> str | None:
        if self._confirmed:
            return None
        problem = self._calls.revert()
        self._settle(problem)
        return problem

    def _came_back(self, before: GuardState, cause: str, problem: str | None, *, known: bool) -> None:
        if problem is None:
            self._believe()
        elif known:
            self._confirmed = True  # it was in effect and stays so where it is sent again in vain
        elif self._falling:
            return  # another try took this one's place: what comes of that one counts
        else:
            self._retried_ns, self._retry_s = self._now_ns(), FIRST_PAUSE_S
            self._lock_unconfirmed(problem)

    def _settle(self, problem: str | None) -> None:
        with self._mutex:
            if problem is None:
                self._confirmed = True
                self._to_reference()
                self._believe()
            elif self._falling or self._confirmed:
                return  # somebody else's try took its place
            else:
                self._lock_unconfirmed(problem)
        if problem is None:
            self._record("reference_confirmed")
        else:
            self._record("reference_unconfirmed", problem=problem)

    def _go_on(self, by: str) -> ArmResult:
        self._watch.answered(self._now_ns())
        return super()._go_on(by)

    def _attend(self, now: int) -> None:
        """Nothing has to be kept alive."""

    def _pause_s(self) -> float:
        return min(max(2 * self._retry_s, FIRST_PAUSE_S), LONGEST_PAUSE_S)

    def _bare(self) -> str:
        """The cause without what was said of the reference map, perhaps by the process before."""
        return self.cause.rpartition(_BEGAN)[2] if UNCONFIRMED in self.cause else self.cause

    def _believe(self) -> None:
        if UNCONFIRMED in self.cause:
            self.cause = f"{self._bare()}; the reference map is confirmed by now"

    def _doubt(self, what: str) -> None:
        self.cause = f"{UNCONFIRMED}: {what}{_BEGAN}{self._bare()}"

    def _lock_unconfirmed(self, problem: str) -> None:
        self.state = "LOCKED"
        self._doubt(f"the reference map is not confirmed: {problem}")


def remote_of(vehicle: Vehicle) -> RemoteConfig:
    """The vehicle's telematics box.

    Raises:
        ConfigError: it has none.
    """
    if vehicle.remote is None:
        message = (
            f"vehicle {vehicle.id} has no remote section, so nothing can be flashed through a telematics "
            "box; add one to its file in conf/vehicles"
        )
        raise ConfigError(message)
    return vehicle.remote


def _may_be_late(last: Mapping[str, Any]) -> bool:
    """Whether a flash may be carried out after the last line of a log; nothing is armed while one may be."""
    idle = last.get("event") != "flash" and last.get("result") != "UNKNOWN"
    return not (idle and last.get("guard") == "ARMED")


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
