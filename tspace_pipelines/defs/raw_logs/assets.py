"""From raw logs to signals on the vehicle's grid, a partition a log."""

import dagster as dg

from tspace_core.config import load_vehicle
from tspace_pipelines.metadata import as_metadata, clear_failure, table
from tspace_pipelines.partitions import LOGS
from tspace_pipelines.resources import LakeResource

GROUP = "raw_logs"
OWNERS = ["team:tspace"]
MOST_STRIPS = 6
"""Signals in the plot, the first of the vehicle's file."""


@dg.asset(
    partitions_def=LOGS,
    group_name=GROUP,
    owners=OWNERS,
    kinds={"file"},
    tags={"layer": "raw"},
)
def raw_can_logs(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult[None]:
    """Logs as they came, immutable; each is held against the hash taken when it was stored."""
    from tspace_core.can.readers import detect_format
    from tspace_core.errors import StorageError
    from tspace_core.objects.path import local_copy
    from tspace_core.storage.files import sha256
    from tspace_core.storage.lake import read_json

    with clear_failure():
        log = lake.open().raw_log(context.partition_key)
        load_vehicle(log.vehicle_id)
        local = local_copy(log.path)  # fetched once for all stages
        content = sha256(local)
        origin = read_json(log.origin) if log.origin.is_file() else {}
        if origin and origin["sha256"] != content:
            message = (
                f"{log.path} has changed since it was stored (sha256 {content[:12]}..., was "
                f"{str(origin['sha256'])[:12]}...); bring the stored content back, or store "
                "the new one under another name"
            )
            raise StorageError(message)
        form = detect_format(local)
    return dg.MaterializeResult(
        metadata=as_metadata(
            {
                "vehicle": log.vehicle_id,
                "date": log.date,
                "date_from": origin.get("date_source", "folder"),
                "format": form,
                "bytes": log.path.stat().st_size,
                "sha256": content,
                "flash_journal": log.journal.is_file(),
                "source": origin.get("source"),
                "path": log.path,
            }
        ),
        data_version=dg.DataVersion(content),
    )


@dg.asset(
    deps=["raw_can_logs"],
    partitions_def=LOGS,
    group_name=GROUP,
    owners=OWNERS,
    kinds={"parquet"},
    tags={"layer": "frames"},
)
def can_frames(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult[None]:
    """CAN frames of a log, parsed once; a trip table has none and is only counted."""
    from tspace_core.storage.frames_stage import store_frames

    found = lake.open()
    with clear_failure():
        log = found.raw_log(context.partition_key)
        summary = store_frames(found, log, load_vehicle(log.vehicle_id))
    content = summary.model_dump(exclude={"key", "fingerprint"})
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": summary.frames,
            **as_metadata(content),
            "dropped_frames": sum(summary.dropped.values()),
        },
        data_version=dg.DataVersion(summary.fingerprint),
    )


@dg.asset(
    deps=["can_frames"],
    partitions_def=LOGS,
    group_name=GROUP,
    owners=OWNERS,
    kinds={"parquet", "polars"},
    tags={"layer": "signals"},
)
def can_signals(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult[None]:
    """Signals of a log, decoded and on the vehicle's grid, with energy and distance."""
    from tspace_core.storage import signals_table
    from tspace_core.storage.signals_stage import store_signals
    from tspace_pipelines.strip_chart import Strip, strip_chart

    found = lake.open()
    with clear_failure():
        log = found.raw_log(context.partition_key)
        vehicle = load_vehicle(log.vehicle_id)
        summary = store_signals(found, log, vehicle)
    content = summary.model_dump(exclude={"key", "fingerprint", "signals"})
    metadata = {
        "dagster/row_count": summary.rows,
        **as_metadata(content),
        "signals": table(
            [
                {
                    "signal": name,
                    "unit": vehicle.signals[name].unit,
                    **statistics.model_dump(),
                    "rows without a fresh value": summary.stale_rows[name],
                }
                for name, statistics in summary.signals.items()
            ]
        ),
        "dropped_samples": sum(summary.dropped.values()),
    }
    if summary.rows:
        shown = list(vehicle.signals)[:MOST_STRIPS]
        grid = signals_table.read_grid(summary.path, shown)
        time_s = (grid.log_time_ns - grid.log_time_ns[0]) / 1e9
        strips = [
            Strip(f"{name} {vehicle.signals[name].unit}", time_s, grid.values[name].astype("f8"))
            for name in shown
        ]
        metadata["plot"] = strip_chart(context.partition_key, strips)
    return dg.MaterializeResult(metadata=metadata, data_version=dg.DataVersion(summary.fingerprint))
