"""The one process that writes to the bus: CAN to datagrams, guarded flashes, audit log."""

import sys

# python-can reads MF4 logs by asammdf where that is installed, and imports it with pandas and polars: seconds
# and 200 MB that a bridge does without.
if "can" not in sys.modules and "asammdf" not in sys.modules:
    sys.modules["asammdf"] = None  # type: ignore[assignment]
    try:
        import can  # noqa: F401
    finally:
        del sys.modules["asammdf"]
