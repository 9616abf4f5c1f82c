"""What an agent would have done, a partition a log; a range of logs is one run."""

import time
import warnings
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from tspace_core.config import load_vehicle
from tspace_core.errors import TspaceError
from tspace_pipelines.defs.training.assets import AGENTS
from tspace_pipelines.metadata import Metadata, as_metadata, plot, table
from tspace_pipelines.partitions import LOGS, vehicle_of
from tspace_pipelines.resources import LakeResource

if TYPE_CHECKING:
    from tspace_core.agents.batch_runs import ScoreReport
    from tspace_core.agents.scores import Scores
    from tspace_core.config import Vehicle
    from tspace_core.storage.lake import Lake

KEY = dg.AssetKey("policy_actions")
_TOLD = 5
"""Failures that a run's error names; its table has all."""


class ScoringConfig(dg.Config):
    """What a person may choose at the launchpad."""

    checkpoint: str | None = Field(
        default=None,
        description="folder of a checkpoint, <agent>/<run>/<step> in the lake, or 'champion'; default: the "
        "latest trained agent of the kind that is released, or the champion where none was trained; where "
        "nothing is released, the agent that was trained last",
    )
    agent: str | None = Field(
        default=None, description="the latest trained agent of this kind instead: ddpg, rdpg or idql"
    )
    workers: int = Field(default=1, ge=1, description="processes; 1 scores in the run's own process")
    again: bool = Field(default=False, description="also logs whose scores are there already")


_NO_PARTITION = dg.SpecificPartitionsPartitionMapping([])
"""Dagster cannot map a log to its vehicle by the text of its key. With all partitions for all logs,
any vehicle's new agent would make every log stale: the edge is shown, and the metadata say which agent scored
what. Scoring again finds out by itself what a new agent leaves to do."""

with warnings.catch_warnings():
    # ``backfill_policy`` is marked as beta; without it a range of logs would be a run each.
    warnings.simplefilter("ignore", dg.BetaWarning)
    _one_run_a_range = dg.asset(
        key=KEY,
        deps=[
            "episodes",
            *(dg.AssetDep(f"{agent}_checkpoint", partition_mapping=_NO_PARTITION) for agent in AGENTS),
        ],
        partitions_def=LOGS,
        backfill_policy=dg.BackfillPolicy.single_run(),
        group_name="inference",
        owners=["team:tspace"],
        kinds={"torch", "parquet"},
        tags={"layer": "agent"},
    )


@_one_run_a_range
def policy_actions(
    context: dg.AssetExecutionContext, config: ScoringConfig, lake: LakeResource
) -> dg.MaterializeResult[None]:
    """Proposed map rows, the critic's values, clipped cells, distance to what was done: a row a record.

    Nothing was driven with these proposals: a higher value is the critic's opinion, no saving. Logs that
    fail, and vehicles without an agent, cost only themselves: the others are reported as materialized before
    the run fails.
    """
    found = lake.open()
    metadata: dict[str, Metadata] = {}
    failed: dict[str, str] = {}
    keys = list(context.partition_keys)
    for vehicle_id in dict.fromkeys(vehicle_of(key) for key in keys):
        mine = [key for key in keys if vehicle_of(key) == vehicle_id]
        try:
            shown, odd = _score(context, config, found, load_vehicle(vehicle_id), mine)
        except TspaceError as error:
            # Of this vehicle nothing can be scored: one line for all of its logs.
            failed[mine[0] if len(mine) == 1 else f"{vehicle_id}, {len(mine)} logs"] = str(error)
            continue
        metadata.update(shown)
        failed.update(odd)
    if failed:
        for key, values in metadata.items():
            context.log_event(dg.AssetMaterialization(asset_key=KEY, partition=key, metadata=values))
        told = [f"{key}: {text}" for key, text in failed.items()]
        more = f"; and {len(told) - _TOLD} more, see the table" if len(told) > _TOLD else ""
        raise dg.Failure(
            description="; ".join(told[:_TOLD]) + more,
            metadata={"failed": table([{"log": key, "why": text} for key, text in failed.items()])},
            allow_retries=False,
        )
    for key, values in metadata.items():
        context.add_asset_metadata(values, partition_key=key)
    return dg.MaterializeResult()


def _score(
    context: dg.AssetExecutionContext,
    config: ScoringConfig,
    lake: "Lake",
    vehicle: "Vehicle",
    keys: list[str],
) -> tuple[dict[str, Metadata], dict[str, str]]:
    """Metadata of the logs that have scores now, and what went wrong with the others."""
    from tspace_core.agents.batch_runs import choose_checkpoint, score_logs

    chosen = choose_checkpoint(lake, vehicle.id, config.checkpoint, agent=config.agent)
    context.log.info("%s: scored by %s", vehicle.id, chosen.why)
    began = time.monotonic()
    report = score_logs(
        lake,
        vehicle,
        [lake.log_of(key) for key in keys],
        chosen.checkpoint,
        workers=config.workers,
        again=config.again,
        tell=context.log.info,
    )
    seconds = time.monotonic() - began
    reused = set(report.skipped)
    shown = {
        key: {
            "dagster/row_count": scores.records,
            **as_metadata(
                {
                    **scores.model_dump(include=set(_SHOWN)),
                    **{f"distance_{name}": value for name, value in scores.distance_quantiles().items()},
                    "left_out": scores.left_out or None,
                    "reused": key in reused,
                    "scored_by": chosen.why,
                }
            ),
        }
        for key, scores in report.scores.items()
    }
    if shown:
        # Once a run and vehicle: a picture in each of ten thousand partitions would fill the event log.
        last = next(key for key in reversed(keys) if key in shown)
        shown[last] |= _whole(report, vehicle, seconds)
    return shown, report.failed


_SHOWN = (
    "episodes",
    "records",
    "q_proposal",
    "q_behaviour",
    "preferred",
    "clipped",
    "distance",
    "checkpoint",
    "agent",
    "run",
    "step",
    "path",
)


def _whole(report: "ScoreReport", vehicle: "Vehicle", seconds: float) -> Metadata:
    """What the logs of the run come to, with a plot."""
    import numpy as np

    from tspace_core.agents.scores import total
    from tspace_core.evaluation.figures import torque_map_change

    fresh: list[Scores] = [item for key, item in report.scores.items() if key not in report.skipped]
    whole = total(list(report.scores.values()))
    change = np.array(whole.change_nm)
    change[np.array(whole.flashes) == 0] = np.nan
    picture = torque_map_change(
        vehicle.default_map(),
        change,
        name="proposals",
        caption="The default torque map (left) and the mean change that the agent proposes in "
        f"{whole.records} recorded situations, after clipping (right), in Nm; grey cells were never "
        "proposed. Nothing was driven with it.",
    )
    return {
        **as_metadata(
            {
                "run_logs": len(report.scores),
                "run_records": whole.records,
                "run_records_per_s": sum(item.records for item in fresh) / seconds if fresh else None,
                "run_q_proposal": whole.q_proposal,
                "run_q_behaviour": whole.q_behaviour,
                "run_clipped": whole.clipped,
                "run_distance": whole.distance,
            }
        ),
        "plot": plot(picture),
    }
