"""Readers of raw CAN logs: one module a format, one line in the registry."""

from tspace_core.can.readers.base import LogReader
from tspace_core.can.readers.registry import FORMATS, TRIP_TABLE, WINDOW_LOG, detect_format, open_log

__all__ = ["FORMATS", "TRIP_TABLE", "WINDOW_LOG", "LogReader", "detect_format", "open_log"]
