"""From requests in a vehicle's spool to its one run: who starts, what is dead, what stays on hold.

A request (the bridge writes it when it hears the HMI's `begin`, ``tspace request`` when a person asks) stays
pending until its run has ended. What became of it is read from the runs that carry its id as a tag, so that
nothing is lost whenever this process, the run or the whole machine stops:

- no run yet: one is asked for;
- a run that goes on: its heartbeat is looked at; a run without one is reported as failed, since nobody else
  notices a worker that died with its machine;
- a run that failed: another attempt, at most ``ATTEMPTS`` in all;
- a run that a person cancelled: the vehicle is on hold, all requests until then are over and only a new one
  starts;
- a run that ended well: the request is done.

While a run starts, the HMI may say more: it may take its `begin` back, or say it again. So the run looks into
the spool once it is connected, when the bridge writes no more (``first_event``).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import dagster as dg
from dagster import DagsterRunStatus as Status

from tspace_core.link.requests import Request, Spool
from tspace_core.online.heartbeat import Heartbeat, read_heartbeat
from tspace_core.vehicle.states import Event

VEHICLE_TAG = "tspace/online_vehicle"
REQUEST_TAG = "tspace/request"
ATTEMPT_TAG = "tspace/attempt"
ATTEMPTS = 3
SILENT_S = 15.0
"""A run whose heartbeat is older has died: it beats every second."""
STARTING_S = 300.0
"""A run may take this long until its first heartbeat."""
FRESH_S = 300.0
"""A `begin` is followed for so long; who said it is hardly at the HMI any more after that."""
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
    if not active and waiting:
        # The run takes the others along when it is up; should it never be, they are not lost.
        decision.requests.append(_run_request(*waiting[0]))
    return decision


def first_event(
    spool: Spool, request_id: str | None, run_id: str, now: datetime, *, begin: bool
) -> tuple[Event, str] | None:
    """What a run does first, once it is connected: begin, end again, or (None) wait for the HMI.

    Requests that came while it started are settled: it is the run that they ask for.

    Args:
        spool: of the run's vehicle.
        request_id: of the request that the run was started by; None: a person started it by hand.
        run_id: of the run.
        now: the time, with a zone.
        begin: whether the run's own request is a `begin` that no run has followed yet.
    """
    own: Request | None = None
    begins: list[Request] = []
    joined = 0
    for request in spool.pending():
        if request.id == request_id:
            own = request
            begins += [request] if begin else []
            continue
        spool.finish(request, f"joined run {run_id}")
        joined += 1
        begins += [request] if request.event == "begin" else []
    if any((now - request.at).total_seconds() <= FRESH_S for request in begins):
        return Event.BEGIN, "HMI: begin, heard before the run"
    if request_id is None:
        return (Event.BEGIN, "begin, as the run was told") if begin else None
    if own is None and not joined:
        return Event.EXIT, "the request was withdrawn before the run was up"
    return None


def _unsettled(
    instance: dg.DagsterInstance, spool: Spool, pending: list[Request], decision: Decision
) -> Iterator[tuple[Request, int]]:
    """Requests that still want a run, with the number of the next attempt; the others are finished."""
    held = _held_until(instance, spool.vehicle_id)
    for request in pending:
        records = _runs(instance, {REQUEST_TAG: request.id})
        if not records:
            if held is not None and request.at < held:
                spool.finish(request, "on hold: a person cancelled the run that it came in; ask again")
            else:
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


def _held_until(instance: dg.DagsterInstance, vehicle_id: str) -> datetime | None:
    """When the vehicle's newest run ended, if a person cancelled it."""
    for record in _runs(instance, {VEHICLE_TAG: vehicle_id})[:1]:
        if record.dagster_run.status is Status.CANCELED and record.end_time:
            return datetime.fromtimestamp(record.end_time, UTC)
    return None


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
