"""Whether a proposal may be flashed now: the agent, its age, the campaign, the vehicle, then the envelope."""

from tspace_core.config.torque_map import TorqueMap
from tspace_core.config.vehicle import Vehicle
from tspace_core.guard.campaign import Campaigns
from tspace_core.guard.envelope import Envelope
from tspace_core.guard.recent import RecentFlashes
from tspace_core.guard.rules import guard, guard_resume
from tspace_core.guard.state import Accepted, Proposal, Refusal
from tspace_core.guard.supervision import AgentWatch


class Judge:
    """Judges for one guard; it changes nothing.

    Args:
        vehicle: whose limits hold.
        envelope: the limits of its maps.
        reference: the map that they are measured against.
        watch: the agent's heartbeat and the newest sample.
        campaigns: what the guard is armed for.
        recent: flashes that count for the rates.
    """

    def __init__(
        self,
        vehicle: Vehicle,
        envelope: Envelope,
        reference: TorqueMap,
        watch: AgentWatch,
        campaigns: Campaigns,
        recent: RecentFlashes,
    ) -> None:
        self._limits, self._envelope, self._reference = vehicle.guard, envelope, reference
        self._watch, self._campaigns, self._recent = watch, campaigns, recent

    def proposal(
        self, proposal: Proposal, live: TorqueMap, changed_ns: int | None, now_ns: int
    ) -> Accepted | Refusal:
        """Four rows for the map ``live``; ``changed_ns``: when the reference map came back last."""
        limits = self._limits
        late = self._watch.agent_late(now_ns)
        if late is not None:
            return Refusal("heartbeat", late)
        age_s = (now_ns - proposal.decided_ns) / 1e9
        if not 0 <= age_s <= limits.proposal_age_s:
            return Refusal(
                "age", f"the proposal is {age_s:.3f} s old, allowed are 0 to {limits.proposal_age_s:g} s"
            )
        if changed_ns is not None and now_ns - changed_ns < limits.flash_interval_s * 1e9:
            return Refusal(
                "interval", f"the reference map came back less than {limits.flash_interval_s:g} s ago"
            )
        over = self._campaigns.over() or self._campaigns.used_up()
        if over is not None:
            return Refusal("campaign", over)
        if self._watch.latest is None:
            return Refusal("stale", "there was no sample of the vehicle yet")
        return guard(
            proposal.rows,
            proposal.first_row,
            live,
            self._reference,
            self._watch.latest,
            self._envelope,
            self._recent.newer(now_ns),
            now_ns,
        )

    def saved(self, table: TorqueMap, now_ns: int) -> Accepted | Refusal:
        """A whole map from before."""
        if self._watch.latest is None:
            return Refusal("stale", "there was no sample of the vehicle yet")
        return guard_resume(table, self._reference, self._watch.latest, self._envelope, now_ns)
