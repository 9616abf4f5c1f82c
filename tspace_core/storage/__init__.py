"""Data at rest: the Parquet lake, its catalogue and the stages that fill it, and replay buffers."""
