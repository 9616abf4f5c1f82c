"""From the windows of an online episode to its records and, at its end, to episodes that can be stored.

A step is a state window, the half step in which its flash takes effect, and the next state window
(``records.episode`` draws it). It becomes a record only if all three windows are valid and whole and its
flash was applied in time; where one is missing the episode is cut there into pieces. Pure: no clock, no I/O.
"""

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum, auto

import numpy as np
from numpy.typing import NDArray

from tspace_core.config import Site, TorqueMap, Vehicle
from tspace_core.errors import RecordError
from tspace_core.records.cutting import END_OF_LENGTH
from tspace_core.records.episode import Episode, RecordFlag
from tspace_core.records.flash_journal import as_action
from tspace_core.records.meta import episode_meta
from tspace_core.records.policy import ACTION_DIM, ACTION_ROWS
from tspace_core.records.quadruple import step_rewards
from tspace_core.vehicle.windows import Window

Float32 = NDArray[np.float32]

TOO_FEW = "too few records left"
BROKEN_CHAIN = "windows with a gap between them"
UNDECIDED = "no decision was taken"
UNFINISHED = "the episode ended within the step"
ACTION_NOTE = (
    "the agent's action as it took effect: rows of the live map after the flash relative to the default"
)
OBSERVED_NOTE = "zeros: nothing was proposed, the default map was live"


class Phase(Enum):
    """What a window is in its episode."""

    STATE = auto()
    """A state window: a decision is due at its end."""
    HALF = auto()
    """A half step: its energy counts, nothing is decided."""
    LOST = auto()
    """Not valid: it ends the chain, the next valid one is a state window."""


@dataclass(frozen=True, eq=False)
class StepAction:
    """What was done about the map after a state window.

    Attributes:
        first_row: first of the 4 rows.
        rows: (4, columns) float32 Nm, as live afterwards; the action is made of them.
        flashed: whether a flash took effect; otherwise the rows are those that were live before.
        lost: why the step cannot become a record, if so: its flash was refused, reverted, unknown or late.
        memory: (memory_dim,) what a recurrent agent remembered before it saw the state window; None: nothing.
    """

    first_row: int
    rows: Float32
    flashed: bool = False
    lost: str | None = None
    memory: Float32 | None = None


@dataclass(frozen=True, eq=False)
class Record:
    """One whole step.

    Attributes:
        time_ns: first sample of the state window, UTC.
        state, next_state: (state_dim,) float32.
        action: (68,) float32 in [-1, 1].
        first_row: of the action.
        reward: in the unit of the vehicle's reward kind.
        flags: bits of ``RecordFlag``.
        energy_wh, distance_m: in the two windows after the decision.
        memory: (memory_dim,) what a recurrent agent remembered before it saw ``state``; None: nothing. It is
            for the learner that goes along; stored episodes do not hold it.
    """

    time_ns: int
    state: Float32
    action: Float32
    first_row: int
    reward: float
    next_state: Float32
    next_time_ns: int
    flags: int
    energy_wh: float
    distance_m: float
    memory: Float32 | None = None

    @property
    def truthful(self) -> bool:
        """Whether its action is what was live: not so where a first record's action had to become zero."""
        return not self.flags & RecordFlag.ZEROED


@dataclass(frozen=True)
class RecordingContext:
    """What all pieces of one online episode have in common."""

    vehicle: Vehicle
    site: Site
    default_map: TorqueMap
    driver_id: str
    key: str
    action_note: str = ACTION_NOTE


@dataclass
class RecordingReport:
    """What became of an episode's windows.

    Attributes:
        windows: windows seen.
        invalid_windows: windows that were not valid, by reason.
        lost_records: steps that did not become a record of a stored piece, by reason.
        clipped_records: records with a cell beyond the budget.
        short_pieces: pieces with too few records.
        short_records: the records in them.
        ended: pieces by what ended them.
    """

    windows: int = 0
    invalid_windows: Counter[str] = field(default_factory=Counter)
    lost_records: Counter[str] = field(default_factory=Counter)
    clipped_records: int = 0
    short_pieces: int = 0
    short_records: int = 0
    ended: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Seen:
    """What a window is, and the record that it completed, if it did.

    Attributes:
        phase: what it is.
        record: completed by it.
        reward: of the step that led to this state window, whether it became a record or not; None: no step
            did, the chain of windows begins here.
    """

    phase: Phase
    record: Record | None = None
    reward: float | None = None


@dataclass
class _Open:
    """A step whose next state window has not come yet."""

    window: Window
    action: StepAction | None = None
    half: Window | None = None


class EpisodeBuilder:
    """Takes the windows of one episode in order, and the action after each state window.

    Args:
        context: vehicle, site, maps and key of the episode.
    """

    def __init__(self, context: RecordingContext) -> None:
        self._context = context
        self._vehicle = context.vehicle
        self.report = RecordingReport()
        self._pieces: list[tuple[list[Record], str]] = []
        self._piece: list[Record] = []
        self._open: _Open | None = None
        self._last: Window | None = None
        self._steps = 0

    @property
    def steps(self) -> int:
        """State windows so far: the first is the one without a flash."""
        return self._steps

    @property
    def waiting(self) -> bool:
        """Whether the action after the last state window is still to be told."""
        return self._open is not None and self._open.action is None

    def window(self, window: Window) -> Seen:
        """Take the next window and say what it is; after ``STATE`` the action is to be told with ``act``.

        Raises:
            RecordError: a valid window's samples have another shape than the vehicle's windows.
        """
        self.report.windows += 1
        if not window.valid:
            self.report.invalid_windows[window.reason] += 1
            self._break(f"invalid window: {window.reason}")
            self._last = None
            return Seen(Phase.LOST)
        self._check(window)
        if self._last is not None and not self._follows(self._last, window):
            self._break(BROKEN_CHAIN)
        self._last = window
        if self._open is not None and self._open.half is None:
            if self._open.action is None:
                self._open.action = StepAction(0, self._context.default_map.table[:4], lost=UNDECIDED)
            self._open.half = window
            return Seen(Phase.HALF)
        record, reward = self._complete(window)
        self._open = _Open(window)
        self._steps += 1
        return Seen(Phase.STATE, record, reward)

    def act(self, action: StepAction) -> None:
        """Tell what was done after the last state window.

        Raises:
            RecordError: no state window waits for it.
        """
        if self._open is None or self._open.action is not None:
            message = f"{self._context.key}: an action is told once after each state window; none waits"
            raise RecordError(message)
        self._open.action = action

    def finish(self, reason: str) -> list[Episode]:
        """End the episode and return its pieces, each of at least ``minimum_records`` records.

        Args:
            reason: the last piece's ``end_reason``.
        """
        step = self._open
        if step is not None and step.half is None and (step.action is None or step.action.lost is None):
            self._open = None  # the last state window is whole as the next state of the step before
        elif step is not None and step.action is not None and step.action.lost is not None:
            self._close_piece(f"interrupted: {step.action.lost}")
        self._drop_open(UNFINISHED)
        self._close_piece(reason)
        episodes: list[Episode] = []
        for records, ended in self._pieces:
            if len(records) < self._vehicle.episodes.minimum_records:
                self.report.short_pieces += 1
                self.report.short_records += len(records)
                self.report.lost_records[TOO_FEW] += len(records)
                continue
            self.report.ended[ended] += 1
            episodes.append(self._episode(records, ended, len(episodes)))
        self._pieces = []
        return episodes

    def _check(self, window: Window) -> None:
        sampling = self._vehicle.sampling
        expected = (sampling.window, len(sampling.signals))
        if window.samples.shape != expected or not np.isfinite(window.samples).all():
            message = (
                f"{self._context.key}: a window of {window.samples.shape} samples, {self._vehicle.id} has "
                f"{expected} finite ones; a window that is not whole must be marked as not valid"
            )
            raise RecordError(message)

    def _follows(self, before: Window, window: Window) -> bool:
        """Whether both may be in one step: no more time lies between them than the vehicle allows."""
        length = round(self._vehicle.sampling.window_s * 1e9)
        allowed = self._vehicle.online.window_gap_s
        longest = length // 4 if allowed is None else round(allowed * 1e9)
        return -(length // 4) <= window.start_ns - before.start_ns - length <= longest

    def _complete(self, window: Window) -> tuple[Record | None, float | None]:
        """The record of the step that ends with a state window, and the step's reward."""
        step = self._open
        if step is None or step.action is None or step.half is None:
            return None, None
        reward = self._reward(step.window, step.half, window)
        if step.action.lost is not None:
            self.report.lost_records[step.action.lost] += 1
            self._close_piece(step.action.lost)
            return None, reward
        record = self._record(step.window, step.action, step.half, window, reward)
        self._piece.append(record)
        if len(self._piece) == self._vehicle.episodes.maximum_records:
            self._close_piece(END_OF_LENGTH)
        return record, reward

    def _reward(self, state: Window, half: Window, following: Window) -> float:
        column = self._vehicle.sampling.signals.index("velocity")
        used = np.concatenate([half.samples[:, column], following.samples[:, column]]).astype(np.float64)
        rewards = step_rewards(
            self._vehicle,
            energy_wh=np.array([half.energy_wh + following.energy_wh]),
            distance_m=np.array([half.distance_m + following.distance_m]),
            v_decision_kmh=np.array([float(state.samples[-1, column])]),
            v_used_kmh=used[None],
        )
        return float(rewards[0])

    def _record(
        self, state: Window, action: StepAction, half: Window, following: Window, reward: float
    ) -> Record:
        vehicle = self._vehicle
        default = self._context.default_map.table[action.first_row : action.first_row + ACTION_ROWS]
        values, clipped = as_action(action.rows, default, vehicle.torque_map.budget_nm)
        flags = RecordFlag.FLASHED if action.flashed else RecordFlag.HELD
        if clipped:
            flags |= RecordFlag.CLIPPED
        if not self._piece:
            flags |= RecordFlag.FIRST
            if values.any():
                flags |= RecordFlag.ZEROED
                values = np.zeros(ACTION_DIM, np.float32)
        return Record(
            time_ns=state.start_ns,
            state=state.samples.reshape(-1),
            action=values,
            first_row=action.first_row,
            reward=reward,
            next_state=following.samples.reshape(-1),
            next_time_ns=following.start_ns,
            flags=int(flags),
            energy_wh=half.energy_wh + following.energy_wh,
            distance_m=half.distance_m + following.distance_m,
            memory=action.memory,
        )

    def _break(self, reason: str) -> None:
        self._drop_open(reason)
        self._close_piece(reason)

    def _drop_open(self, reason: str) -> None:
        """Count the step that cannot be completed any more, by what was wrong with it first."""
        if self._open is not None:
            action = self._open.action
            self.report.lost_records[reason if action is None or action.lost is None else action.lost] += 1
            self._open = None

    def _close_piece(self, reason: str) -> None:
        if self._piece:
            self._pieces.append((self._piece, reason))
            self._piece = []

    def _episode(self, records: list[Record], reason: str, number: int) -> Episode:
        vehicle, context = self._vehicle, self._context
        flags = np.array([record.flags for record in records], np.uint8)
        self.report.clipped_records += int(np.count_nonzero(flags & RecordFlag.CLIPPED))
        times = [*(record.time_ns for record in records), records[-1].next_time_ns]
        period = vehicle.sampling.period_ns
        last = times[-1] + (vehicle.sampling.window - 1) * period
        meta = episode_meta(
            vehicle,
            context.site,
            context.default_map,
            context.driver_id,
            episode_id=f"{context.key}#{number:04d}",
            log_key=context.key,
            time_source="clock",
            action_source="agent",
            action_note=context.action_note,
            energy_wh=float(sum(record.energy_wh for record in records)),
            distance_m=float(sum(record.distance_m for record in records)),
            duration_s=(last - times[0]) / 1e9,
            end_reason=reason,
        )
        return Episode(
            states=np.stack([*(record.state for record in records), records[-1].next_state]),
            actions=np.stack([record.action for record in records]),
            rows=np.array([record.first_row for record in records], np.int32),
            rewards=np.array([record.reward for record in records], np.float32),
            times=np.array(times, np.int64),
            flags=flags,
            meta=meta,
        )
