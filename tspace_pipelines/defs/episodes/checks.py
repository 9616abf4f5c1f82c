"""Checks that keep bad episodes out of replay and training."""

import dagster as dg

from tspace_core.config import load_vehicle
from tspace_pipelines.metadata import clear_failure, table
from tspace_pipelines.resources import LakeResource


@dg.asset_check(asset="episodes", blocking=True)
def episodes_schema(context: dg.AssetCheckExecutionContext, lake: LakeResource) -> dg.AssetCheckResult:
    """Episodes hold their pandera schema: lengths, finite values, actions within [-1, 1], ascending time.

    Those that do not are moved to the quarantine with the reason. Without a partition, every log is checked.
    """
    from tspace_pipelines.quarantine import Bad, check_episodes

    found = lake.open()
    good, records, bad = 0, 0, Bad()
    with clear_failure():
        if context.has_partition_key:
            logs = [found.episode_log(context.partition_key)]
        else:
            logs = found.episode_logs()
        for log in logs:
            more, rows, failed = check_episodes(found, log, load_vehicle(log.vehicle_id))
            good, records, bad = good + more, records + rows, bad | failed
    return dg.AssetCheckResult(
        passed=not bad,
        metadata={
            "logs": len(logs),
            "episodes": good,
            "records": records,
            "quarantined": table([{"file": str(path), "reason": reason} for path, reason in bad.items()]),
        },
        description=" ".join(bad.values()) or None,
    )
