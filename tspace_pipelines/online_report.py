"""An online episode as Dagster sees it: a materialization of ``episodes`` and its check, once an episode.

A long run has no end to be checked at, so the check of the asset is carried out here, before the event: bad
episodes are in the quarantine then, the check is red, and what learns from episodes does not count them.
"""

from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluationTargetMaterializationData,
)

from tspace_core.config import Vehicle
from tspace_core.storage.lake import Lake
from tspace_pipelines.episode_figures import episode_strips
from tspace_pipelines.metadata import as_metadata, table
from tspace_pipelines.new_episodes import CHECK, EPISODES
from tspace_pipelines.partitions import LOGS, partition_key

if TYPE_CHECKING:
    from tspace_core.online.results import EpisodeResult
    from tspace_pipelines.quarantine import Bad


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
        from tspace_pipelines.quarantine import check_episodes

        key = partition_key(result.key)
        self._context.instance.add_dynamic_partitions(str(LOGS.name), [key])
        good, records, bad = check_episodes(self._lake, self._lake.episode_log(result.key), self._vehicle)
        self._context.log_event(
            dg.AssetMaterialization(
                asset_key=EPISODES, partition=key, metadata=self._metadata(result), description=result.line()
            )
        )
        # Its annotation forgets checks, which it takes like the others.
        self._context.log_event(self._check(key, good, records, bad))  # type: ignore[arg-type]

    def _metadata(self, result: "EpisodeResult") -> dict[str, Any]:
        summary = result.summary
        learned = result.learned
        metadata = {
            "dagster/row_count": summary.records,
            **as_metadata(summary.model_dump(exclude={"key", "fingerprint"})),
            **as_metadata(
                {
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
            ),
        }
        paths = [path for path in summary.paths if path.is_file()]
        if paths:
            signal = self._vehicle.sampling.signals[0]
            metadata["plot"] = episode_strips(f"{result.key}: records", signal, paths)
        return metadata

    def _check(self, key: str, good: int, records: int, bad: "Bad") -> dg.AssetCheckEvaluation:
        (event,) = self._context.instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=EPISODES, asset_partitions=[key]), limit=1
        ).records
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
