"""Batch inference: what an agent would have done in all recorded situations."""

import dagster as dg

from tspace_pipelines.defs.inference import assets, checks, jobs


def definitions() -> dg.Definitions:
    """The area's definitions."""
    return dg.Definitions(
        assets=[assets.policy_actions],
        asset_checks=[checks.policy_actions_plausible],
        jobs=[jobs.score_policy],
    )
