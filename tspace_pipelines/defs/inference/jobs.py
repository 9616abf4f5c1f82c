"""Jobs of batch inference."""

import dagster as dg

score_policy = dg.define_asset_job(
    "score_policy",
    selection=["policy_actions"],
    description="An agent's proposals for the episodes of one log, or of a range of logs in one run.",
    tags={"tspace/lane": "training"},
)
