"""What every log reader is."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from tspace_core.can.frames import FrameBatch
from tspace_core.can.report import ReadReport
from tspace_core.errors import LogReadError

DEFAULT_BATCH = 1 << 20
ABSOLUTE_FROM_NS = 631_152_000 * 10**9
"""Stamps from 1990-01-01 on are taken as absolute, as python-can does: no log clock runs for 20 years."""


class LogReader(ABC):
    """Reads one log of one format as batches of frames, in log order, nothing sorted.

    Args:
        path: the log, compressed with gzip or not.
        report: where losses are counted; a new one if None.

    Attributes:
        format: name of the format, as in the registry.
        endings: usual endings of its files; they only decide where the content fits several formats.
    """

    format: ClassVar[str]
    endings: ClassVar[tuple[str, ...]]

    def __init__(self, path: Path, report: ReadReport | None = None) -> None:
        self.path = path
        self.report = ReadReport() if report is None else report

    @classmethod
    @abstractmethod
    def matches(cls, head: bytes, path: Path) -> bool:
        """Whether the content's first bytes `head` (up to 64 KiB, gzip undone) can be this format."""

    def batches(self, max_frames: int = DEFAULT_BATCH) -> Iterator[FrameBatch]:
        """The log's frames; every call reads the file and counts into the report anew.

        Args:
            max_frames: frames in a batch at most; it bounds the memory and changes nothing else.

        Raises:
            LogReadError: the file cannot be opened, or is broken from the start.
        """
        if max_frames < 1:
            message = f"max_frames is {max_frames}, expected at least 1"
            raise LogReadError(message)
        first = True
        for batch in self._read(max_frames):
            if first:
                self.report.stamps_are_absolute = int(batch.time[0]) >= ABSOLUTE_FROM_NS
                first = False
            yield batch

    @abstractmethod
    def _read(self, max_frames: int) -> Iterator[FrameBatch]:
        """Yields batches that are not empty."""
