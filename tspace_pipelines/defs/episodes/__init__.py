"""Episodes and their check."""

import dagster as dg

from tspace_pipelines.defs.episodes import assets, checks


def definitions() -> dg.Definitions:
    """The area's definitions."""
    return dg.Definitions(assets=[assets.episodes], asset_checks=[checks.episodes_schema])
