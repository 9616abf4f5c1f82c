"""What failed a check is moved out of the way: into the lake's quarantine, with the reason beside it."""

import json
from collections.abc import Mapping

from tspace_core.config import Vehicle
from tspace_core.errors import RecordError
from tspace_core.objects.path import AnyPath, local_copy
from tspace_core.storage.files import write_text
from tspace_core.storage.lake import Lake, RawLog, read_json_version

Bad = dict[AnyPath, str]
"""Where a file that failed lies now, and why."""


def check_signals(lake: Lake, log: RawLog, vehicle: Vehicle) -> tuple[int, Bad]:
    """Hold a log's signals against their schema, a row group at a time; move the file away if it fails.

    Returns:
        Rows checked, and the file that failed.
    """
    import polars as pl
    import pyarrow.parquet as pq

    from tspace_core.records.schemas import validate_signals

    path = lake.signals(log)
    rows = 0
    try:
        with pq.ParquetFile(local_copy(path)) as file:
            for group in range(file.num_row_groups):
                frame = pl.DataFrame(file.read_row_group(group))
                validate_signals(frame, vehicle, place=f"{log.key}, row {rows} on")
                rows += len(frame)
    except RecordError as error:
        return rows, {lake.quarantine("signals", path, str(error)): str(error)}
    return rows, {}


def check_episodes(lake: Lake, log: RawLog, vehicle: Vehicle) -> tuple[int, int, Bad]:
    """Hold a log's episodes against their schema; those that fail are moved away and no longer visible.

    Returns:
        Good episodes, their records, and the files that failed.
    """
    import polars as pl

    from tspace_core.records.schemas import validate_episode

    reasons: dict[AnyPath, str] = {}
    records = 0
    paths = lake.episodes(log)
    for path in paths:
        frame = pl.read_parquet(local_copy(path), glob=False, hive_partitioning=False)
        try:
            validate_episode(frame, state_dim=vehicle.sampling.state_dim, place=f"{log.key}, {path.name}")
            records += len(frame) - 1
        except RecordError as error:
            reasons[path] = str(error)
    return len(paths) - len(reasons), records, _withdraw(lake, log, reasons) if reasons else {}


def _withdraw(lake: Lake, log: RawLog, reasons: Mapping[AnyPath, str]) -> Bad:
    """Take episodes out of their log's manifest first, so that no reader meets a gap, then move them.

    Raises:
        ObjectExistsError: the log's episodes were made anew meanwhile; nothing was moved.
    """
    manifest = lake.episodes_manifest(log)
    content, seen = read_json_version(manifest)
    names = {path.name for path in reasons}
    content["episodes"] = [entry for entry in content["episodes"] if entry["file"] not in names]
    # Another fingerprint than any inputs have: the stage makes the episodes anew when it is run again.
    content["summary"]["fingerprint"] = "quarantined"
    write_text(manifest, json.dumps(content, indent=1), seen=seen)
    return {lake.quarantine("episodes", path, reason): reason for path, reason in reasons.items()}
