"""The guard in front of simulated vehicles: what a vehicle on the road would have let through.

The rules are those of ``tspace_core.guard.rules``, asked as the bridge asks them: the live map, the newest
sample of the window, and the flashes of the last 10 s. What they clip takes effect clipped. What they refuse
does not take effect, and is counted by rule:

violation
    the proposal itself is impossible: an action beyond [-1, 1], cells in another order, no value that all
    rules allow. An agent that proposes such a thing is not released.
held back
    the moment was wrong, not the proposal (``NOT_ITS_FAULT``): pedals pressed together, too soon.

Cells that were clipped are no violation: cutting them is what the guard is for, and what is driven, and
therefore judged, is what it left of the proposal.
"""

from collections import Counter
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from tspace_core.config.torque_map import FLASHED_ROWS, TorqueMap
from tspace_core.guard.envelope import Envelope
from tspace_core.guard.recent import RecentFlashes
from tspace_core.guard.rules import guard
from tspace_core.guard.state import Accepted, AppliedRows, Refusal, VehicleState
from tspace_core.twin.fleet import Fleet
from tspace_core.twin.trace import Trace

NOT_ITS_FAULT = frozenset({"state", "stale", "interval"})
"""Rules that speak of the vehicle or the clock, not of the proposal."""
ACTION_RANGE = "action_range"
"""What stands for a rule where an action lies beyond [-1, 1]."""
_NS = 1_000_000_000


class GuardCount(BaseModel):
    """What the guard said to a candidate over all its drives."""

    model_config = ConfigDict(frozen=True)

    proposals: int = 0
    violations: dict[str, int] = {}
    """Proposals by the rule that refused them."""
    held_back: dict[str, int] = {}
    """Proposals that came at a wrong moment, by rule."""
    clipped: dict[str, int] = {}
    """Cells by the rule that changed them, of ``cells`` in all."""
    cells: int = 0

    @property
    def violated(self) -> int:
        """How many violations there were."""
        return sum(self.violations.values())

    @property
    def clipped_share(self) -> float:
        """Cells that were changed, as a share of all; one that two rules changed counts twice."""
        return sum(self.clipped.values()) / self.cells if self.cells else 0.0


class FleetGuard:
    """A guard in each vehicle of a fleet; ``answer`` is what a ``DecisionLoop`` asks.

    Args:
        fleet: at the start of its drive.
        candidates: whose proposal each vehicle carries out, for the counts.

    Raises:
        ConfigError: the vehicle's default map is outside its own limits.
    """

    def __init__(self, fleet: Fleet, candidates: Sequence[str]) -> None:
        self.fleet = fleet
        self._candidates = candidates
        self._envelope = Envelope.of(fleet.vehicle)
        self._reference = fleet.vehicle.default_map()
        self._recent = [RecentFlashes() for _ in candidates]
        self.answers: list[Accepted | Refusal | None] = [None for _ in candidates]
        """What was said last to each vehicle; None: it was not asked yet."""
        self._proposals = Counter[str]()
        self._tallies = {
            what: {name: Counter[str]() for name in candidates}
            for what in ("violations", "held_back", "clipped")
        }

    def answer(
        self, place: int, first_row: int, live: TorqueMap, wanted: TorqueMap, window: Trace
    ) -> TorqueMap | None:
        """The map that takes effect in a vehicle; None: the proposal is refused and ``live`` stays.

        Args:
            place: of the vehicle in its fleet.
            first_row: first of the 4 proposed rows.
            live: its map now.
            wanted: its map with the proposed rows.
            window: that was decided on; its last sample is the vehicle's state.
        """
        name = self._candidates[place]
        self._proposals[name] += 1
        now_ns = round(float(self.fleet.elapsed_s[place]) * _NS)
        state = VehicleState(
            velocity_kmh=float(window.velocity[place, -1]),
            thrust_percent=float(window.thrust[place, -1]),
            brake_percent=float(window.brake[place, -1]),
            at_ns=now_ns,
        )
        rows = slice(first_row, first_row + FLASHED_ROWS)
        recent = self._recent[place]
        found = guard(
            wanted.table[rows],
            first_row,
            live,
            self._reference,
            state,
            self._envelope,
            recent.newer(now_ns),
            now_ns,
        )
        self.answers[place] = found
        if isinstance(found, Accepted):
            recent.add(AppliedRows(now_ns, first_row, live.table[rows], found.table.table[rows]))
            self._tallies["clipped"][name].update(found.clipped)
            return found.table
        what = "held_back" if found.rule in NOT_ITS_FAULT else "violations"
        self._tallies[what][name][found.rule] += 1
        return None

    def beyond(self, name: str, count: int) -> None:
        """Actions of a candidate that lay beyond [-1, 1]."""
        if count:
            self._tallies["violations"][name][ACTION_RANGE] += count

    def counts(self) -> dict[str, GuardCount]:
        """What was said to each candidate so far."""
        cells = FLASHED_ROWS * self._reference.table.shape[1]
        return {
            name: GuardCount(
                proposals=self._proposals[name],
                cells=self._proposals[name] * cells,
                **{what: dict(tally[name]) for what, tally in self._tallies.items()},
            )
            for name in dict.fromkeys(self._candidates)
        }
