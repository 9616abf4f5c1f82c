"""Jobs that build replay buffers."""

import dagster as dg

build_replay_buffer = dg.define_asset_job(
    "build_replay_buffer",
    selection=["replay_buffer"],
    description="One vehicle's replay buffer from all of its checked episodes.",
    tags={"tspace/lane": "replay"},
)
