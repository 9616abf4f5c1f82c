"""Checks of evaluation and release."""

from typing import TYPE_CHECKING

import dagster as dg

from tspace_core.config import load_vehicle
from tspace_pipelines.defs.evaluation.assets import policy_evaluation, policy_release
from tspace_pipelines.defs.training.resources import TrackingResource
from tspace_pipelines.metadata import clear_failure, table
from tspace_pipelines.partitions import VEHICLES
from tspace_pipelines.resources import LakeResource

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tspace_core.evaluation.release_bar import Evidence, Finding


@dg.asset_check(asset=policy_evaluation, blocking=True)
def release_bar(context: dg.AssetCheckExecutionContext, lake: LakeResource) -> dg.AssetCheckResult:
    """At least one agent of the newest evaluation clears conf/release_bar.yaml; else nothing is released.

    Checked are the run's vehicles; without partitions, those that were evaluated. A vehicle without a twin
    was not driven: that is a warning here, and its release refuses by itself.
    """
    from tspace_core.config.release import load_release_bar
    from tspace_core.evaluation.release_bar import judge_release, latest_evidence, passed

    rows, clear, below, undriven = [], [], [], []
    with clear_failure():
        found, bar = lake.open(), load_release_bar()
        for vehicle_id in _vehicles(context, "policy_evaluation"):
            if load_vehicle(vehicle_id).twin is None:
                undriven.append(f"{vehicle_id} has no twin: nothing was driven, so nothing can be released")
                continue
            judged = [(item, judge_release(item, bar)) for item in latest_evidence(found, vehicle_id)]
            rows += [
                {"vehicle": vehicle_id, "agent": item.agent, "run": item.run, **_row(finding)}
                for item, findings in judged
                for finding in findings
            ]
            good = [f"{vehicle_id}: {item.agent}" for item, findings in judged if passed(findings)]
            clear += good
            if not good:
                below.append(f"{vehicle_id}: {_why(judged)}")
    return dg.AssetCheckResult(
        passed=not below and not undriven,
        severity=dg.AssetCheckSeverity.ERROR if below else dg.AssetCheckSeverity.WARN,
        metadata={"clear": ", ".join(clear) or "none", "findings": table(rows)},
        description="; ".join([*below, *undriven]) or None,
    )


def _row(finding: "Finding") -> dict[str, object]:
    return {"rule": finding.rule, "passed": finding.passed, "what": finding.sentence}


def _why(judged: "Sequence[tuple[Evidence, tuple[Finding, ...]]]") -> str:
    return (
        "; ".join(
            f"{item.agent}: {', '.join(finding.sentence for finding in findings if not finding.passed)}"
            for item, findings in judged
        )
        or "no agent was driven: materialize policy_evaluation"
    )


def _vehicles(context: dg.AssetCheckExecutionContext, asset: str) -> list[str]:
    if context.has_partition_key or context.has_partition_key_range:
        return list(context.partition_keys)
    done = context.instance.get_materialized_partitions(dg.AssetKey(asset))
    return [key for key in VEHICLES.get_partition_keys() if key in done]


@dg.asset_check(asset=policy_release, blocking=True)
def registry_in_step(
    context: dg.AssetCheckExecutionContext, lake: LakeResource, tracking: TrackingResource
) -> dg.AssetCheckResult:
    """MLflow's alias stands at the champion of the lake; else ``tspace release --sync`` brings it there."""
    from tspace_core.agents.registry import ModelRegistry
    from tspace_core.errors import TrackingError
    from tspace_core.storage.champion import read_releases

    behind, versions = [], {}
    for vehicle_id in _vehicles(context, "policy_release"):
        with clear_failure():
            champion = read_releases(lake.open(), vehicle_id).champion
        try:
            stands = ModelRegistry(tracking.uri).champion(vehicle_id)
        except TrackingError as error:
            behind.append(f"{vehicle_id}: {error}")
            continue
        ours = "none" if champion is None else champion.sha256
        theirs = "none" if stands is None else stands.sha256
        versions[vehicle_id] = "none" if stands is None else stands.version
        if ours != theirs:
            behind.append(
                f"{vehicle_id}: the lake's champion is {ours[:12]}, MLflow's {theirs[:12]}: "
                "tspace release --sync"
            )
    return dg.AssetCheckResult(
        passed=not behind,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"versions": dg.MetadataValue.json(versions)},
        description="; ".join(behind) or None,
    )
