"""An online episode as Dagster sees it: a materialization of ``episodes`` and its check, once an episode.

A long run has no end to be checked at, so the check of the asset is carried out here, before the event: bad
episodes are in the quarantine then, the check is red, and what learns from episodes does not count them.

A run that dies between storing an episode and reporting it leaves one that Dagster does not know, or knows
without a check. The vehicle's next run reports it (``EpisodeReporter.catch_up``).
"""

from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluationTargetMaterializationData,
)

from tspace_core.config import Vehicle
from tspace_core.errors import TspaceError
from tspace_core.storage.lake import Lake, RawLog
from tspace_pipelines.metadata import as_metadata, table
from tspace_pipelines.new_episodes import CHECK, EPISODES, RunVerdicts
from tspace_pipelines.partitions import LOGS, partition_key

if TYPE_CHECKING:
    from tspace_core.online.results import EpisodeResult
    from tspace_core.storage.summaries import EpisodesSummary
    from tspace_pipelines.quarantine import Bad

MOST_CAUGHT_UP = 20
"""A person waits at the vehicle meanwhile; the next run goes on."""


class EpisodeReporter:
    """Called with every stored episode, between episodes and off the control path.

    Args:
        context: of the op that drives.
        lake: where the episode lies.
        vehicle: whose it is.
    """

    def __init__(self, context: dg.OpExecutionContext, lake: Lake, vehicle: Vehicle) -> None:
        self._context = context
        self._lake = lake
        self._vehicle = vehicle

    def __call__(self, result: "EpisodeResult") -> None:
        """Check the episode and report it."""
        learned = result.learned
        more = {
            "number": result.number,
            "end_reason": result.reason,
            "total_reward": result.total_reward,
            "running_reward": result.running_reward,
            "flashes": result.flashes,
            "decision_ms": result.latency_ms,
            "learned": learned.model_dump(exclude={"kind", "checkpoint"}) if learned else None,
            "checkpoint": result.checkpoint,
            "mlflow_run": result.tracked,
            "training_log": result.training_log,
        }
        self._report(result.key, result.summary, more, result.line())

    def catch_up(self) -> list[str]:
        """Report the vehicle's newest online episodes that Dagster does not know yet; return their keys.

        One that cannot be reported is logged and left: the vehicle waits to be driven.
        """
        from tspace_core.storage.online_episodes import is_online, read_online_summary

        keys = [log.key for log in self._lake.episode_logs(self._vehicle.id) if is_online(log)]
        known = self._context.instance.get_materialized_partitions(EPISODES)
        missed = [key for key in keys if key not in known]
        # Only the one that was reported last can lack its check.
        last = [key for key in keys if key in known][-1:]
        missed += [key for key in last if not self._was_checked(key)]
        reported = []
        for key in missed[-MOST_CAUGHT_UP:]:
            try:
                summary = read_online_summary(self._lake, key)
                line = "reported later: the run that stored it could not, or was none of Dagster's"
                self._report(key, summary, told_by_log(self._lake, key), line)
            except TspaceError as error:
                self._context.log.warning("%s could not be reported: %s", key, error)
                continue
            reported.append(key)
        return reported

    def _report(self, key: str, summary: "EpisodesSummary", more: dict[str, object], line: str) -> None:
        from tspace_pipelines.quarantine import check_episodes

        partition = partition_key(key)
        self._context.instance.add_dynamic_partitions(str(LOGS.name), [partition])
        good, records, bad = check_episodes(self._lake, self._lake.episode_log(key), self._vehicle)
        self._context.log_event(
            dg.AssetMaterialization(
                asset_key=EPISODES,
                partition=partition,
                metadata=online_metadata(self._vehicle, summary, more),
                description=line,
            )
        )
        # Its annotation forgets checks, which it takes like the others.
        self._context.log_event(self._check(partition, good, records, bad))  # type: ignore[arg-type]

    def _check(self, key: str, good: int, records: int, bad: "Bad") -> dg.AssetCheckEvaluation:
        event = self._newest(key)
        return dg.AssetCheckEvaluation(
            asset_key=EPISODES,
            check_name=CHECK,
            passed=not bad,
            partition=key,
            blocking=True,
            severity=dg.AssetCheckSeverity.ERROR,
            target_materialization_data=AssetCheckEvaluationTargetMaterializationData(
                storage_id=event.storage_id, run_id=self._context.run_id, timestamp=event.timestamp
            ),
            metadata={
                "episodes": dg.MetadataValue.int(good),
                "records": dg.MetadataValue.int(records),
                "quarantined": table([{"file": str(path), "reason": why} for path, why in bad.items()]),
            },
            description=" ".join(bad.values()) or None,
        )

    def _was_checked(self, key: str) -> bool:
        event = self._newest(key)
        verdicts = RunVerdicts.read(self._context.instance, event.run_id)
        return not verdicts.over or event.storage_id in verdicts.passed or bool(verdicts.other)

    def _newest(self, key: str) -> dg.EventLogRecord:
        (event,) = self._context.instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=EPISODES, asset_partitions=[key]), limit=1
        ).records
        return event


def told_by_log(lake: Lake, key: str) -> dict[str, object]:
    """What an online episode's training log says of it as a whole; nothing where it has none."""
    from tspace_core.storage.lake import read_json

    path = lake.training_log(lake.log_of(key))
    if not path.is_file():
        return {}
    log = read_json(path)
    names = {
        "number": "episode",
        "end_reason": "end_reason",
        "total_reward": "total_reward",
        "running_reward": "running_reward",
        "decision_ms": "latency_ms",
        "learned": "learning",
        "mlflow_run": "mlflow_run",
    }
    return {name: log.get(key) for name, key in names.items()} | {"training_log": path}


def online_metadata(vehicle: Vehicle, summary: "EpisodesSummary", more: dict[str, object]) -> dict[str, Any]:
    """What ``episodes`` shows of an online episode; the plot is of the pieces that are in the lake."""
    from tspace_pipelines.episode_figures import episode_strips

    metadata = {
        "dagster/row_count": summary.records,
        **as_metadata(summary.model_dump(exclude={"key", "fingerprint"})),
        **as_metadata(more),
    }
    paths = [path for path in summary.paths if path.is_file()]
    if paths:
        metadata["plot"] = episode_strips(f"{summary.key}: records", vehicle.sampling.signals[0], paths)
    return metadata


def materialize_online(lake: Lake, log: RawLog, vehicle: Vehicle) -> dg.MaterializeResult[None]:
    """Report a stored online episode again, as a person may ask for: nothing can be made anew of it."""
    from tspace_core.storage.online_episodes import read_online_summary

    summary = read_online_summary(lake, log.key)
    return dg.MaterializeResult(
        metadata=online_metadata(vehicle, summary, told_by_log(lake, log.key)),
        data_version=dg.DataVersion(summary.fingerprint),
    )
