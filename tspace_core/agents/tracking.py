"""Where a training run's parameters, metrics and pictures go: MLflow, or nowhere."""

import logging
import os
import time
import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal, Protocol

from tspace_core.errors import AgentError
from tspace_core.objects.path import AnyPath, any_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_log = logging.getLogger(__name__)

Status = Literal["FINISHED", "FAILED", "KILLED"]

BATCH = 500
"""Metrics sent in one call; MLflow takes at most 1000."""
LONGEST_WAIT_S = 5.0
"""Metrics wait no longer than this for more, so that a run can be watched and a killed one is kept."""
_VALUE_LIMIT = 6000
"""Characters of a parameter's value that MLflow stores."""


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

    Args:
        uri: Tracking store, ``settings().tracking_uri`` by default: SQLite in the data folder.
        experiment: MLflow experiment, made if it does not exist.
        artifacts: Folder for the pictures of a new experiment, on a disk or in a bucket; None leaves it to
            the tracking server, with a store of our own it is in the lake's bucket or in the data folder.
        tags: Tags of the run beside those that training sets (vehicle, agent, replay version).
        run_name: Name shown in MLflow; None lets MLflow make one up.
    """

    def __init__(
        self,
        uri: str | None = None,
        *,
        experiment: str = "tspace",
        artifacts: AnyPath | None = None,
        tags: Mapping[str, str] | None = None,
        run_name: str | None = None,
    ) -> None:
        from tspace_core.config import settings

        self.uri = uri or settings().tracking_uri
        self.experiment = experiment
        self._artifacts = artifacts
        if uri is None and artifacts is None and self.uri.startswith("sqlite:"):
            self._artifacts = artifact_folder()
        self._tags = dict(tags or {})
        self._run_name = run_name
        self._run: str | None = None
        self._waiting: list[tuple[str, float, int, int]] = []
        self._sent = time.monotonic()
        if self.uri.startswith("sqlite:///"):
            Path(self.uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        _let_reach_bucket()
        self._mlflow = _import_mlflow()
        self._client = self._mlflow.MlflowClient(tracking_uri=self.uri)

    def start(
        self, params: Mapping[str, object], tags: Mapping[str, str], *, resume: str | None = None
    ) -> str:
        """Begin a run, or go on with the run ``resume``; returns its MLflow id.

        If the store does not hold ``resume``, a new run begins, tagged with it.

        Raises:
            AgentError: a run is going on already.
        """
        if self._run is not None:
            message = f"run {self._run} is going on; finish it first or use a tracker a run"
            raise AgentError(message)
        if resume is not None and self._exists(resume):
            self._client.update_run(resume, status="RUNNING")
            self._run = resume
            return resume
        if resume is not None:
            _log.warning("run %s is not in %s (any more): tracking goes on in a new run", resume, self.uri)
            tags = {**tags, "resumes": resume}
        run = self._client.create_run(
            self._experiment_id(), run_name=self._run_name, tags={**self._tags, **tags}
        )
        self._run = str(run.info.run_id)
        entities = self._mlflow.entities
        values = [entities.Param(name, str(value)[:_VALUE_LIMIT]) for name, value in params.items()]
        self._client.log_batch(self._run, params=values, synchronous=True)
        return self._run

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Metrics after update ``step``; sent in batches or after seconds, the rest at the end."""
        now = time.time_ns() // 1_000_000
        self._waiting.extend((name, float(value), now, step) for name, value in values.items())
        if len(self._waiting) >= BATCH or time.monotonic() - self._sent >= LONGEST_WAIT_S:
            self._flush()

    def figure(self, figure: "Figure", name: str) -> None:
        """A matplotlib figure, stored as the run's artifact ``name``."""
        self._client.log_figure(self._running(), figure, name)

    def finish(self, status: Status = "FINISHED") -> None:
        """Send what waits and end the run."""
        run = self._running()
        self._flush()
        self._client.set_terminated(run, status=status)
        self._run = None

    def _flush(self) -> None:
        run = self._running()
        metrics = [self._mlflow.entities.Metric(*item) for item in self._waiting]
        for first in range(0, len(metrics), BATCH):
            self._client.log_batch(run, metrics=metrics[first : first + BATCH], synchronous=True)
        self._waiting.clear()
        self._sent = time.monotonic()

    def _running(self) -> str:
        if self._run is None:
            message = "no run is going on; call start first"
            raise AgentError(message)
        return self._run

    def _exists(self, run: str) -> bool:
        try:
            self._client.get_run(run)
        except self._mlflow.exceptions.MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
        return True

    def _experiment_id(self) -> str:
        found = self._client.get_experiment_by_name(self.experiment)
        if found is not None:
            return str(found.experiment_id)
        place = None if self._artifacts is None else _uri(self._artifacts)
        return str(self._client.create_experiment(self.experiment, artifact_location=place))


def artifact_folder() -> AnyPath:
    """Where pictures go that no server keeps: ``<lake_url>/mlflow``, or ``<data_dir>/mlartifacts``."""
    from tspace_core.config import settings

    found = settings()
    return any_path(found.lake_url) / "mlflow" if found.lake_url else found.data_dir / "mlartifacts"


def _uri(folder: AnyPath) -> str:
    return folder.resolve().as_uri() if isinstance(folder, Path) else str(folder)


def _let_reach_bucket() -> None:
    """MLflow finds its server for ``s3://`` in the environment only, as it does the credentials."""
    from tspace_core.config import settings

    found = settings().s3
    if found.endpoint is not None:
        os.environ["MLFLOW_S3_ENDPOINT_URL"] = found.endpoint
    os.environ.setdefault("AWS_DEFAULT_REGION", found.region)


@cache
def _import_mlflow() -> ModuleType:
    """MLflow without its telemetry, its start-up lines, and a warning about its own database models."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import mlflow
        import mlflow.entities
        import mlflow.store.tracking.sqlalchemy_store  # configures SQLAlchemy's mappers, which warn
    for name in ("mlflow.store.db.utils", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    module: ModuleType = mlflow
    return module
