"""From requests in a vehicle's spool to its one run: who starts, what is dead, what stays on hold.

A request (the bridge writes it when it hears the HMI's `begin`, ``tspace request`` when a person asks) stays
pending until its run has ended. What became of it is read from the runs that carry its id as a tag, so that
nothing is lost whenever this process, the run or the whole machine stops:

- no run yet: one is asked for;
- a run that goes on: its heartbeat is looked at; a run without one is reported as failed, since nobody else
  notices a worker that died with its machine;
- a run that failed: another attempt, at most ``ATTEMPTS`` in all;
- a run that a person cancelled: the vehicle is on hold, the request is over and only a new one starts;
- a run that ended well: the request is done.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import dagster as dg
from dagster import DagsterRunStatus as Status

from tspace_core.link.requests import Request, Spool
from tspace_core.online.heartbeat import Heartbeat, read_heartbeat

VEHICLE_TAG = "tspace/online_vehicle"
REQUEST_TAG = "tspace/request"
ATTEMPT_TAG = "tspace/attempt"
ATTEMPTS = 3
SILENT_S = 15.0
"""A run whose heartbeat is older has died: it beats every second."""
STARTING_S = 300.0
"""A run may take this long until its first heartbeat."""
ACTIVE = (Status.NOT_STARTED, Status.QUEUED, Status.STARTING, Status.STARTED, Status.CANCELING)


@dataclass
class Decision:
    """What one look at a vehicle's spool led to."""

    requests: list[dg.RunRequest] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def decide(instance: dg.DagsterInstance, spool: Spool, now: datetime) -> Decision:
    """Look at one vehicle: reconcile its run, settle its requests, ask for the next run.

    Args:
        instance: of Dagster.
        spool: the vehicle's requests.
        now: the time, with a zone.
    """
    decision = Decision()
    for record in _runs(instance, {VEHICLE_TAG: spool.vehicle_id}):
        if record.dagster_run.status in ACTIVE:
            decision.notes.append(_reconcile(instance, spool, record, now))
    pending = spool.pending()
    if not pending:
        return decision
    active = [
        record
        for record in _runs(instance, {VEHICLE_TAG: spool.vehicle_id})
        if record.dagster_run.status in ACTIVE
    ]
    waiting = list(_unsettled(instance, spool, pending, decision))
    if active or not waiting:
        return decision
    request, attempt = waiting[0]
    for other, _ in waiting[1:]:
        spool.finish(other, f"joined the run of {request.id}")
    decision.requests.append(_run_request(request, attempt))
    return decision


def _unsettled(
    instance: dg.DagsterInstance, spool: Spool, pending: list[Request], decision: Decision
) -> Iterator[tuple[Request, int]]:
    """Requests that still want a run, with the number of the next attempt; the others are finished."""
    for request in pending:
        records = _runs(instance, {REQUEST_TAG: request.id})
        if not records:
            yield request, 1
            continue
        last = records[0].dagster_run
        if last.status in ACTIVE:
            continue
        if last.status is Status.SUCCESS:
            spool.finish(request, f"done by run {last.run_id}")
        elif last.status is Status.CANCELED:
            spool.finish(request, f"cancelled by a person in run {last.run_id}; a new request starts again")
            decision.notes.append(f"{spool.vehicle_id}: on hold, run {last.run_id} was cancelled")
        elif len(records) >= ATTEMPTS:
            spool.finish(request, f"given up after {len(records)} failed runs, the last is {last.run_id}")
            decision.notes.append(f"{spool.vehicle_id}: request {request.id} given up, see run {last.run_id}")
        else:
            yield request, len(records) + 1


def _run_request(request: Request, attempt: int) -> dg.RunRequest:
    options = request.options
    config = {
        "vehicle": request.vehicle_id,
        "infer": options.infer,
        "observe": options.observe,
        "episodes": options.episodes,
        # Only the begin that the HMI has just sent: after a failure a person begins again, and so re-arms.
        "begin": request.event == "begin" and attempt == 1,
    }
    return dg.RunRequest(
        run_key=f"{request.vehicle_id}#{request.id}#{attempt}",
        run_config={"ops": {"drive_online": {"config": config}}},
        tags={VEHICLE_TAG: request.vehicle_id, REQUEST_TAG: request.id, ATTEMPT_TAG: str(attempt)},
    )


def _reconcile(instance: dg.DagsterInstance, spool: Spool, record: dg.RunRecord, now: datetime) -> str:
    run = record.dagster_run
    beat = read_heartbeat(spool.folder)
    if run.status not in (Status.STARTED, Status.CANCELING):
        return f"{spool.vehicle_id}: run {run.run_id} is {run.status.value.lower()}"
    reason = _dead(record, beat, now)
    if reason is None:
        return f"{spool.vehicle_id}: run {run.run_id} drives"
    if run.status is Status.CANCELING:
        instance.report_run_canceled(run, message=reason)
    else:
        instance.report_run_failed(run, message=reason)
    return f"{spool.vehicle_id}: run {run.run_id} was dead: {reason}"


def _dead(record: dg.RunRecord, beat: Heartbeat | None, now: datetime) -> str | None:
    """Why a run is taken for dead, or None."""
    if beat is not None and beat.run_id == record.dagster_run.run_id:
        age = (now - beat.at).total_seconds()
        return (
            f"its last heartbeat is {age:.0f} s old, the limit is {SILENT_S:.0f} s"
            if age > SILENT_S
            else None
        )
    started = datetime.fromtimestamp(record.start_time or record.create_timestamp.timestamp(), UTC)
    age = (now - started).total_seconds()
    if age > STARTING_S:
        return f"it has not sent a heartbeat in {age:.0f} s, the limit is {STARTING_S:.0f} s"
    return None


def _runs(instance: dg.DagsterInstance, tags: dict[str, str]) -> list[dg.RunRecord]:
    """Runs with these tags, the newest first."""
    return list(instance.get_run_records(dg.RunsFilter(tags=tags), limit=ATTEMPTS + 2))
