"""What the trained agents are worth, and which of them drives; a partition a vehicle."""

from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from tspace_core.config import load_vehicle
from tspace_pipelines.defs.replay.assets import NIGHTLY
from tspace_pipelines.defs.training.assets import AGENTS
from tspace_pipelines.defs.training.resources import TrackingResource
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
    static_generations: int = Field(
        default=16, ge=0, description="effort of the search for the best static map, kept once found; 0: none"
    )
    report: str = Field(default="", description="folder below out_dir; default: evaluation/<vehicle>")
    command: str = Field(default="", description="that made it, shown in the report")


@dg.asset(
    deps=[f"{agent}_checkpoint" for agent in AGENTS],
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
    """Energy at equal distance and trip time: the latest agents against map and baselines, in the twin.

    An agent that cannot be loaded for the vehicle is left out, the metadata say why; it cannot be released.
    A vehicle without a twin cannot be driven: what its logs say is reported as an estimate, no proof.
    """
    vehicle = load_vehicle(context.partition_key)
    with clear_failure():
        if vehicle.twin is None:
            from tspace_pipelines.evaluation_run import evaluate_on_logs

            return dg.MaterializeResult(
                metadata=as_metadata(evaluate_on_logs(lake.open(), vehicle, context.log.warning))
            )
        from tspace_pipelines.evaluation_run import evaluate_in_twin

        result = evaluate_in_twin(
            lake.open(),
            vehicle,
            reports.folder(config.report or f"evaluation/{vehicle.id}"),
            drivers=config.drivers,
            seeds=config.seeds,
            cycle=config.cycle,
            static_generations=config.static_generations,
            command=config.command or f"Dagster run {context.run.run_id}",
            tell=context.log.info,
            warn=context.log.warning,
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
    static = subject.against_static
    findings = [
        {"agent": line.agent, "rule": found.rule, "passed": found.passed, "what": found.sentence}
        for line in result.releases
        for found in line.findings
    ]
    estimates = result.off_policy.estimates
    return {
        "dagster/row_count": len(result.comparison.drives),
        **as_metadata(
            {
                "twin": True,
                "subject": subject.name,
                "verdict": subject.verdict.value,
                "finding": subject.sentence,
                "saving_percent": subject.saving_percent.mean if subject.saving_percent else None,
                "against_best_static": None if static is None else static.sentence,
                "share_of_best_static": None if static is None else static.share,
                "clears_release_bar": result.releases[0].passed,
                "guard_violations": None if subject.guard is None else subject.guard.violated,
                "off_policy_estimate": " ".join(
                    f"{name}: {item.sentence}" for name, item in estimates.items()
                )
                or result.off_policy.note,
                "drivers": list(summary.drivers),
                "seeds": list(summary.seeds),
                "cycle": summary.cycle,
                "problems": [problem for item in summary.candidates for problem in item.problems],
                "left_out": dict(result.left_out) or None,
                "run": result.trained[0].run,
                "content": result.evidence[0].sha256,
                "report": result.report,
            }
        ),
        "report_link": dg.MetadataValue.url(result.report.resolve().as_uri()),
        "candidates": table(rows),
        "release_bar": table(findings),
        "plot": plot(energy_saving(summary)),
    }


class ReleaseConfig(dg.Config):
    """What is released."""

    agent: str = Field(default="", description="kind of agent; default: the best of the newest evaluation")
    by: str = Field(default="", description="who releases; default: the Dagster run")


@dg.asset(
    deps=[policy_evaluation],
    partitions_def=VEHICLES,
    group_name="evaluation",
    owners=["team:tspace"],
    kinds={"mlflow"},
    tags={"layer": "release"},
)
def policy_release(
    context: dg.AssetExecutionContext, config: ReleaseConfig, lake: LakeResource, tracking: TrackingResource
) -> dg.MaterializeResult[None]:
    """The vehicle's champion: the best agent of the newest evaluation, if it clears the release bar.

    The lake's pointer is what vehicles read, from their next episode on; MLflow's alias ``champion`` follows.
    Where MLflow is out of reach the release holds, and the check ``registry_in_step`` says what is missing.
    """
    from tspace_core.errors import TrackingError
    from tspace_pipelines.release_run import release_best

    vehicle = load_vehicle(context.partition_key)
    with clear_failure():
        found = lake.open()
        champion = release_best(
            found, vehicle, agent=config.agent, by=config.by or f"Dagster run {context.run.run_id}"
        )
        registry: dict[str, Any]
        try:
            from tspace_core.agents.registry import follow_champion, model_name

            stands = follow_champion(found, vehicle.id, uri=tracking.uri)
            registry = {"registry": model_name(vehicle.id), "version": stands and stands.version}
        except TrackingError as error:
            context.log.warning(str(error))
            registry = {"registry": f"not told yet: {error}"}
    grounds = champion.grounds
    return dg.MaterializeResult(
        metadata=as_metadata(
            {
                "agent": champion.agent,
                "run": champion.run,
                "step": champion.step,
                "content": champion.sha256,
                "released_by": champion.released_by,
                "figures": {} if grounds is None else grounds.figures,
                **registry,
                "path": champion.checkpoint,
            }
        )
    )
