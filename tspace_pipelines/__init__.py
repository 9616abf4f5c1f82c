"""The pipeline of tspace in Dagster: what a person starts, watches or schedules.

Everything that knows about trucks, CAN and learning is in ``tspace_core``; here are assets, checks, jobs,
sensors and schedules around it. docs/dagster.md says how to use them.
"""
