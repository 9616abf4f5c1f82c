"""Where a training run's parameters, metrics and pictures go: MLflow, or nowhere.

Whatever is told is on this disk first (``tracking_spool``) and then sent (``tracking_send``), so a store that
cannot be reached, at the start, in the middle or at the end, neither stops training nor loses anything. What
waits is sent by the next run that is tracked, or by ``tspace track --send``.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from tspace_core.agents.tracking_client import client_of
from tspace_core.agents.tracking_send import BATCH, patience, send, send_waiting
from tspace_core.agents.tracking_spool import Spool, SpoolWriter
from tspace_core.errors import AgentError
from tspace_core.objects.path import AnyPath

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tspace_core.storage.lake import Lake

Status = Literal["FINISHED", "FAILED", "KILLED"]

LONGEST_WAIT_S = 5.0
"""Metrics wait no longer than this for more, so that a run can be watched."""


class RunTracker(Protocol):
    """What training tells a tracker, in this order; ``metrics`` and ``figure`` any number of times."""

    def start(
        self, params: Mapping[str, object], tags: Mapping[str, str], *, resume: str | None = None
    ) -> str | None:
        """Begin a run, or go on with the run ``resume``; returns its id."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Metrics after an update."""

    def figure(self, figure: "Figure", name: str) -> None:
        """A picture, stored under ``name``."""

    def finish(self, status: Status = "FINISHED") -> None:
        """End the run; everything told before is stored then."""


class NullTracker:
    """Tracking switched off."""

    def start(
        self, params: Mapping[str, object], tags: Mapping[str, str], *, resume: str | None = None
    ) -> str | None:
        """Nothing is stored, so there is no run id."""
        return None

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Nothing is stored."""

    def figure(self, figure: "Figure", name: str) -> None:
        """Nothing is stored."""

    def finish(self, status: Status = "FINISHED") -> None:
        """Nothing is stored."""


class Tracker:
    """Tracks a run in MLflow; holds no global MLflow state, so runs side by side do not mix.

    A store that does not answer costs at most 5 s a try and a twentieth of the time
    (``MLFLOW_HTTP_REQUEST_TIMEOUT``, ``tracking_send.SHARE``).

    Args:
        uri: Tracking store, ``settings().tracking_uri`` by default: SQLite in the data folder.
        experiment: MLflow experiment, made if it does not exist.
        artifacts: Folder for the pictures of a new experiment, on a disk or in a bucket; None leaves it to
            the tracking server, with a store of our own it is in the lake's bucket or in the data folder.
        tags: Tags of the run beside those that training sets (vehicle, agent, replay version).
        run_name: Name shown in MLflow; None lets MLflow make one up.
        parent: MLflow id of the run that this one is shown below.
        spool: Folder of what waits to be sent; default: ``tracking`` in the data folder.
    """

    def __init__(
        self,
        uri: str | None = None,
        *,
        experiment: str = "tspace",
        artifacts: AnyPath | None = None,
        tags: Mapping[str, str] | None = None,
        run_name: str | None = None,
        parent: str | None = None,
        spool: Path | None = None,
    ) -> None:
        from tspace_core.config import settings

        self.uri = uri or settings().tracking_uri
        self.experiment = experiment
        self.spool = Spool(spool or spool_folder())
        self._artifacts = artifacts
        if uri is None and artifacts is None and self.uri.startswith("sqlite:"):
            self._artifacts = artifact_folder()
        self._tags = dict(tags or {})
        if parent is not None:
            self._tags["mlflow.parentRunId"] = parent
        self._run_name = run_name
        self._writer: SpoolWriter | None = None
        self._told = 0
        self._tried = 0.0

    def start(
        self, params: Mapping[str, object], tags: Mapping[str, str], *, resume: str | None = None
    ) -> str:
        """Begin a run, or go on with the run ``resume``; returns its MLflow id.

        Where the store cannot be reached it is an id of our own (``local-...``), which ``resume`` understands
        as well; in MLflow it is the run's tag ``tspace.local``. If the store does not hold ``resume``, a new
        run begins, tagged with it.

        Raises:
            AgentError: a run is going on already.
            StorageError: the data folder cannot be written.
        """
        if self._writer is not None:
            message = f"run {self._writer.run.key} is going on; finish it first or use a tracker a run"
            raise AgentError(message)
        self._writer = self.spool.writer(resume)
        event = {
            "uri": self.uri,
            "experiment": self.experiment,
            "artifacts": None if self._artifacts is None else _uri(self._artifacts),
            "run_name": self._run_name,
            "params": {name: str(value) for name, value in params.items()},
            "tags": {**self._tags, **tags},
            "resume": resume,
            "time": _now(),
        }
        self._writer.add("start", event, durable=True)
        run = self._writer.run
        if patience(self.uri).due() and self._send():
            send_waiting(self.spool, self.uri, but=run.key)
        return run.state.run_id or run.key

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Metrics after update ``step``; sent in batches or after seconds, the rest at the end."""
        now = _now()
        told = [(name, float(value), now, step) for name, value in values.items()]
        self._running().add("metrics", {"metrics": told})
        self._told += len(told)
        if self._told >= BATCH or time.monotonic() - self._tried >= LONGEST_WAIT_S:
            self._send()

    def figure(self, figure: "Figure", name: str) -> None:
        """A matplotlib figure, stored as the run's artifact ``name``."""
        self._running().figure(figure, name)

    def finish(self, status: Status = "FINISHED") -> None:
        """Send what waits and end the run."""
        writer = self._running()
        writer.add("finish", {"status": status, "time": _now()}, durable=True)
        sent = self._send()
        writer.close()
        self._writer = None
        # A run whose end could not be written (a full disk) stays, so that the next one tracked ends it.
        if sent and writer.complete:
            self.spool.remove(writer.run)
            send_waiting(self.spool, self.uri)

    def _send(self) -> bool:
        """Send what waits, if the store may be asked again; whether it has all of it."""
        self._told, self._tried = 0, time.monotonic()
        return patience(self.uri).due() and send(self._running().run) is None

    def _running(self) -> SpoolWriter:
        if self._writer is None:
            message = "no run is going on; call start first"
            raise AgentError(message)
        return self._writer


def prepare_store(uri: str) -> None:
    """Make the tables of a SQLite store that has none: seconds, and better not by several processes at once.

    A server is not asked. What goes wrong here goes wrong again, and is said, when something is sent.
    """
    if uri.startswith("sqlite:"):
        import contextlib

        with contextlib.suppress(Exception):
            client_of(uri)


def _now() -> int:
    return time.time_ns() // 1_000_000


def spool_folder() -> Path:
    """Where what is tracked waits: ``<data_dir>/tracking``."""
    from tspace_core.config import settings

    return settings().data_dir / "tracking"


def artifact_folder(lake: "Lake | None" = None) -> AnyPath:
    """Where pictures go that no server keeps.

    ``mlflow`` in the lake's bucket, or ``mlartifacts`` in its folder; default: the settings' lake.
    """
    from tspace_core.config import settings
    from tspace_core.storage.lake import lake_from_settings

    if lake is None and not settings().lake_url:
        return settings().data_dir / "mlartifacts"
    found = lake or lake_from_settings()
    return found.local / "mlartifacts" if isinstance(found.root, Path) else found.root / "mlflow"


def _uri(folder: AnyPath) -> str:
    return folder.resolve().as_uri() if isinstance(folder, Path) else str(folder)
