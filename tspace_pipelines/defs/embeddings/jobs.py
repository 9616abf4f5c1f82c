"""Jobs that embed driving situations."""

import dagster as dg

embed_situations = dg.define_asset_job(
    "embed_situations",
    selection=["situation_embeddings"],
    description="Vectors of one vehicle's new episodes, by its latest encoder.",
    tags={"tspace/lane": "embeddings"},
)
