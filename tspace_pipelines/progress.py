"""Lines on the terminal that say what goes on, at least every few seconds."""

import sys
import threading
import time
from types import TracebackType
from typing import Self, TextIO

SILENCE_S = 5.0
"""After this time without a line, one says that the work goes on."""


class Progress:
    """Prints lines with the time since the start; a thread of its own breaks long silences."""

    def __init__(self, stream: TextIO | None = None, silence_s: float = SILENCE_S) -> None:
        self._stream = stream or sys.stdout
        self._silence_s = silence_s
        self._began = time.monotonic()
        self._last = self._began
        self._step = ""
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def begin(self, step: str) -> None:
        """A step begins; it is named again if it takes long."""
        self._step = step
        self.say(step)

    def done(self, result: str) -> None:
        """The step has given a result."""
        self.say(f"    {result}")

    def say(self, text: str) -> None:
        """A line with the time since the start."""
        with self._lock:
            now = time.monotonic()
            self._last = now
            self._write(f"[{now - self._began:4.0f} s] {text}")

    def plain(self, text: str) -> None:
        """Text as it is."""
        with self._lock:
            self._write(text)

    def _write(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()

    def _watch(self) -> None:
        while not self._stop.wait(self._silence_s / 8):
            if time.monotonic() - self._last > self._silence_s:
                self.say(f"    still at: {self._step.strip()}")
