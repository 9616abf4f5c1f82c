"""Small files that point at something and are replaced by one writer at a time, on a disk or in a bucket.

On a disk writers take turns: a lock is held from the look to the replacement. A bucket has no locks: the
replacement is made on the condition that the object is as it was looked at, and who comes second is refused.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

from tspace_core.errors import ObjectMissingError
from tspace_core.objects.path import AnyPath, S3Path
from tspace_core.storage.files import read_version, write_text


class Pointer:
    """A pointer as it was looked at.

    Attributes:
        text: what it holds; None: there is none yet.
    """

    def __init__(self, path: AnyPath) -> None:
        self._path = path
        self._seen: str | None = None
        self.text: str | None = None
        try:
            content, self._seen = read_version(path)
        except (FileNotFoundError, ObjectMissingError):
            return
        self.text = content.decode(errors="replace")

    def replace(self, text: str) -> None:
        """Let it hold ``text``; once.

        Raises:
            ObjectExistsError: somebody else has replaced it since it was looked at; nothing was written.
        """
        write_text(self._path, text, if_absent=self._seen is None, seen=self._seen)


@contextmanager
def open_pointer(path: AnyPath) -> Iterator[Pointer]:
    """A pointer to be replaced: nobody's replacement in between is lost.

    Its lock on a disk lies in the folder of the pointer's name without ``.json``.
    """
    if isinstance(path, S3Path):
        yield Pointer(path)
        return
    folder = path.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield Pointer(path)


def pointer_version(path: AnyPath) -> str | None:
    """Tells what the pointer holds from what it held; None: there is none."""
    if isinstance(path, S3Path):
        info = path.info()
        return None if info is None else info.etag
    try:
        return read_version(path)[1]
    except OSError:
        return None
