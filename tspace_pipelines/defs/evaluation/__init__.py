"""Evaluation of trained agents, and the release of those that are good enough."""

import dagster as dg

from tspace_core.config import settings
from tspace_pipelines.defs.evaluation import assets, checks, jobs
from tspace_pipelines.resources import ReportsResource


def definitions() -> dg.Definitions:
    """The area's definitions."""
    return dg.Definitions(
        assets=[assets.policy_evaluation, assets.policy_release],
        asset_checks=[checks.release_bar, checks.registry_in_step],
        jobs=[jobs.evaluate_and_release],
        resources={"reports": ReportsResource(out_dir=str(settings().out_dir))},
    )
