"""Search of hyperparameters, by hand."""

import dagster as dg

from tspace_pipelines.defs.tuning import jobs


def definitions() -> dg.Definitions:
    """The area's definitions; resources are those of training."""
    return dg.Definitions(jobs=[jobs.hyperparameter_sweep])
