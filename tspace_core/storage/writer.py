"""How stores write: each file at once, or all of them together in a unit of work.

Whatever stores something takes a ``Writer``. ``DIRECT`` makes each file visible as it is written; a
``UnitOfWork`` has the same methods and makes all of them visible together.
"""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from tspace_core.objects.path import AnyPath
from tspace_core.storage.files import atomic_directory, atomic_write, write_text
from tspace_core.storage.folders import remove_directory


class Writer(Protocol):
    """Writes and removes files and folders; conditions and errors are those of ``storage.files``."""

    def file(
        self, path: AnyPath, *, if_absent: bool = False, seen: str | None = None
    ) -> AbstractContextManager[Path]:
        """Yield a path on this disk; what is written there becomes ``path``."""

    def text(self, path: AnyPath, text: str, *, if_absent: bool = False, seen: str | None = None) -> None:
        """Let ``path`` hold ``text`` (UTF-8)."""

    def directory(self, path: AnyPath) -> AbstractContextManager[Path]:
        """Yield a folder on this disk to fill; it becomes ``path``, which must not exist."""

    def remove(self, *paths: AnyPath) -> None:
        """Remove files and folders; what is not there is no error."""


class Direct:
    """Every file becomes visible as soon as it is written."""

    def file(
        self, path: AnyPath, *, if_absent: bool = False, seen: str | None = None
    ) -> AbstractContextManager[Path]:
        """Yield a path on this disk; what is written there becomes ``path`` at the end of the block."""
        return atomic_write(path, if_absent=if_absent, seen=seen)

    def text(self, path: AnyPath, text: str, *, if_absent: bool = False, seen: str | None = None) -> None:
        """Let ``path`` hold ``text`` (UTF-8)."""
        write_text(path, text, if_absent=if_absent, seen=seen)

    def directory(self, path: AnyPath) -> AbstractContextManager[Path]:
        """Yield a folder on this disk to fill; it becomes ``path`` at the end of the block."""
        return atomic_directory(path)

    def remove(self, *paths: AnyPath) -> None:
        """Remove files and folders at once."""
        for path in paths:
            if path.is_dir():
                remove_directory(path)
            else:
                path.unlink(missing_ok=True)


DIRECT: Writer = Direct()
