"""Jobs carried out in this process against the persistent instance, with their lines on the terminal."""

import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.instance.ref import InstanceRef

from tspace_core.config import Vehicle, settings
from tspace_core.errors import TspaceError
from tspace_pipelines.definitions import build
from tspace_pipelines.partitions import LOGS
from tspace_pipelines.progress import Progress

LOGGER = "demo"
NO_CAPTURE = {"module": "dagster._core.storage.noop_compute_log_manager", "class": "NoOpComputeLogManager"}


class RunFailedError(TspaceError):
    """A run did not succeed; its events are in the instance."""


class _Lines(logging.Handler):
    """Turns Dagster's messages into lines: steps that begin, what assets say, what fails."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        meta: Mapping[str, Any] = getattr(record, "dagster_meta", {})
        event, step = meta.get("dagster_event"), meta.get("step_key")
        if event is None and step:
            self._progress.done(f"{step}: {meta.get('orig_message', record.getMessage())}")
        elif event is not None and event.event_type_value == "STEP_START":
            self._progress.begin(f"    {step}")
        elif event is not None and event.event_type_value == "STEP_FAILURE":
            error = event.step_failure_data.error
            cause = error.cause.message if error and error.cause else error and error.message
            self._progress.say(f"    {step} failed: {str(cause).strip()}")


@dataclass
class Runs:
    """The jobs of the definitions and the instance they are run against."""

    instance: dg.DagsterInstance
    definitions: dg.Definitions
    progress: Progress

    @classmethod
    @contextmanager
    def open(cls, progress: Progress) -> Iterator["Runs"]:
        """The runs of the instance in DAGSTER_HOME."""

        def lines(context: dg.InitLoggerContext) -> logging.Logger:
            logger = logging.Logger("tspace.demo", level=logging.DEBUG)
            logger.addHandler(_Lines(progress))
            return logger

        loggers = {LOGGER: dg.LoggerDefinition(lines, description="lines of the demo")}
        definitions = dg.Definitions.merge(build(), dg.Definitions(loggers=loggers))
        home = Path(os.environ["DAGSTER_HOME"])
        # Steps print here anyway; the processes that capture prints would answer Ctrl-C with tracebacks.
        ref = InstanceRef.from_dir(str(home), overrides={"compute_logs": NO_CAPTURE})
        with dg.DagsterInstance.from_ref(ref) as instance:
            yield cls(instance, definitions, progress)

    def register(self, keys: Sequence[str]) -> None:
        """Make logs known as partitions."""
        name = str(LOGS.name)
        known = set(self.instance.get_dynamic_partitions(name))
        new = [key for key in keys if key not in known]
        if new:
            self.instance.add_dynamic_partitions(name, new)

    def execute(
        self,
        job: str,
        partition: str | None,
        what: str,
        config: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Carry out a job.

        Raises:
            RunFailedError: names the run and where to look.
        """
        self.progress.begin(what)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = self.definitions.resolve_job_def(job).execute_in_process(
                instance=self.instance,
                partition_key=partition,
                tags=tags,
                run_config={"loggers": {LOGGER: {}}, **(config or {})},
                raise_on_error=False,
            )
        if not result.success and _interrupted(self.instance, result.run_id):
            raise KeyboardInterrupt
        if not result.success:
            message = f"run {result.run_id} of job {job} failed; `make ui` shows it under Runs"
            raise RunFailedError(message)

    def newest(self, asset: str, partitions: Sequence[str]) -> float:
        """Time of the newest materialization of the partitions, s since 1970; 0 if there is none."""
        records = self.instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=dg.AssetKey(asset), asset_partitions=list(partitions)), limit=1
        ).records
        return records[0].timestamp if records else 0.0

    def up_to_date(self, asset: str, partition: str, *, after: float, vehicle: Vehicle) -> bool:
        """Whether a partition is newer than ``after`` and than every file of conf/ that it depends on."""
        conf = settings().conf_dir
        files = [
            conf / "vehicles" / f"{vehicle.id}.yaml",
            conf / vehicle.torque_map.default_csv,
            *(conf / "hyperparameters").glob("*.yaml"),
            *(conf / "drivers").glob("*.yaml"),
            *vehicle.dbc_files(),
        ]
        needed = max(after, *(file.stat().st_mtime for file in files))
        return self.newest(asset, [partition]) > needed


def _interrupted(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Whether a run ended because somebody stopped it; Dagster catches Ctrl-C itself."""
    failures = {dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.RUN_FAILURE}
    for entry in instance.all_logs(run_id, of_type=failures):
        event = entry.dagster_event
        if event is None:
            continue
        if event.event_type is dg.DagsterEventType.RUN_FAILURE and "interrupted" in (event.message or ""):
            return True
        error = event.step_failure_data.error if event.is_step_failure else None
        if error is not None and error.cls_name == "DagsterExecutionInterruptedError":
            return True
    return False
