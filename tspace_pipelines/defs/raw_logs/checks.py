"""Checks that stop the way from logs to episodes."""

import dagster as dg

from tspace_core.config import load_vehicle
from tspace_pipelines.metadata import clear_failure, table
from tspace_pipelines.resources import LakeResource


@dg.asset_check(asset="can_signals", blocking=True)
def signals_schema(context: dg.AssetCheckExecutionContext, lake: LakeResource) -> dg.AssetCheckResult:
    """Signals hold their pandera schema: columns, types, the ranges of the vehicle's file, finite values.

    What does not is moved to the quarantine with the reason. Without a partition, every log is checked.
    """
    from tspace_pipelines.quarantine import Bad, check_signals

    found = lake.open()
    rows, bad = 0, Bad()
    with clear_failure():
        if context.has_partition_key:
            logs = [found.raw_log(context.partition_key)]
        else:
            logs = [log for log in found.raw_logs() if found.signals(log).is_file()]
        for log in logs:
            checked, failed = check_signals(found, log, load_vehicle(log.vehicle_id))
            rows, bad = rows + checked, bad | failed
    return dg.AssetCheckResult(
        passed=not bad,
        metadata={
            "logs": len(logs),
            "rows": rows,
            "quarantined": table([{"file": str(path), "reason": reason} for path, reason in bad.items()]),
        },
        description=" ".join(bad.values()) or None,
    )
