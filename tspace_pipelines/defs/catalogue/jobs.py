"""Jobs that refresh the catalogue."""

import dagster as dg

refresh_catalogue = dg.define_asset_job(
    "refresh_catalogue", selection=["catalogue"], description="DuckDB views over what is in the lake now."
)
