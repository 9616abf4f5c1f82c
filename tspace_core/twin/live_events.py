"""What happens in the live twin as JSON lines, so that another process sees what the VCU really uses."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tspace_core.errors import TwinError

Tell = Callable[..., None]
"""Called with the event's name and its fields."""


class EventLog:
    """Writes one JSON object a line: ``time_ns`` (UTC), ``monotonic_ns``, ``event``, and the event's fields.

    Args:
        path: a file that lines are appended to, each flushed at once; None: ``write`` gets them.
        write: gets each line without its end.

    Raises:
        TwinError: the file cannot be opened.
    """

    def __init__(self, path: Path | None, write: Callable[[str], None]) -> None:
        self._lock = threading.Lock()
        self._write = write
        self._file = None
        if path is not None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._file = path.open("a", encoding="utf-8")
            except OSError as error:
                message = f"{path}: events cannot be written there ({error.strerror}); name another file"
                raise TwinError(message) from error

    def __call__(self, event: str, /, **fields: Any) -> None:
        """Write an event; any thread."""
        line = json.dumps(
            {"time_ns": time.time_ns(), "monotonic_ns": time.monotonic_ns(), "event": event, **fields}
        )
        with self._lock:
            if self._file is None:
                self._write(line)
            elif not self._file.closed:
                self._file.write(line + "\n")
                self._file.flush()

    def close(self) -> None:
        """Close the file; later events are dropped."""
        with self._lock:
            if self._file is not None:
                self._file.close()
