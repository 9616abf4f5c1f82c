"""Checks of an agent's proposals."""

import dagster as dg
from pydantic import Field

from tspace_pipelines.defs.inference.assets import KEY
from tspace_pipelines.metadata import clear_failure, table
from tspace_pipelines.partitions import LOGS
from tspace_pipelines.resources import LakeResource


class PlausibleConfig(dg.Config):
    """When proposals are no longer plausible."""

    most_clipped: float = Field(
        default=0.9, ge=0, le=1, description="share of cells that may ask for more than the limits allow"
    )


@dg.asset_check(asset=KEY, blocking=True)
def policy_actions_plausible(
    context: dg.AssetCheckExecutionContext, config: PlausibleConfig, lake: LakeResource
) -> dg.AssetCheckResult:
    """All stored values are finite, and not nearly every cell of the proposals is clipped.

    An agent whose cells are clipped everywhere has left the range in which it can learn. Checked are the
    files of the run's logs; without partitions, those of all logs. Values that are not finite are an error;
    many clipped cells are a warning.
    """
    from tspace_core.agents.scoring_table import odd_values
    from tspace_core.objects.path import any_path

    lake.open()  # so that a bucket can be read
    keys = _keys(context)
    rows: list[dict[str, str]] = []
    records, clipped, severity = 0, 0.0, dg.AssetCheckSeverity.WARN
    with clear_failure():
        for key in keys:
            path = _path(context, key)
            if path is None:
                rows.append({"log": key, "what": "was never materialized"})
                severity = dg.AssetCheckSeverity.ERROR
                continue
            found = odd_values(any_path(path))
            records += found.records
            clipped += found.clipped * found.records
            if found.not_finite:
                what = f"{found.not_finite} values are not finite, first in {found.first}"
                rows.append({"log": key, "what": what})
                severity = dg.AssetCheckSeverity.ERROR
            if found.clipped > config.most_clipped:
                share = f"{100 * found.clipped:.1f} % of the cells are clipped"
                rows.append({"log": key, "what": f"{share}, the limit is {100 * config.most_clipped:g} %"})
    return dg.AssetCheckResult(
        passed=not rows,
        severity=severity,
        metadata={
            "logs": len(keys),
            "records": records,
            "clipped": clipped / records if records else 0.0,
            "odd": table(rows),
        },
        description="; ".join(f"{row['log']}: {row['what']}" for row in rows[:5]) or None,
    )


def _keys(context: dg.AssetCheckExecutionContext) -> list[str]:
    if context.has_partition_key or context.has_partition_key_range:
        return list(context.partition_keys)
    known = context.instance.get_dynamic_partitions(str(LOGS.name))
    done = context.instance.get_materialized_partitions(KEY)
    return [key for key in known if key in done]


def _path(context: dg.AssetCheckExecutionContext, key: str) -> str | None:
    """Where the newest materialization of a log says that its file lies."""
    chosen = dg.AssetRecordsFilter(asset_key=KEY, asset_partitions=[key])
    records = context.instance.fetch_materializations(chosen, limit=1).records
    event = records[0].asset_materialization if records else None
    return None if event is None else str(event.metadata["path"].value)
