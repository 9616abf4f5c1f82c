"""What every guard does, whatever carries its maps: states, judging, audit log, the way back.

A guard is a `GuardBase` with a way to the vehicle: `FlashGuard` over a calibration session on the bus,
`RemoteGuard` over the remote CAN service.
"""

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any

from tspace_core.config.torque_map import FLASHED_ROWS, TorqueMap
from tspace_core.config.vehicle import Vehicle
from tspace_core.errors import AuditError, LinkError, TokenError
from tspace_core.guard.audit import AuditLog
from tspace_core.guard.campaign import Campaigns
from tspace_core.guard.commands import AbortedError, OverrunError, WayBack
from tspace_core.guard.envelope import Envelope
from tspace_core.guard.journal import Journal, rows_sha256
from tspace_core.guard.judge import Judge
from tspace_core.guard.recent import RecentFlashes
from tspace_core.guard.state import (
    Accepted,
    AppliedRows,
    ArmResult,
    FlashOutcome,
    GuardState,
    Proposal,
    Refusal,
    VehicleState,
    outcome,
)
from tspace_core.guard.states import TABLE, GuardEvent
from tspace_core.guard.supervision import RETRY_S, AgentWatch
from tspace_core.guard.token import CampaignLedger
from tspace_core.guard.transaction import Flashed, MismatchError, given_up


class GuardBase(ABC):
    """Facade of a guard; one thread calls it, except for `interrupt`, which any thread may call.

    Whatever fails, it returns an outcome, and state and cause say what it led to; only wrong configs raise.

    Args:
        vehicle: whose limits hold.
        way: flashes and the way back.
        watch: judges heartbeats and samples.
        audit: where everything is recorded before it takes effect.
        now_ns: monotonic clock, ns.
        utc_ns: UTC, ns since 1970.
        ledger: spent campaign tokens; None: a file beside the audit log.
        driver: id of who drives, for campaign tokens; None: as the vehicle's file says.

    Attributes:
        reference: the map that everything is measured against.
        live: the map in effect, as far as it is known.
        state, cause: where the guard stands and why.
        on_change: called by a guard whose way back takes long when its state changes, from any thread and
            before that way is gone; others are asked for their state.

    Raises:
        ConfigError: the vehicle's limits are incomplete or exclude its default map.
    """

    def __init__(
        self,
        vehicle: Vehicle,
        way: WayBack,
        watch: AgentWatch,
        audit: AuditLog,
        *,
        now_ns: Callable[[], int],
        utc_ns: Callable[[], int],
        ledger: CampaignLedger | None = None,
        driver: str | None = None,
    ) -> None:
        self.vehicle = vehicle
        self.envelope = Envelope.of(vehicle)
        self.reference = vehicle.default_map()
        self.live = self.reference
        self.state: GuardState = "DISARMED"
        self.cause = "not armed yet"
        self.on_change: Callable[[], None] = lambda: None
        self._journal, self._now_ns = Journal(audit, vehicle), now_ns
        self._way, self._watch = way, watch
        self._campaigns = Campaigns(
            vehicle,
            self.envelope,
            ledger or CampaignLedger(audit.path.with_name("campaigns.json")),
            utc_ns,
            driver or vehicle.driver,
        )
        self._recent = RecentFlashes()
        self._judge = Judge(vehicle, self.envelope, self.reference, watch, self._campaigns, self._recent)
        self._mutex = threading.RLock()  # state, live map and abort change together
        self._flying = False
        self._falling = 0  # ways back to the reference map that are not over
        self._confirmed = True  # the reference map is known to be in effect, or nothing else was flashed
        self._retried_ns = now_ns()
        self._retry_s = RETRY_S
        self._changed_ns: int | None = None  # when the reference map came back
        self._notes: deque[tuple[str, dict[str, Any]]] = deque()
        self._take_up(audit.last)

    def _take_up(self, last: dict[str, Any] | None) -> None:
        """A lock outlives the process; a process that ended while armed may have left its map behind."""
        if last is None:
            return
        if last.get("guard") == "LOCKED":
            self.state, self.cause = "LOCKED", str(last.get("cause", "locked before the start"))
        self._confirmed = last.get("reference") is True

    @property
    def confirmed(self) -> bool:
        """Whether the reference map is known to be in effect."""
        return self._confirmed

    @property
    def flying(self) -> bool:
        """Whether a proposal is being flashed at this moment."""
        return self._flying

    # What the agent and people ask for

    def arm(self, *, by: str, token: str | None, resume: TorqueMap | None) -> ArmResult:
        """Allow flashes, where everything that must hold does; never while LOCKED.

        Where it is armed already, as at the begin of a further episode, the live map goes on.

        Args:
            by: who asks for it.
            token: campaign token, where the vehicle's file asks for one.
            resume: a saved live map to begin with; taken at standstill only.

        Returns:
            Whether it is armed and why not; whether ``resume`` is in effect and why not.
        """
        with self._mutex:
            mark, falling = self._way.mark(), self._falling > 0
        if falling:
            return self._not_armed(by, "the reference map is coming back at this moment; arm again")
        refused = TABLE[self.state, "arm"].refused
        if refused:
            return self._not_armed(by, f"{refused} (state {self.state}: {self.cause})")
        problem = self._unfit(self._now_ns())
        if problem is not None:
            return self._not_armed(by, problem)
        if self.state == "ARMED":
            return self._go_on(by)
        try:
            campaign = self._prepare(mark, token)
        except MismatchError as error:
            self.lock(str(error))
            return self._not_armed(by, str(error))
        except (LinkError, TokenError, AbortedError, OverrunError) as error:
            return self._not_armed(by, f"{type(error).__name__}: {error}")
        except Exception as error:
            self.lock(f"{type(error).__name__}: {error}")
            return self._not_armed(by, self.cause)
        resumed, why = False, "armed with the reference map"
        if resume is not None:
            resumed, why = self._resume(resume, mark)
        if self.state != "LOCKED" and self._way.mark() != mark:
            return self._not_armed(by, f"called off meanwhile: {why}")
        if self.state == "LOCKED" or not self._record(
            "armed", state="ARMED", by=by, resumed=resumed, campaign=campaign, reason=why
        ):
            return ArmResult(ok=False, reason=self.cause, resumed=False, live=self.live)
        with self._mutex:
            called_off = self._way.mark() != mark
            if not called_off:
                self.state, self.cause = "ARMED", f"armed by {by}"
                self._watch.begin(self._now_ns())
        if called_off:
            return self._not_armed(by, f"called off meanwhile: {self.cause}")
        return ArmResult(ok=True, reason=why, resumed=resumed, live=self.live)

    def propose(self, proposal: Proposal) -> FlashOutcome:
        """Clip or refuse the rows, flash them, and say what is in effect."""
        begun = self._now_ns()
        mark = self._way.mark()
        answer = self._judged(proposal, begun)
        if isinstance(answer, Refusal):
            self._record(
                "flash_refused",
                proposal=proposal.id,
                sha256=rows_sha256(proposal.rows),
                rule=answer.rule,
                reason=answer.reason,
            )
            return outcome(
                self.live, proposal, self._now_ns() - begun, "REFUSED", 0, f"{answer.rule}: {answer.reason}"
            )
        unchanged = answer.table == self.live
        if unchanged:
            self._record("flash_unchanged", proposal=proposal.id)
        rows = slice(answer.first_row, answer.first_row + FLASHED_ROWS)
        before = self.live.table[rows].copy()
        self._flying = True
        try:
            done = self._flash(answer, rows, mark, proposal=proposal.id, sha256=rows_sha256(proposal.rows))
        finally:
            self._flying = False
        if done.result == "APPLIED" and done.effect_ns is not None and not unchanged:
            self._recent.add(AppliedRows(done.effect_ns, rows.start, before, answer.table.table[rows].copy()))
            self._campaigns.flashed()
        return outcome(
            self.live,
            proposal,
            self._now_ns() - begun,
            done.result,
            done.code,
            done.reason or ("nothing to change" if unchanged else ""),
            effect_ns=done.effect_ns,
            clipped=answer.clipped,
        )

    def trip(self, cause: str) -> None:
        """Reference map, DISARMED (LOCKED stays LOCKED)."""
        self._fall("trip", cause)

    def lock(self, cause: str) -> None:
        """Reference map, LOCKED until a person clears it."""
        self._fall("lock", cause)

    def clear(self, by: str) -> None:
        """A person has looked at what locked the guard: DISARMED. Without effect in other states."""
        if self.state != "LOCKED":
            return
        was = self.cause
        problem = self._cleared()
        if problem is not None:
            self._record("clear_refused", by=by, locked_by=was, reason=problem)
            return
        if self._record("cleared", by=by, locked_by=was, state="DISARMED"):
            with self._mutex:
                self._confirmed = True
                self.state, self.cause = "DISARMED", f"cleared by {by}"

    def interrupt(self, cause: str) -> None:
        """From any thread: abort a running flash, put the reference map into effect, before anything else.

        It waits for at most the one command that is running, never for the audit log; the event is recorded
        by the next `tick`.
        """
        self._fall("trip", cause, later=True)

    # What happens by itself

    def heartbeat(self, at_ns: int | None = None) -> None:
        """The agent was alive when it was heard, at ``at_ns`` of the guard's clock; None: now."""
        self._watch.heartbeat(self._now_ns() if at_ns is None else at_ns)

    def observe(self, state: VehicleState) -> None:
        """Judge one sample of the vehicle, 20 times a second."""
        cause = self._watch.observe(state, self._now_ns())
        if cause is not None and self.state == "ARMED":
            self.trip(cause)

    def tick(self) -> None:
        """Heartbeat limits, windows, keep-alive, what is still to record; at least 20 times a second."""
        while self._notes:
            event, fields = self._notes.popleft()
            self._record(event, **fields)
        now = self._now_ns()
        if self.state == "ARMED":
            cause = self._watch.agent_lost(now) or self._watch.windows(now) or self._campaigns.over()
            if cause is not None:
                self.trip(cause)
            else:
                self._attend(now)
        elif not self._confirmed and now - self._retried_ns >= self._retry_s * 1e9:
            problem = self._way.revert(reconnect=True)
            # The pause begins when the try is over.
            self._retried_ns, self._retry_s = self._now_ns(), self._pause_s()
            self._settle(problem)

    # What differs between guards

    @abstractmethod
    def _prepare(self, mark: int, token: str | None) -> dict[str, object] | None:
        """What must hold before arming, the reference map in effect; returns what is noted of the campaign.

        Raises:
            MismatchError: a person must look at it.
            LinkError, TokenError, AbortedError, OverrunError: it does not hold, perhaps later.
        """

    @abstractmethod
    def _transact(self, table: TorqueMap, rows: slice, mark: int, record: Callable[..., None]) -> Flashed:
        """Bring ``table``, which differs from the live map in ``rows``, into effect; never raises.

        ``record`` puts the flash on the disk before it can take effect; its arguments are noted as well.
        """

    @abstractmethod
    def _take_over(self, done: Flashed, table: TorqueMap, *, known: bool) -> None:
        """The live map after a flash that nobody called off; ``known``: the reference map was in effect."""

    @abstractmethod
    def _came_back(self, before: GuardState, cause: str, problem: str | None, *, known: bool) -> None:
        """State and cause after the reference map was confirmed, or was not. Within the mutex."""

    @abstractmethod
    def _pause_s(self) -> float:
        """Until the next try to go back, s."""

    def _unfit(self, now: int) -> str | None:
        """Why nothing may be armed at this moment, or None."""
        return None

    @abstractmethod
    def _attend(self, now: int) -> None:
        """What is looked after while armed and nothing else is to do."""

    def _certain(self) -> bool:
        """What the log says of the reference map: a process that begins where it says no sends it again."""
        return self._confirmed

    def _cleared(self) -> str | None:
        """Why the reference map, which a lock is cleared with, is not confirmed; None: it is."""
        return self._way.revert(reconnect=True)

    def _call_off(self, *, later: bool) -> None:
        self._way.abort()

    def _way_back(self, *, later: bool) -> str | None:
        return self._way.revert()

    # Inside

    def _go_on(self, by: str) -> ArmResult:
        """A further episode of a run that is armed: nothing in the VCU changes."""
        if not self._record("armed_again", by=by):
            return ArmResult(ok=False, reason=self.cause, resumed=False, live=self.live)
        return ArmResult(ok=True, reason="armed already, the live map goes on", resumed=False, live=self.live)

    def _judged(self, proposal: Proposal, now: int) -> Accepted | Refusal:
        if self.state != "ARMED":
            return Refusal("state", f"the guard is {self.state}: {self.cause}")
        if self._flying:
            return Refusal("in_flight", "the flash before is not over")
        return self._judge.proposal(proposal, self.live, self._changed_ns, now)

    def _resume(self, table: TorqueMap, mark: int) -> tuple[bool, str]:
        if table == self.reference:
            return True, "the saved map is the reference map"
        answer = self._judge.saved(table, self._now_ns())
        if isinstance(answer, Refusal):
            return False, f"armed with the reference map, {answer.rule}: {answer.reason}"
        done = self._flash(answer, slice(0, len(table.table)), mark, resume=True)
        if done.result == "APPLIED":
            return True, "armed with the saved map"
        return False, f"armed with the reference map, resuming failed: {done.reason}"

    def _flash(self, answer: Accepted, rows: slice, mark: int, **about: Any) -> Flashed:
        """Flash an accepted map and bring state and live map up to date with what came of it."""
        begun = self._now_ns()

        def record(**how: Any) -> None:
            self._journal.flash(self.state, self.cause, answer, rows, **about, **how)

        with self._mutex:
            known, self._confirmed = self._confirmed, False
        done = self._transact(answer.table, rows, mark, record)
        with self._mutex:
            called_off = self._way.mark() != mark
            if called_off:
                self._to_reference()
            else:
                self._take_over(done, answer.table, known=known)
        if called_off:
            # Whoever called it off reverts as well; the answer must not come before it is so.
            problem = self._way.revert()
            done = given_up(done, problem or done.reason or self.cause, confirmed=problem is None)
        written = self._record(
            "flash_result",
            **about,
            result=done.result,
            code=done.code,
            reason=done.reason,
            page=done.page,
            cells=done.cells,
            duration_s=round((self._now_ns() - begun) / 1e9, 6),
            map_sha256=self.live.sha256(),
        )
        if done.lock:
            self.lock(f"flash {done.result}: {done.reason}")
        elif not written:
            done = given_up(done, self.cause, confirmed=self._confirmed)
        elif done.trip:
            self.trip(f"flash {done.result}: {done.reason}")
        return done

    def _to_reference(self) -> None:
        if self.live != self.reference:
            self._changed_ns = self._now_ns()
        self.live = self.reference
        self._recent.clear()

    def _fall(self, event: GuardEvent, cause: str, *, later: bool = False) -> None:
        with self._mutex:
            before, known = self.state, self._confirmed
            self.state = TABLE[before, event].state
            if before == "ARMED" or (event == "lock" and before != "LOCKED"):
                self.cause = cause  # the first one wins
            needed = later or before == "ARMED" or not known
            self._call_off(later=later)
            self._falling += 1
            self._confirmed = self._confirmed and not needed
        self.on_change()
        problem = self._way_back(later=later) if needed else None
        with self._mutex:
            self._falling -= 1
            self._to_reference()
            if needed:
                self._confirmed = problem is None
                self._retry_s = RETRY_S
                self._came_back(before, cause, problem, known=known)
        fields: dict[str, Any] = {"asked": event, "before": before, "why": cause}
        if problem is not None:
            fields["problem"] = problem
        if later:
            self._notes.append(("fallen", fields))
        else:
            self._record("fallen", **fields)

    def _settle(self, problem: str | None) -> None:
        """A further try to go back is over."""
        with self._mutex:
            if problem is None and self.state != "ARMED":
                self._confirmed = True
        if problem is None:
            self._record("reference_confirmed")

    def _not_armed(self, by: str, reason: str) -> ArmResult:
        self._record("arm_refused", by=by, reason=reason)
        return ArmResult(ok=False, reason=reason, resumed=False, live=self.live)

    def _record(self, event: str, *, state: GuardState | None = None, **fields: Any) -> bool:
        """Write to the audit log; where that fails nothing may be flashed any more."""
        try:
            self._journal.write(event, state or self.state, self.cause, confirmed=self._certain(), **fields)
        except AuditError as error:
            if self.state != "LOCKED":
                self._fall("lock", str(error))
            return False
        return True
