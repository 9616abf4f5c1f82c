"""Jobs that train and evaluate."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import dagster as dg

from tspace_pipelines.defs.training.assets import AGENTS

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

RETRAIN = "retrain"
_NOT_OVER = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def retrain(agents: Sequence[str]) -> "UnresolvedAssetJobDefinition":
    """The job that retrains the agents of the installation.

    One run for all of them: they learn from one buffer and are compared with each other. One whose training
    has failed keeps the evaluation from being made; the others are trained.
    """
    return dg.define_asset_job(
        RETRAIN,
        # Whether the new agent may be released is asked where that is wanted (evaluate_and_release): a night
        # whose agent is no better is no failed run.
        selection=dg.AssetSelection.assets(
            "replay_buffer", *(f"{agent}_checkpoint" for agent in agents), "policy_evaluation"
        )
        - dg.AssetSelection.checks(dg.AssetCheckKey(dg.AssetKey("policy_evaluation"), "release_bar")),
        description=(
            f"One vehicle: replay buffer from all checked episodes, a new agent ({', '.join(agents)}), the "
            "evaluation of its latest agents."
        ),
        tags={"tspace/lane": "training"},
    )


def unfinished_run(instance: dg.DagsterInstance, vehicle_id: str) -> str | None:
    """Id of a retraining of the vehicle that waits or goes on; None: there is none."""
    mine = dg.RunsFilter(job_name=RETRAIN, statuses=_NOT_OVER, tags={"dagster/partition": vehicle_id})
    runs = instance.get_runs(mine, limit=1)
    return runs[0].run_id if runs else None


train_all_agents = dg.define_asset_job(
    "train_all_agents",
    selection=["replay_buffer", *(f"{agent}_checkpoint" for agent in AGENTS)],
    description="One vehicle: replay buffer from all checked episodes, and each kind of agent trained on it.",
    tags={"tspace/lane": "training"},
)
