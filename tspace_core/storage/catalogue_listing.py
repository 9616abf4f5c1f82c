"""What lies in an area of the lake, by one walk or one listing, with stamps that tell a changed file."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tspace_core.objects.path import AnyPath, S3Path
from tspace_core.objects.store import ObjectInfo


@dataclass(frozen=True)
class Listed:
    """A file that was seen.

    Attributes:
        path: absolute, or ``s3://...``.
        parts: its way from the area on.
        found: what the walk or the listing said of it.
    """

    path: str
    parts: tuple[str, ...]
    found: "os.DirEntry[str] | ObjectInfo"

    @property
    def size(self) -> int:
        """Bytes."""
        return self.found.size if isinstance(self.found, ObjectInfo) else self.found.stat().st_size

    @property
    def stamp(self) -> str:
        """Changes when the file is replaced; looks at a file on a disk, which may be gone by then."""
        if isinstance(self.found, ObjectInfo):
            return self.found.etag
        try:
            seen = self.found.stat()
        except FileNotFoundError:
            return "gone"
        # A file replaced within one tick of the clock has another inode.
        return f"{seen.st_mtime_ns}-{seen.st_size}-{seen.st_ino}"


Area = dict[str, Listed]
"""Files of an area by their path."""


def list_area(folder: AnyPath) -> Area:
    """All files below a folder but hidden ones, which are somebody's temporaries; a bucket is listed once.

    Raises:
        ObjectError: the bucket cannot be listed.
        OSError: the folder cannot be read.
    """
    if isinstance(folder, S3Path):
        depth = len(folder.parts)
        seen = ((path, path.parts[depth:], info) for path, info in folder.objects())
        return {
            str(path): Listed(str(path), parts, info)
            for path, parts, info in seen
            if not any(part.startswith(".") for part in parts)
        }
    return {listed.path: listed for listed in _walk(folder, ())}


def _walk(folder: Path | str, parts: tuple[str, ...]) -> Iterator[Listed]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return  # an area without anything in it, or a folder that was removed meanwhile
    for entry in entries:
        if entry.name.startswith("."):
            continue
        way = (*parts, entry.name)
        if entry.is_dir():
            yield from _walk(entry.path, way)
        elif entry.is_file():
            yield Listed(entry.path, way, entry)
