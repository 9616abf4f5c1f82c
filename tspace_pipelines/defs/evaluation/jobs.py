"""Jobs that evaluate and release."""

import dagster as dg

evaluate_and_release = dg.define_asset_job(
    "evaluate_and_release",
    selection=["policy_evaluation", "policy_release"],
    description=(
        "One vehicle: its latest agents driven in the twin; the best becomes the champion if it clears "
        "conf/release_bar.yaml."
    ),
    tags={"tspace/lane": "training"},
)
