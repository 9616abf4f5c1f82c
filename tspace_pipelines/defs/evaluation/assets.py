"""What the trained agents are worth, a partition a vehicle."""

from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from tspace_core.config import load_vehicle
from tspace_pipelines.defs.replay.assets import NIGHTLY
from tspace_pipelines.metadata import Metadata, as_metadata, clear_failure, plot, table
from tspace_pipelines.partitions import VEHICLES
from tspace_pipelines.resources import LakeResource, ReportsResource

if TYPE_CHECKING:
    from tspace_pipelines.evaluation_run import ClosedLoop


class EvaluationConfig(dg.Config):
    """What is driven in the twin."""

    drivers: list[str] = Field(default=[], description="simulated drivers; default: all of them")
    seeds: list[int] = Field(default=[0, 1, 2, 3, 4], description="of the drivers' feet")
    cycle: str = Field(default="truck_route", description="route")
    report: str = Field(default="", description="folder below out_dir; default: evaluation/<vehicle>")
    command: str = Field(default="", description="that made it, shown in the report")


@dg.asset(
    deps=["ddpg_checkpoint"],
    partitions_def=VEHICLES,
    group_name="evaluation",
    owners=["team:tspace"],
    kinds={"polars"},
    tags={"layer": "evaluation"},
    freshness_policy=NIGHTLY,
)
def policy_evaluation(
    context: dg.AssetExecutionContext,
    config: EvaluationConfig,
    lake: LakeResource,
    reports: ReportsResource,
) -> dg.MaterializeResult[None]:
    """Energy at equal distance and trip time: the agent against the default map and baselines, in the twin.

    A vehicle without a twin cannot be driven: its data and the critic's values are reported, as no proof.
    """
    vehicle = load_vehicle(context.partition_key)
    with clear_failure():
        if vehicle.twin is None:
            from tspace_pipelines.evaluation_run import evaluate_on_logs

            return dg.MaterializeResult(metadata=as_metadata(evaluate_on_logs(lake.open(), vehicle)))
        from tspace_pipelines.evaluation_run import evaluate_in_twin

        result = evaluate_in_twin(
            lake.open(),
            vehicle,
            reports.folder(config.report or f"evaluation/{vehicle.id}"),
            drivers=config.drivers,
            seeds=config.seeds,
            cycle=config.cycle,
            command=config.command or f"Dagster run {context.run.run_id}",
            tell=context.log.info,
        )
    return dg.MaterializeResult(metadata=_metadata(result))


def _metadata(result: "ClosedLoop") -> Metadata:
    from tspace_core.evaluation.figures import energy_saving

    summary = result.comparison.summary
    rows = [
        {
            "candidate": item.name,
            "Wh/km": item.energy_wh_per_km,
            "trip time s": item.trip_time_s,
            "saving %": "reference" if item.saving_percent is None else item.saving_percent.text(),
            "counted at equal trip time %": (
                "" if item.counted_saving_percent is None else item.counted_saving_percent.text()
            ),
            "drives": item.drives,
            "finished": item.finished,
            "verdict": item.verdict.value,
        }
        for item in summary.candidates
    ]
    subject = summary.subject
    return {
        "dagster/row_count": len(result.comparison.drives),
        **as_metadata(
            {
                "twin": True,
                "verdict": subject.verdict.value,
                "finding": subject.sentence,
                "saving_percent": subject.saving_percent.mean if subject.saving_percent else None,
                "drivers": list(summary.drivers),
                "seeds": list(summary.seeds),
                "cycle": summary.cycle,
                "problems": [problem for item in summary.candidates for problem in item.problems],
                "run": result.trained.run,
                "report": result.report,
            }
        ),
        "report_link": dg.MetadataValue.url(result.report.resolve().as_uri()),
        "candidates": table(rows),
        "plot": plot(energy_saving(summary)),
    }
