"""From the grid of a log to its episodes, with a count of everything that did not become one."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tspace_core.config import Site, TorqueMap, Vehicle
from tspace_core.records.action import NOTES, Actions, ActionSource, action_source
from tspace_core.records.episode import Episode, RecordFlag
from tspace_core.records.flash_journal import Flash
from tspace_core.records.meta import TimeSource, episode_meta
from tspace_core.records.quadruple import Steps, make_steps, step_count
from tspace_core.records.window import VALID, GridTable, RowReasons, Run, row_reasons, valid_runs

END_OF_LENGTH = "maximum length"
UNKNOWN_FLASH = "live map unknown: a flash was not acknowledged"
AMBIGUOUS_JOURNAL = "flash instants ambiguous: the log's clock steps back"


@dataclass
class CutReport:
    """What became of a log's grid rows.

    Attributes:
        rows: grid rows in the log.
        unusable_rows: rows that no window may hold, by reason.
        short_runs: usable stretches too short for an episode; their rows are in ``short_rows``.
        left_rows: usable rows before the first step or behind the last whole one of a stretch.
        lost_records: records left out, by reason.
        clipped_records: records whose torque differs from the default map's by more than the budget.
        ended: episodes by what ended them.
    """

    rows: int = 0
    unusable_rows: Counter[str] = field(default_factory=Counter)
    short_runs: int = 0
    short_rows: int = 0
    left_rows: int = 0
    lost_records: Counter[str] = field(default_factory=Counter)
    clipped_records: int = 0
    ended: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class LogContext:
    """What the episodes of one log have in common."""

    vehicle: Vehicle
    site: Site
    default_map: TorqueMap
    driver_id: str
    log_key: str
    time_source: TimeSource


def cut_episodes(
    table: GridTable, context: LogContext, flashes: list[Flash], report: CutReport
) -> Iterator[Episode]:
    """Yield the episodes of a log in order.

    An episode lies in one segment and holds no row without a fresh value of every state signal and without
    measured energy: such a row ends it. Runs shorter than ``vehicle.episodes.minimum_records`` are left out;
    longer ones than ``maximum_records`` go on in another episode, whose first window is the last of the one
    before.

    Args:
        table: the grid of the log.
        context: vehicle, site, default map, and which log it is.
        flashes: the log's flash journal, empty where it has none.
        report: counts what is left out; complete when the iterator is used up.
    """
    vehicle = context.vehicle
    rows = row_reasons(table, vehicle)
    if flashes and vehicle.actions == "flash_journal" and (np.diff(table.log_time_ns) < 0).any():
        rows = RowReasons(np.ones(len(table), np.uint8), (VALID, AMBIGUOUS_JOURNAL))
    report.rows += len(table)
    report.unusable_rows.update(rows.counts())
    source = action_source(vehicle, context.default_map, flashes)
    number = 0
    for run in valid_runs(table, rows, vehicle.sampling.period_ns):
        for episode in _episodes_of_run(table, run, context, source, report):
            yield _numbered(episode, number)
            number += 1


def _episodes_of_run(
    table: GridTable, run: Run, context: LogContext, source: ActionSource, report: CutReport
) -> Iterator[Episode]:
    vehicle = context.vehicle
    window, rules = vehicle.sampling.window, vehicle.episodes
    start = run.start + source.offset(table, run.start, run.stop)
    count = step_count(run.stop - start, window)
    if count < rules.minimum_records:
        report.short_runs += 1
        report.short_rows += run.stop - run.start
        return
    report.left_rows += run.stop - run.start - (2 * count + 1) * window
    steps = make_steps(table, start, count, vehicle)
    actions = source.actions(table, steps)
    report.lost_records[UNKNOWN_FLASH] += int((~actions.known).sum())
    for first, last, reason in _pieces(actions.known, rules.maximum_records, run.end_reason):
        if last - first < rules.minimum_records:
            report.lost_records["too few records left"] += last - first
            continue
        report.ended[reason] += 1
        report.clipped_records += int(np.count_nonzero(actions.flags[first:last] & RecordFlag.CLIPPED))
        yield _episode(table, steps, actions, slice(first, last), run, context, reason)


def _pieces(known: NDArray[np.bool_], longest: int, end_reason: str) -> Iterator[tuple[int, int, str]]:
    """Yield (first, last, reason) of the stretches of known steps, none longer than ``longest``."""
    first = 0
    for k in range(len(known) + 1):
        at_end, unknown = k == len(known), k < len(known) and not known[k]
        if at_end or unknown or k - first == longest:
            if k > first:
                yield first, k, end_reason if at_end else UNKNOWN_FLASH if unknown else END_OF_LENGTH
            first = k + 1 if unknown else k


def _episode(
    table: GridTable,
    steps: Steps,
    actions: Actions,
    records: slice,
    run: Run,
    context: LogContext,
    reason: str,
) -> Episode:
    vehicle = context.vehicle
    chosen, flags = actions.actions[records].copy(), actions.flags[records].copy()
    flags[0] |= RecordFlag.FIRST
    if chosen[0].any():
        flags[0] |= RecordFlag.ZEROED
        chosen[0] = 0.0
    starts = steps.starts[records.start : records.stop + 1]
    last_row = int(starts[-1]) + vehicle.sampling.window - 1
    meta = episode_meta(
        vehicle,
        context.site,
        context.default_map,
        context.driver_id,
        episode_id=context.log_key,
        log_key=context.log_key,
        segment=run.segment,
        time_source=context.time_source,
        action_source=vehicle.actions,
        action_note=NOTES[vehicle.actions],
        energy_wh=float(steps.energy_wh[records].sum()),
        distance_m=float(steps.distance_m[records].sum()),
        duration_s=float(table.log_time_ns[last_row] - table.log_time_ns[starts[0]]) / 1e9,
        end_reason=reason,
    )
    return Episode(
        states=steps.states[records.start : records.stop + 1],
        actions=chosen,
        rows=actions.rows[records],
        rewards=steps.rewards[records],
        times=table.utc_ns[starts],
        flags=flags,
        meta=meta,
    )


def _numbered(episode: Episode, number: int) -> Episode:
    meta = episode.meta.model_copy(update={"episode_id": f"{episode.meta.log_key}#{number:04d}"})
    return Episode(
        episode.states, episode.actions, episode.rows, episode.rewards, episode.times, episode.flags, meta
    )
