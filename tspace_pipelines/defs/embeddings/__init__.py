"""Driving situations as vectors."""

import dagster as dg

from tspace_pipelines.defs.embeddings import assets, jobs


def definitions() -> dg.Definitions:
    """The area's definitions."""
    return dg.Definitions(
        assets=[assets.situation_encoder, assets.situation_embeddings], jobs=[jobs.embed_situations]
    )
