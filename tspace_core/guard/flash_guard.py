"""The one door to the VCU's map: who may flash, when, and what brings the reference map back."""

from collections.abc import Callable

from tspace_core.config.torque_map import TorqueMap
from tspace_core.config.vehicle import Vehicle
from tspace_core.errors import LinkError
from tspace_core.guard.arming import Arming
from tspace_core.guard.audit import AuditLog
from tspace_core.guard.base import GuardBase
from tspace_core.guard.commands import Commands
from tspace_core.guard.state import GuardState
from tspace_core.guard.supervision import KEEP_ALIVE_S, LOST_AFTER, QUIET_S, Supervision
from tspace_core.guard.target import FlashTarget
from tspace_core.guard.token import CampaignLedger
from tspace_core.guard.transaction import Flashed, Session, flash


class FlashGuard(GuardBase):
    """The guard of a vehicle whose VCU is calibrated on its bus.

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

    _watch: Supervision

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
        self._commands = Commands(target, now_ns)
        super().__init__(
            vehicle,
            self._commands,
            Supervision(vehicle),
            audit,
            now_ns=now_ns,
            utc_ns=utc_ns,
            ledger=ledger,
            driver=driver,
        )
        self._arming = Arming(vehicle, self.envelope, self._commands)
        self._session: Session | None = None
        self._unanswered = 0
        self._asked_ns = now_ns()

    def _unfit(self, now: int) -> str | None:
        return self._watch.dead(now, self.envelope)

    def _prepare(self, mark: int, token: str | None) -> dict[str, object] | None:
        self._session = self._arming.inspect(mark)
        self._confirmed = True
        self._unanswered = 0
        return self._campaigns.spend(token)

    def _transact(self, table: TorqueMap, rows: slice, mark: int, record: Callable[..., None]) -> Flashed:
        assert self._session is not None
        return flash(
            self._commands,
            self._session,
            table,
            record=lambda page, cells: record(page=page, cells=cells),
            now_ns=self._now_ns,
            limit_s=self.vehicle.guard.flash_time_limit_s,
            mark=mark,
        )

    def _take_over(self, done: Flashed, table: TorqueMap, *, known: bool) -> None:
        assert self._session is not None
        if done.result == "APPLIED" and done.page is not None:
            self.live = self._session.live = table
            self._session.page = done.page
        elif done.page == self._commands.reference_page:
            self._to_reference()

    def _to_reference(self) -> None:
        super()._to_reference()
        if self._session is not None:
            self._session.page, self._session.live = self._commands.reference_page, self.reference

    def _came_back(self, before: GuardState, cause: str, problem: str | None, *, known: bool) -> None:
        if problem is not None and before == "ARMED" and self.state == "DISARMED":
            self.state = "LOCKED"
            self.cause = f"{cause}; the reference page was not confirmed: {problem}"

    def _pause_s(self) -> float:
        return QUIET_S  # in silence the VCU falls back by itself

    def _attend(self, now: int) -> None:
        if now - max(self._asked_ns, self._commands.answered_ns) >= KEEP_ALIVE_S * 1e9:
            self._ask(now)

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
