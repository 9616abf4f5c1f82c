"""Sends what the spool holds to MLflow, in order, as often as it takes, and so that it arrives once.

What arrives twice counts once: MLflow knows a metric by name, step, time and value, a parameter by its name,
a picture by its path, and a run by the tag ``tspace.local``, by which one is looked up whose answer was lost.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tspace_core.agents.tracking_client import client_of, import_mlflow
from tspace_core.agents.tracking_spool import LOCAL, Event, Spool, SpooledRun, SpoolState

if TYPE_CHECKING:
    from mlflow import MlflowClient

_log = logging.getLogger(__name__)

BATCH = 500
"""Metrics sent in one call; MLflow takes at most 1000."""
SHARE = 0.05
"""Of the time, at most so much is spent on a store that does not answer."""
TAG = "tspace.local"
_PARENT = "mlflow.parentRunId"
_VALUE_LIMIT = 6000
"""Characters of a parameter's value that MLflow stores."""
_REFUSED = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")
_GONE = "RESOURCE_DOES_NOT_EXIST"


@dataclass
class Patience:
    """When a store that did not answer is asked again: the longer that took, the later."""

    until: float = 0.0
    failures: int = 0

    def due(self) -> bool:
        """Whether it may be asked."""
        return time.monotonic() >= self.until

    def failed(self, seconds: float) -> bool:
        """It did not answer for so long; whether that is new."""
        self.until = time.monotonic() + seconds / SHARE
        self.failures += 1
        return self.failures == 1

    def answered(self) -> None:
        """It did."""
        self.failures, self.until = 0, 0.0


_patience: dict[str, Patience] = {}


def patience(uri: str) -> Patience:
    """Of this process with a store."""
    return _patience.setdefault(uri, Patience())


@dataclass(frozen=True)
class Sent:
    """What became of runs that waited."""

    sent: list[str] = field(default_factory=list)
    """Ids in the store of the runs that are there in full."""
    kept: dict[str, str] = field(default_factory=dict)
    """By key, why a run still waits."""


def send_waiting(spool: Spool, uri: str | None = None, *, but: str | None = None) -> Sent:
    """Send all runs that wait, in the order in which they began; the ones after a failure wait, too.

    Args:
        spool: with the runs.
        uri: of the store; None: each to its own, whatever was tried before.
        but: key of a run that is looked after by its own tracker.
    """
    found = Sent()
    down: dict[str, str] = {}
    for run in spool.runs():
        first = run.first()
        if first is None or run.key == but or (uri is not None and first["uri"] != uri):
            continue
        store = str(first["uri"])
        if store not in down and (uri is None or patience(store).due()):
            reason = send(run)
            if reason is None and run.folder.is_dir():
                run_id = run.state.run_id
                reason = _end(spool, run)
                if reason is None:
                    found.sent.append(str(run_id))
            if reason is not None and reason.startswith(_NO_ANSWER):
                down[store] = reason
        else:
            reason = down.get(store, "its store did not answer just now")
        if reason is not None:
            found.kept[run.key] = reason
    return found


def _end(spool: Spool, run: SpooledRun) -> str | None:
    """After all was sent: say how a run ended whose process died, and remove it."""
    state = run.state
    with run.locked("writer") as dead:
        if not dead:
            return "it is going on"
        last = deque(run.events(), maxlen=1)
        if last and last[0].kind != "finish" and state.run_id is not None:
            reason = _guarded(run, lambda client: client.set_terminated(state.run_id, status="KILLED"))
            if reason is not None:
                return reason
    if spool.remove(run):
        return None
    refused = "the store refused a part of it, see refused.jsonl there"
    return "it is going on" if run.pending else refused


_NO_ANSWER = "no answer: "


def send(run: SpooledRun) -> str | None:
    """Send what a run has not sent; why something is left, or None."""
    with run.locked("send") as mine:
        if not mine:
            return "another process is sending it"
        return _guarded(run, lambda client: _send(run, client))


def _guarded(run: SpooledRun, work: "Callable[[MlflowClient], object]") -> str | None:
    first = run.first()
    if first is None:
        return None
    uri, began = str(first["uri"]), time.monotonic()
    try:
        work(client_of(uri))
    except Exception as error:  # whatever it is: training goes on, and what was told is kept
        text = f"{_NO_ANSWER}{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        if patience(uri).failed(time.monotonic() - began):
            _log.warning(
                "the tracking store %s cannot be used (%s): training goes on, what it tells is kept in %s; "
                "the next run sends it, or `tspace track --send`",
                uri,
                text,
                run.folder,
            )
        return text
    patience(uri).answered()
    return None


def _send(run: SpooledRun, client: "MlflowClient") -> None:
    mlflow = import_mlflow()
    for again in (False, True):
        try:
            for events in _portions(run.events(run.state.sent)):
                _send_portion(run, client, events)
                run.keep(run.state.model_copy(update={"sent": events[-1].end}))
        except mlflow.exceptions.MlflowException as error:
            state = run.state
            if again or state.run_id is None or not _is_gone(client, state.run_id, error):
                raise
            _log.warning("run %s is not there any more: tracking goes on in a new run", state.run_id)
            run.keep(SpoolState(gone=state.run_id))  # all that is known of it is sent to the new one
        else:
            return


def _portions(events: Iterator[Event]) -> Iterator[list[Event]]:
    """Successive metrics together, up to ``BATCH``; everything else alone."""
    waiting: list[Event] = []
    count = 0
    for event in events:
        size = len(event.values["metrics"]) if event.kind == "metrics" else 0
        if waiting and (event.kind != "metrics" or count + size > BATCH):
            yield waiting
            waiting, count = [], 0
        if event.kind != "metrics":
            yield [event]
            continue
        waiting.append(event)
        count += size
    if waiting:
        yield waiting


def _send_portion(run: SpooledRun, client: "MlflowClient", events: list[Event]) -> None:
    mlflow = import_mlflow()
    try:
        if events[0].kind == "metrics":
            _send_metrics(run, client, events)
        else:
            _SENDERS[events[0].kind](run, client, events[0].values)
    except mlflow.exceptions.MlflowException as error:
        if error.error_code not in _REFUSED or _is_gone(client, run.state.run_id, error):
            raise
        if len(events) > 1:  # one of them is wrong
            for event in events:
                _send_portion(run, client, [event])
            return
        if events[0].kind == "start":
            raise  # without a run there is nothing that the rest belongs to
        _log.warning("%s: the store refuses %s: %s", run.folder, dict(events[0].values), error)
        run.refuse(events[0], str(error))


def _is_gone(client: "MlflowClient", run_id: str | None, error: Any) -> bool:
    if run_id is None or error.error_code not in (*_REFUSED, _GONE):
        return False
    return not _exists(client, run_id)


def _exists(client: "MlflowClient", run_id: str) -> bool:
    mlflow = import_mlflow()
    try:
        found = client.get_run(run_id)
    except mlflow.exceptions.MlflowException as error:
        if error.error_code in (_GONE, "INVALID_PARAMETER_VALUE"):
            return False
        raise
    return bool(found.info.lifecycle_stage == "active")


def _send_metrics(run: SpooledRun, client: "MlflowClient", events: list[Event]) -> None:
    metric = import_mlflow().entities.Metric
    values = [metric(*item) for event in events for item in event.values["metrics"]]
    for first in range(0, len(values), BATCH):
        client.log_batch(_run_id(run), metrics=values[first : first + BATCH], synchronous=True)


def _send_start(run: SpooledRun, client: "MlflowClient", values: Mapping[str, Any]) -> None:
    state, resume = run.state, values["resume"]
    found = state.run_id
    if found is None:
        experiment = _experiment(client, values)
        found = _known(run, client, experiment, resume, state)
        if found is None:
            found = _make(run, client, experiment, values, state)
            _send_params(run, client, found, values)
        elif state.attempted:  # made in a call whose answer was lost
            _send_params(run, client, found, values)
        run.keep(run.state.model_copy(update={"run_id": found}))
    if resume is not None:
        client.update_run(found, status="RUNNING")


def _make(
    run: SpooledRun, client: "MlflowClient", experiment: str, values: Mapping[str, Any], state: SpoolState
) -> str:
    tags = {**values["tags"], TAG: run.key}
    before = state.gone or values["resume"]
    if before is not None:
        _log.warning("run %s is not in %s: tracking goes on in a new run", before, values["uri"])
        tags["resumes"] = before
    above = tags.get(_PARENT, "")
    if above.startswith(LOCAL):  # it had no id yet; runs are sent in the order in which they began
        found = client.search_runs([experiment], filter_string=f"tags.`{TAG}` = '{above}'", max_results=1)
        if found:
            tags[_PARENT] = str(found[0].info.run_id)
    run.keep(state.model_copy(update={"attempted": True}))
    made = client.create_run(experiment, start_time=values["time"], run_name=values["run_name"], tags=tags)
    return str(made.info.run_id)


def _send_params(run: SpooledRun, client: "MlflowClient", run_id: str, values: Mapping[str, Any]) -> None:
    mlflow, given = import_mlflow(), values["params"]
    params = [mlflow.entities.Param(name, str(value)[:_VALUE_LIMIT]) for name, value in given.items()]
    try:
        client.log_batch(run_id, params=params, synchronous=True)
    except mlflow.exceptions.MlflowException as error:
        if error.error_code not in _REFUSED:
            raise
        _log.warning("%s: the store refuses the parameters %s: %s", run.folder, given, error)
        run.refuse(Event("params", {"params": given}, 0), str(error))


def _known(
    run: SpooledRun, client: "MlflowClient", experiment: str, resume: str | None, state: SpoolState
) -> str | None:
    """The run that is meant, if the store has it."""
    if state.gone is None and resume is not None and not resume.startswith(LOCAL) and _exists(client, resume):
        return str(resume)
    if not state.attempted and (resume is None or not resume.startswith(LOCAL)):
        return None  # nobody can have made it
    found = client.search_runs([experiment], filter_string=f"tags.`{TAG}` = '{run.key}'", max_results=1)
    return str(found[0].info.run_id) if found else None


def _send_figure(run: SpooledRun, client: "MlflowClient", values: Mapping[str, Any]) -> None:
    path = run.folder / values["path"]
    if not path.is_file():
        _log.warning("%s is gone and cannot be sent", path)
        return
    folder = str(values["name"]).rpartition("/")[0]
    client.log_artifact(_run_id(run), str(path), folder or None)


def _send_finish(run: SpooledRun, client: "MlflowClient", values: Mapping[str, Any]) -> None:
    client.set_terminated(_run_id(run), status=values["status"], end_time=values["time"])


def _send_damaged(run: SpooledRun, client: "MlflowClient", values: Mapping[str, Any]) -> None:
    run.refuse(Event("damaged", values, 0), "not a line of JSON")


_SENDERS: dict[str, Callable[[SpooledRun, "MlflowClient", Mapping[str, Any]], None]] = {
    "start": _send_start,
    "figure": _send_figure,
    "finish": _send_finish,
    "damaged": _send_damaged,
}


def _run_id(run: SpooledRun) -> str:
    found = run.state.run_id
    assert found is not None, "start is sent first"
    return found


def _experiment(client: "MlflowClient", values: Mapping[str, Any]) -> str:
    mlflow, name = import_mlflow(), values["experiment"]
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=values["artifacts"]))
        except mlflow.exceptions.MlflowException:
            found = client.get_experiment_by_name(name)  # somebody else has just made it
            if found is None:
                raise
    return str(found.experiment_id)
