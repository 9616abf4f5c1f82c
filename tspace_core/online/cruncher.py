"""The control loop: window -> decision -> flash -> record, in order, one window in flight.

The thread that runs ``filter`` waits for three things only: the next window, the agent's prediction, and the
answer to a flash. Learning, storing and reporting get what they need through ``Lessons``, which never block;
policies that take over come from there ready to drive. At an episode's begin there is nothing to decide yet:
what is known then, and still being read, is waited for, shorter than the first window takes.
"""

import logging
import time
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tspace_core.config import FLASHED_ROWS, Site, TorqueMap, Vehicle
from tspace_core.objects.path import AnyPath
from tspace_core.online.driver_agent import DriverAgent, Successor
from tspace_core.online.latency import LatencyHistogram
from tspace_core.online.recording import (
    ACTION_NOTE,
    OBSERVED_NOTE,
    EpisodeBuilder,
    Phase,
    Record,
    RecordingContext,
    RecordingReport,
    StepAction,
)
from tspace_core.records.episode import Episode
from tspace_core.records.flash_journal import as_action
from tspace_core.storage.online_episodes import online_key
from tspace_core.supervision import Pipeline, PipelineClosed, PipelineEmpty
from tspace_core.vehicle.interface import FlashOutcomeView, RowsProposal
from tspace_core.vehicle.stream import EpisodeBegun, EpisodeEnded, RunEnded, StreamItem
from tspace_core.vehicle.windows import Window

_log = logging.getLogger(__name__)

LATE_WINDOW = "the window was late: the next one was there already"
LATE_FLASH = "the flash took effect after its half step"
END_VALID = "end_valid"
_ENDED_BY_A_PERSON = ("countdown over", "HMI: end_valid")
BEGIN_S = 1.0
"""How long an episode's begin may wait in all for what is to drive it; its first window takes longer, s."""
_LOOK_S = 1.0
"""How often the loop looks whether it is to stop while no window comes."""


class Lessons(Protocol):
    """Where the control loop hands over what others work on; no call blocks longer than it says."""

    def began(self, number: int, note: str) -> None:
        """An episode begins; ``note`` says what is not as it might be expected."""

    def record(self, record: Record) -> None:
        """A record of the episode that goes on."""

    def finished(self, episode: "FinishedEpisode") -> None:
        """An episode has ended, valid or not."""

    def weights(self, wait_s: float = 0.0) -> Successor | None:
        """Newer weights, ready to drive, if there are any since the last call; waits that long at most."""

    def release(self, wait_s: float = 0.0) -> Successor | None:
        """A newer release, ready to drive, if there is any since the last call; waits that long at most."""


class Car(Protocol):
    """What the control loop needs of a vehicle interface."""

    @property
    def stream(self) -> Pipeline[StreamItem]:
        """The ordered queue of what happens."""

    def consume(self, proposal: RowsProposal) -> FlashOutcomeView:
        """Flash rows and wait for the answer."""


@dataclass(frozen=True)
class Decision:
    """One decision and what became of it.

    Attributes:
        time_ns: first sample of the state window, UTC.
        first_row: first flashed row.
        norm: root mean square of the agent's action; 0 where nothing was proposed.
        result: APPLIED, REFUSED, REVERTED, UNKNOWN, or HELD where nothing was proposed.
        code: failure code of the wire contract, 0 for none.
        reason: why it is not APPLIED.
        clipped: cells that the guard changed, by rule.
        latency_s: from the window being complete to the proposal.
        flash_s: from the proposal to its answer.
    """

    time_ns: int
    first_row: int
    norm: float = 0.0
    result: str = "HELD"
    code: int = 0
    reason: str = ""
    clipped: dict[str, int] = field(default_factory=dict)
    latency_s: float | None = None
    flash_s: float | None = None


@dataclass(frozen=True, eq=False)
class FinishedEpisode:
    """An episode as the control loop leaves it; ``live`` is None where nothing could be flashed."""

    key: str
    number: int
    reason: str
    valid: bool
    started_ns: int
    episodes: list[Episode]
    records: list[Record]
    decisions: list[Decision]
    report: RecordingReport
    live: TorqueMap | None
    latency: LatencyHistogram
    agent: AnyPath | None


@dataclass(frozen=True)
class CruncherSetup:
    """What the loop drives with.

    Attributes:
        vehicle: whose loop it is.
        site, driver_id: for the episodes' meta information.
        agent: what acts; None: observe only.
        first_number: of the first episode.
        resume: live map to go on from; None: the default map.
    """

    vehicle: Vehicle
    site: Site
    driver_id: str
    agent: DriverAgent | None
    first_number: int
    resume: TorqueMap | None = None


class Cruncher:
    """The control loop of one vehicle; ``filter`` is a task of its supervisor.

    Attributes:
        state: what it is doing, in words.
        number: of the episode that goes on or was last.
        latency: window complete -> proposal, of the whole run.
        ended: why the run ended and whether by a failure, None while it goes on.
    """

    def __init__(self, car: Car, setup: CruncherSetup, lessons: Lessons) -> None:
        self._car = car
        self._setup = setup
        self._lessons = lessons
        self._default = setup.vehicle.default_map()
        self._live = self._default
        self._kept = setup.resume
        self._open: _OpenEpisode | None = None
        self.state = "waiting for begin"
        self.number = setup.first_number - 1
        self.latency = LatencyHistogram()
        self.ended: RunEnded | None = None

    @property
    def resume(self) -> TorqueMap | None:
        """The map that an episode goes on from: live now, or last in a valid episode; None: the default."""
        episode = self._open
        return self._live if episode is not None and episode.armed else self._kept

    def filter(self) -> None:
        """Take what the vehicle interface tells, in order, until the run ends or its stream is closed.

        Raises:
            TspaceError: the policy is not finite, or a window is not one of this vehicle; the
                episode so far is handed over first.
        """
        try:
            self._loop()
        except BaseException as error:
            self._end(f"control loop: {error}", valid=False)
            raise
        finally:
            self.state = "ended"

    def _loop(self) -> None:
        while True:
            try:
                item = self._car.stream.get(timeout_s=_LOOK_S)
            except PipelineEmpty:
                continue
            except PipelineClosed:
                self._end("the run ended", valid=False)
                return
            taken = time.perf_counter_ns()
            if isinstance(item, Window):
                self._window(item, taken)
            elif isinstance(item, EpisodeBegun):
                self._begin(item)
            elif isinstance(item, EpisodeEnded):
                reason = END_VALID if item.valid and item.reason in _ENDED_BY_A_PERSON else item.reason
                self._end(reason, valid=item.valid)
            elif isinstance(item, RunEnded):
                self._end(item.cause, valid=False)
                self.ended = item
                return

    def _begin(self, begun: EpisodeBegun) -> None:
        self._end("begin without an end of the episode before", valid=False)
        setup = self._setup
        if setup.agent is not None:
            until = time.monotonic() + BEGIN_S
            successor = self._lessons.release(BEGIN_S)
            if successor is None:  # what was learned before a release has no say any more
                successor = self._lessons.weights(max(until - time.monotonic(), 0.0))
            if successor is not None:
                setup.agent.take_over(successor)
            setup.agent.begin_episode()
        self._live = self._default if begun.live is None else self._map(begun.live)
        self.number += 1
        key = online_key(setup.vehicle.id, begun.time_ns, self.number)
        note = ACTION_NOTE if setup.agent is not None else OBSERVED_NOTE
        context = RecordingContext(
            setup.vehicle, setup.site, self._default, setup.driver_id, key, action_note=note
        )
        self._open = _OpenEpisode(key, begun.time_ns, EpisodeBuilder(context), armed=begun.armed)
        self.state = f"episode {self.number}"
        self._lessons.began(self.number, "" if begun.armed else begun.reason)

    def _window(self, window: Window, taken_ns: int) -> None:
        episode = self._open
        if episode is None:
            _log.warning("a window outside an episode is left out")
            return
        seen = episode.builder.window(window)
        if seen.phase is Phase.STATE:
            action = self._decide(episode, window, seen.reward, taken_ns)
            episode.builder.act(self._told(action))
        if seen.record is not None:
            episode.records.append(seen.record)
            self._lessons.record(seen.record)
        if seen.phase is Phase.STATE and self._setup.vehicle.online.weights == "step":
            self._take_weights()

    def _decide(
        self, episode: "_OpenEpisode", window: Window, reward: float | None, taken_ns: int
    ) -> StepAction:
        agent = self._setup.agent
        first_row = int(self._default.first_row(window.top_speed_kmh))
        held = StepAction(first_row, self._rows(first_row))
        if agent is None:
            episode.decisions.append(Decision(window.start_ns, first_row))
            return held
        state = window.samples.reshape(-1)
        if reward is None:
            agent.begin_chain()
        if not episode.armed or episode.builder.steps == 1:
            episode.decisions.append(Decision(window.start_ns, first_row))
            agent.pass_by(state, reward)
            return held
        if len(self._car.stream):
            episode.decisions.append(Decision(window.start_ns, first_row, result="HELD", reason=LATE_WINDOW))
            agent.pass_by(state, reward)
            return StepAction(first_row, held.rows, lost=LATE_WINDOW)
        action = agent.act(state, reward)
        rows = self._wanted(action, first_row)
        proposed_ns = time.perf_counter_ns()
        latency = (proposed_ns - taken_ns) / 1e9
        outcome = self._car.consume(RowsProposal(first_row, rows, time.monotonic_ns()))
        flash = (time.perf_counter_ns() - proposed_ns) / 1e9
        self.latency.add(latency)
        episode.latency.add(latency)
        episode.decisions.append(
            Decision(
                time_ns=window.start_ns,
                first_row=first_row,
                norm=float(np.sqrt(np.mean(np.square(action, dtype=np.float64)))),
                result=outcome.result,
                code=outcome.code,
                reason=outcome.reason,
                clipped=dict(outcome.clipped),
                latency_s=latency,
                flash_s=flash,
            )
        )
        return self._taken(outcome, first_row, latency + flash)

    def _told(self, action: StepAction) -> StepAction:
        """The action, with what the agent remembered before it; the agent is told what took effect."""
        agent = self._setup.agent
        memory = None if agent is None else agent.memory
        if agent is None or memory is None:
            return action
        default = self._default.table[action.first_row : action.first_row + FLASHED_ROWS]
        values, _ = as_action(action.rows, default, self._setup.vehicle.torque_map.budget_nm)
        agent.carried_out(values)
        return replace(action, memory=memory)

    def _wanted(self, action: NDArray[np.float32], first_row: int) -> NDArray[np.float32]:
        table = self._setup.vehicle.torque_map
        flashed = self._live.flashed(
            action, first_row, self._default, budget_nm=table.budget_nm, upper_factor=table.upper_factor
        )
        return flashed.table[first_row : first_row + FLASHED_ROWS]

    def _taken(self, outcome: FlashOutcomeView, first_row: int, seconds: float) -> StepAction:
        """What a flash made of the live map, and of the step."""
        if outcome.result != "APPLIED":
            return StepAction(first_row, self._rows(first_row), lost=f"flash {outcome.result}")
        table = self._live.table.copy()
        table[first_row : first_row + FLASHED_ROWS] = outcome.rows
        self._live = self._map(table)
        vehicle = self._setup.vehicle
        longest = (
            vehicle.sampling.window_s if vehicle.online.late_flash_s is None else vehicle.online.late_flash_s
        )
        lost = LATE_FLASH if seconds > longest else None
        return StepAction(first_row, self._rows(first_row), flashed=True, lost=lost)

    def _map(self, table: NDArray[np.float32]) -> TorqueMap:
        return TorqueMap(self._default.pedal_axis, self._default.speed_axis_kmh, table)

    def _rows(self, first_row: int) -> NDArray[np.float32]:
        return self._live.table[first_row : first_row + FLASHED_ROWS]

    def _take_weights(self) -> None:
        agent, successor = self._setup.agent, self._lessons.weights()
        if agent is not None and successor is not None:
            agent.take_over(successor)

    def _end(self, reason: str, *, valid: bool) -> None:
        episode, self._open = self._open, None
        if episode is None:
            return
        self.state = "waiting for begin"
        if valid and episode.armed:
            self._kept = self._live
        agent = self._setup.agent
        self._lessons.finished(
            FinishedEpisode(
                key=episode.key,
                number=self.number,
                reason=reason,
                valid=valid,
                started_ns=episode.started_ns,
                episodes=episode.builder.finish(reason) if valid else [],
                records=episode.records,
                decisions=episode.decisions,
                report=episode.builder.report,
                live=self._live if episode.armed else None,
                latency=episode.latency,
                agent=agent.source if agent is not None else None,
            )
        )


class _OpenEpisode:
    """The episode that goes on."""

    def __init__(self, key: str, started_ns: int, builder: EpisodeBuilder, *, armed: bool) -> None:
        self.key = key
        self.armed = armed
        self.started_ns = started_ns
        self.builder = builder
        self.records: list[Record] = []
        self.decisions: list[Decision] = []
        self.latency = LatencyHistogram()
