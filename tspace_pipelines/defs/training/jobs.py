"""Jobs that train and evaluate."""

import dagster as dg

retrain = dg.define_asset_job(
    "retrain",
    selection=["replay_buffer", "ddpg_checkpoint", "policy_evaluation"],
    description="One vehicle: replay buffer from all checked episodes, a new agent, its evaluation.",
    tags={"tspace/lane": "training"},
)
