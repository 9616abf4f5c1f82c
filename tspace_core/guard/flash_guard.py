"""The one door to the VCU's map: who may flash, when, and what brings the reference map back."""

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from tspace_core.config.torque_map import FLASHED_ROWS, TorqueMap
from tspace_core.config.vehicle import Vehicle
from tspace_core.errors import AuditError, LinkError, TokenError
from tspace_core.guard.arming import Arming
from tspace_core.guard.audit import AuditLog
from tspace_core.guard.commands import AbortedError, Commands, OverrunError
from tspace_core.guard.envelope import Envelope
from tspace_core.guard.journal import Journal, rows_hex, rows_sha256
from tspace_core.guard.recent import RecentFlashes
from tspace_core.guard.rules import guard, guard_resume
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
from tspace_core.guard.supervision import KEEP_ALIVE_S, LOST_AFTER, QUIET_S, RETRY_S, Supervision
from tspace_core.guard.target import FlashTarget
from tspace_core.guard.token import CampaignLedger
from tspace_core.guard.transaction import Flashed, MismatchError, Session, flash, given_up


class FlashGuard:
    """Facade of the guard; one thread calls it, except for `interrupt`, which any thread may call.

    Whatever fails, it returns an outcome, and state and cause say what it led to; only wrong configs raise.

    Args:
        vehicle: whose limits hold.
        target: carries maps into the VCU.
        audit: where everything is recorded before it takes effect.
        now_ns: monotonic clock, ns.
        utc_ns: UTC, ns since 1970.
        ledger: spent campaign tokens; None: a file beside the audit log.
        driver: id of who drives, for campaign tokens; None: as the vehicle's file says.

    Raises:
        ConfigError: the vehicle has no xcp section, or its limits are incomplete or exclude its default map.
    """

    def __init__(
        self,
        vehicle: Vehicle,
        target: FlashTarget,
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
        self._journal, self._now_ns = Journal(audit, vehicle), now_ns
        self._commands = Commands(target, now_ns)
        self._arming = Arming(
            vehicle,
            self.envelope,
            self._commands,
            ledger or CampaignLedger(audit.path.with_name("campaigns.json")),
            utc_ns,
            driver or vehicle.driver,
        )
        self._watch = Supervision(vehicle)
        self._session: Session | None = None
        self._recent = RecentFlashes()
        self._mutex = threading.RLock()  # state, live map and abort change together
        self._flying = False
        self._falling = 0  # ways back to the reference page that are not over
        self._confirmed = True  # the reference page is known to be in effect, or nothing else was flashed
        self._unanswered = 0
        self._retried_ns = self._asked_ns = now_ns()
        self._retry_s = RETRY_S
        self._changed_ns: int | None = None  # when the reference page came back
        self._notes: deque[tuple[str, dict[str, Any]]] = deque()
        self._take_up(audit.last)

    def _take_up(self, last: dict[str, Any] | None) -> None:
        """A lock outlives the process; a process that ended while armed may have left its map behind."""
        if last is None:
            return
        if last.get("guard") == "LOCKED":
            self.state, self.cause = "LOCKED", str(last.get("cause", "locked before the start"))
        self._confirmed = last.get("reference") is True

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
            mark, falling = self._commands.mark(), self._falling > 0
        if falling:
            return self._not_armed(by, "the reference map is coming back at this moment; arm again")
        refused = TABLE[self.state, "arm"].refused
        if refused:
            return self._not_armed(by, f"{refused} (state {self.state}: {self.cause})")
        now = self._now_ns()
        problem = self._watch.dead(now, self.envelope)
        if problem is not None:
            return self._not_armed(by, problem)
        if self.state == "ARMED":
            return self._go_on(by)
        try:
            self._session = self._arming.inspect(mark)
            self._confirmed = True
            campaign = self._arming.spend(token)
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
        if self.state == "LOCKED" or not self._record(
            "armed", state="ARMED", by=by, resumed=resumed, campaign=campaign, reason=why
        ):
            return ArmResult(ok=False, reason=self.cause, resumed=False, live=self.live)
        with self._mutex:
            called_off = self._commands.mark() != mark
            if not called_off:
                self.state, self.cause = "ARMED", f"armed by {by}"
                self._unanswered = 0
                self._watch.begin(self._now_ns())
        if called_off:
            return self._not_armed(by, f"called off meanwhile: {self.cause}")
        return ArmResult(ok=True, reason=why, resumed=resumed, live=self.live)

    def propose(self, proposal: Proposal) -> FlashOutcome:
        """Clip or refuse the rows, flash them, and say what is in effect."""
        begun = self._now_ns()
        mark = self._commands.mark()
        answer = self._judge(proposal, begun)
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
            self._arming.flashed()
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
        """Reference page, DISARMED (LOCKED stays LOCKED)."""
        self._fall("trip", cause)

    def lock(self, cause: str) -> None:
        """Reference page, LOCKED until a person clears it."""
        self._fall("lock", cause)

    def clear(self, by: str) -> None:
        """A person has looked at what locked the guard: DISARMED. Without effect in other states."""
        if self.state != "LOCKED":
            return
        was = self.cause
        problem = self._commands.revert(reconnect=True)
        if problem is not None:
            self._record("clear_refused", by=by, locked_by=was, reason=problem)
            return
        if self._record("cleared", by=by, locked_by=was, state="DISARMED"):
            with self._mutex:
                self._confirmed = True
                self.state, self.cause = "DISARMED", f"cleared by {by}"

    def interrupt(self, cause: str) -> None:
        """From any thread: abort a running flash, put the reference page into effect, before anything else.

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
            cause = self._watch.agent_lost(now) or self._watch.windows(now) or self._arming.over()
            if cause is not None:
                self.trip(cause)
            elif now - max(self._asked_ns, self._commands.answered_ns) >= KEEP_ALIVE_S * 1e9:
                self._ask(now)
        elif not self._confirmed and now - self._retried_ns >= self._retry_s * 1e9:
            problem = self._commands.revert(reconnect=True)
            self._retried_ns, self._retry_s = self._now_ns(), QUIET_S  # silence begins when the try is over
            self._settle(problem)

    # Inside

    def _go_on(self, by: str) -> ArmResult:
        """A further episode of a run that is armed: nothing in the VCU changes."""
        if not self._record("armed_again", by=by):
            return ArmResult(ok=False, reason=self.cause, resumed=False, live=self.live)
        return ArmResult(ok=True, reason="armed already, the live map goes on", resumed=False, live=self.live)

    def _judge(self, proposal: Proposal, now: int) -> Accepted | Refusal:
        limits = self.vehicle.guard
        if self.state != "ARMED":
            return Refusal("state", f"the guard is {self.state}: {self.cause}")
        if self._flying:
            return Refusal("in_flight", "the flash before is not over")
        late = self._watch.agent_late(now)
        if late is not None:
            return Refusal("heartbeat", late)
        age_s = (now - proposal.decided_ns) / 1e9
        if not 0 <= age_s <= limits.proposal_age_s:
            return Refusal(
                "age", f"the proposal is {age_s:.3f} s old, allowed are 0 to {limits.proposal_age_s:g} s"
            )
        if self._changed_ns is not None and now - self._changed_ns < limits.flash_interval_s * 1e9:
            return Refusal(
                "interval", f"the reference map came back less than {limits.flash_interval_s:g} s ago"
            )
        over = self._arming.over() or self._arming.used_up()
        if over is not None:
            return Refusal("campaign", over)
        assert self._watch.latest is not None  # arming saw one
        return guard(
            proposal.rows,
            proposal.first_row,
            self.live,
            self.reference,
            self._watch.latest,
            self.envelope,
            self._recent.newer(now),
            now,
        )

    def _resume(self, table: TorqueMap, mark: int) -> tuple[bool, str]:
        if table == self.reference:
            return True, "the saved map is the reference map"
        latest = self._watch.latest
        assert latest is not None
        answer = guard_resume(table, self.reference, latest, self.envelope, self._now_ns())
        if isinstance(answer, Refusal):
            return False, f"armed with the reference map, {answer.rule}: {answer.reason}"
        done = self._flash(answer, slice(0, len(table.table)), mark, resume=True)
        if done.result == "APPLIED":
            return True, "armed with the saved map"
        return False, f"armed with the reference map, resuming failed: {done.reason}"

    def _flash(self, answer: Accepted, rows: slice, mark: int, **about: Any) -> Flashed:
        """Flash an accepted map and bring state and live map up to date with what came of it."""
        assert self._session is not None
        begun = self._now_ns()

        def record(page: int, cells: int) -> None:
            self._journal.write(
                "flash",
                self.state,
                self.cause,
                confirmed=False,
                **about,
                first_row=rows.start,
                rows=rows_hex(answer.table.table[rows]),
                clipped=answer.clipped,
                page=page,
                cells=cells,
                map_sha256=answer.table.sha256(),
            )

        with self._mutex:
            self._confirmed = False
        done = flash(
            self._commands,
            self._session,
            answer.table,
            record=record,
            now_ns=self._now_ns,
            limit_s=self.vehicle.guard.flash_time_limit_s,
            mark=mark,
        )
        with self._mutex:
            called_off = self._commands.mark() != mark
            if called_off:
                self._to_reference()
            elif done.result == "APPLIED" and done.page is not None:
                self.live = self._session.live = answer.table
                self._session.page = done.page
            elif done.page == self._commands.reference_page:
                self._to_reference()
        if called_off:
            # Whoever called it off reverts as well; the answer must not come before it is so.
            problem = self._commands.revert()
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
        return done

    def _to_reference(self) -> None:
        if self.live != self.reference:
            self._changed_ns = self._now_ns()
        self.live = self.reference
        self._recent.clear()
        if self._session is not None:
            self._session.page, self._session.live = self._commands.reference_page, self.reference

    def _fall(self, event: GuardEvent, cause: str, *, later: bool = False) -> None:
        with self._mutex:
            before, known = self.state, self._confirmed
            self.state = TABLE[before, event].state
            if before == "ARMED" or (event == "lock" and before != "LOCKED"):
                self.cause = cause  # the first one wins
            self._commands.abort()
            self._falling += 1
            needed = later or before == "ARMED" or not known
            self._confirmed = self._confirmed and not needed
        problem = self._commands.revert() if needed else None
        with self._mutex:
            self._falling -= 1
            self._to_reference()
            if needed:
                self._confirmed = problem is None
                self._retry_s = RETRY_S
            if problem is not None and before == "ARMED" and self.state == "DISARMED":
                self.state = "LOCKED"
                self.cause = f"{cause}; the reference page was not confirmed: {problem}"
        fields: dict[str, Any] = {"asked": event, "before": before, "why": cause}
        if later:
            self._notes.append(("fallen", fields))
        else:
            self._record("fallen", **fields)

    def _settle(self, problem: str | None) -> None:
        with self._mutex:
            if problem is None and self.state != "ARMED":
                self._confirmed = True
        if problem is None:
            self._record("reference_confirmed")

    def _ask(self, now: int) -> None:
        """Keep the session alive, and look whether the page in effect is still the one it should be."""
        assert self._session is not None
        self._asked_ns = now
        mark, expected = self._commands.mark(), self._session.page
        try:
            self._commands.keep_alive()
            found = self._commands.active_page()
        except LinkError as error:
            self._unanswered += 1
            if self._unanswered >= LOST_AFTER:
                self.lock(f"XCP session lost, {self._unanswered} questions unanswered: {error}")
            return
        self._unanswered = 0
        if found != expected and self._commands.mark() == mark:
            self.lock(
                f"page {found} is in effect, it should be page {expected}: did it fall back? a second master?"
            )

    def _not_armed(self, by: str, reason: str) -> ArmResult:
        self._record("arm_refused", by=by, reason=reason)
        return ArmResult(ok=False, reason=reason, resumed=False, live=self.live)

    def _record(self, event: str, *, state: GuardState | None = None, **fields: Any) -> bool:
        """Write to the audit log; where that fails nothing may be flashed any more."""
        try:
            self._journal.write(event, state or self.state, self.cause, confirmed=self._confirmed, **fields)
        except AuditError as error:
            if self.state != "LOCKED":
                self._fall("lock", str(error))
            return False
        return True
