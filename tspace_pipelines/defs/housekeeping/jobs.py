"""Removal of what the rules of conf/retention.yaml let go."""

import time
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from tspace_pipelines.metadata import Metadata, clear_failure, table
from tspace_pipelines.resources import LakeResource

if TYPE_CHECKING:
    from tspace_core.storage.retention import Plan, Verdict

ROWS_SHOWN = 200


class RetentionConfig(dg.Config):
    """What a person may choose at the launchpad; the rules are in conf/retention.yaml."""

    dry_run: bool = Field(default=True, description="only show what goes; False removes it")
    areas: list[str] = Field(default=[], description="only these areas; none: all that have a rule")


@dg.op(description="Shows what goes by the rules of conf/retention.yaml and, asked to, removes it.")
def remove_old(context: dg.OpExecutionContext, config: RetentionConfig, lake: LakeResource) -> None:
    """Plan, show, and where it is no dry run remove; fails if something could not be removed."""
    from tspace_core.config import settings
    from tspace_core.config.retention import load_retention
    from tspace_core.storage.retention import apply_retention, plan_retention

    with clear_failure():
        found = lake.open()
        plan = plan_retention(
            found, load_retention(), now=time.time(), out_dir=settings().out_dir, areas=config.areas
        )
    metadata = _shown(plan)
    failed: dict[str, str] = {}
    if not config.dry_run:
        done = apply_retention(found, plan, tell=context.log.info)
        failed = done.failed
        metadata |= {
            "removed": dg.MetadataValue.int(done.removed),
            "removed_bytes": dg.MetadataValue.int(done.size),
            "left": table([{"item": name, "reason": why} for name, why in done.stayed.items()]),
            "failed": table([{"partition": name, "reason": why} for name, why in failed.items()]),
        }
    what = "would go" if config.dry_run else "planned"
    context.log.info("%d items, %d bytes %s", len(plan.goes), plan.size, what)
    context.add_output_metadata(metadata)
    if failed:
        text = "; ".join(f"{name}: {why}" for name, why in failed.items())
        raise dg.Failure(description=f"not removed: {text}", metadata=metadata, allow_retries=False)


def _shown(plan: "Plan") -> Metadata:
    return {
        "goes": table([_row(verdict) for verdict in plan.goes[:ROWS_SHOWN]]),
        "stays": table([_row(verdict) for verdict in plan.stays[:ROWS_SHOWN]]),
        "items": dg.MetadataValue.int(len(plan.goes)),
        "bytes": dg.MetadataValue.int(plan.size),
        "doubts": table([{"area": area, "reason": why} for area, why in plan.doubts.items()]),
    }


def _row(verdict: "Verdict") -> dict[str, object]:
    item = verdict.item
    row: dict[str, object] = {
        "area": item.area,
        "name": item.name,
        "bytes": item.size,
        "rule": verdict.reason,
    }
    return row if verdict.kept is None else {**row, "in use": verdict.kept}


@dg.job(
    description="What goes by the rules of conf/retention.yaml; removes it only with dry_run: false.",
    tags={"tspace/lane": "logs"},
)
def apply_retention() -> None:
    """Show or remove what the rules let go."""
    remove_old()
