"""A log's bytes, read once from front to end, gzip undone on the way."""

from pathlib import Path
from types import TracebackType
from typing import Self, cast

from isal import isal_zlib

from tspace_core.errors import LogReadError

InflateError = cast("type[Exception]", isal_zlib.error)
"""What isal raises on damaged data (its stub calls it an instance)."""

GZIP_MAGIC = b"\x1f\x8b"
GZIP_WINDOW = 31
PIECE = 1 << 14
"""Compressed bytes inflated at once: what damage inside gzip can cost of the data before it. At deflate's
highest ratio (1032) they make 16 MiB."""


class Source:
    """The content of a log file, compressed or not.

    Attributes:
        offset: bytes of content handed out so far.
        damage: why the content ends before it should, else None.

    Raises:
        LogReadError: the file cannot be opened or read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = 0
        self.damage: str | None = None
        self._held = b""
        try:
            self._file = path.open("rb")
        except OSError as error:
            message = (
                f"cannot open the log {path}: {error.strerror or error}; check the path and its permissions"
            )
            raise LogReadError(message) from error
        start = self._from_disk(len(GZIP_MAGIC))
        self.compressed = start == GZIP_MAGIC
        self._raw = start
        self._inflate = isal_zlib.decompressobj(GZIP_WINDOW)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def read(self, size: int) -> bytes:
        """The next `size` bytes; fewer only at the end of the content."""
        parts = []
        wanted = size
        while wanted > 0 and (part := self._some(wanted)):
            parts.append(part)
            wanted -= len(part)
        self.offset += size - wanted
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def push_back(self, data: bytes) -> None:
        """Gives back bytes read last, to be read again."""
        self._held = data + self._held
        self.offset -= len(data)

    def _some(self, size: int) -> bytes:
        if self._held:
            part, self._held = self._held[:size], self._held[size:]
            return part
        return self._inflated(size) if self.compressed else self._stored(size)

    def _from_disk(self, size: int) -> bytes:
        try:
            return self._file.read(size)
        except OSError as error:
            message = (
                f"cannot read the log {self.path}: {error.strerror or error}; check the disk or copy it again"
            )
            raise LogReadError(message) from error

    def _stored(self, size: int) -> bytes:
        if self._raw:
            part, self._raw = self._raw[:size], self._raw[size:]
            return part
        return self._from_disk(size)

    def _inflated(self, size: int) -> bytes:
        # never limited by max_length: isal would keep what it has decoded to itself at the end of the file
        while self.damage is None:
            raw = self._raw or self._from_disk(PIECE)
            self._raw = b""
            if self._inflate.eof:
                raw = raw.lstrip(b"\0")
                if not raw:
                    return b""
                self._inflate = isal_zlib.decompressobj(GZIP_WINDOW)
            elif not raw:
                self.damage = "the gzip data ends before its end mark"
                return b""
            try:
                part = self._inflate.decompress(raw)
            except InflateError as error:
                self.damage = f"the gzip data is damaged: {error}"
                return b""
            if self._inflate.eof:
                self._raw = self._inflate.unused_data
            if part:
                self._held = part[size:]
                return part[:size]
        return b""
