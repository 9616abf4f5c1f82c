"""Evaluation of trained agents."""

import dagster as dg

from tspace_core.config import settings
from tspace_pipelines.defs.evaluation import assets
from tspace_pipelines.resources import ReportsResource


def definitions() -> dg.Definitions:
    """The area's definitions."""
    return dg.Definitions(
        assets=[assets.policy_evaluation],
        resources={"reports": ReportsResource(out_dir=str(settings().out_dir))},
    )
