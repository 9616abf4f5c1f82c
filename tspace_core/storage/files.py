"""Files and folders that appear whole or not at all.

Everything is written under a temporary name in the target's own folder, synced, renamed and the folder
synced: whoever looks at the final name at any instant, also after a crash, sees the old state or the new one.
What a killed writer leaves behind are hidden ``.tmp`` names, which no reader looks at and ``sweep`` removes.
"""

import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tspace_core.errors import StorageError
from tspace_core.objects.path import AnyPath, S3Path

MANIFEST = "manifest.json"
"""Name of the file that makes a folder visible where it is not written in one step."""
_SUFFIX = ".tmp"


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{_SUFFIX}")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_tree(folder: Path) -> None:
    for parent, _, files in os.walk(folder):
        for name in files:
            _sync(Path(parent, name))
        _sync(Path(parent))


def _require_written(temporary: Path, path: Path) -> None:
    if not temporary.is_file():
        message = f"nothing was written for {path}: the writer must write to the path it was given"
        raise StorageError(message)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; on success it becomes ``path``, on an exception it vanishes.

    Missing folders are made. An existing ``path`` is replaced.

    Raises:
        StorageError: if the body wrote nothing to the temporary path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        yield temporary
        _require_written(temporary, path)
        _sync(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(path.parent)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yield a temporary folder to fill; on success it becomes ``path``, on an exception it vanishes.

    A folder written this way is immutable: an existing ``path`` is never replaced.

    Raises:
        StorageError: if ``path`` exists.
    """
    if path.exists():
        message = f"{path} exists already and is never replaced: choose a new version or name"
        raise StorageError(message)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    temporary.mkdir()
    try:
        yield temporary
        _sync_tree(temporary)
        try:
            temporary.rename(path)
        except OSError as error:
            message = f"{path} was made by someone else meanwhile ({error}): choose a new version or name"
            raise StorageError(message) from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sync(path.parent)


def remove_directory(path: AnyPath) -> None:
    """Remove a folder that was written whole; no reader takes what is left meanwhile for a whole one.

    In a bucket its manifest goes first, on a disk the folder loses its name first.
    """
    if isinstance(path, S3Path):
        (path / MANIFEST).unlink(missing_ok=True)
        path.rmtree()
        return
    gone = _temporary(path)
    path.rename(gone)
    shutil.rmtree(gone)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` (UTF-8) to ``path`` atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sha256(path: Path) -> str:
    """Return the content hash of a file as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sweep(root: Path, *, older_than_s: float = 86_400.0) -> list[Path]:
    """Remove what killed writers left under ``root`` and return the paths removed.

    A younger temporary may belong to a writer that is still at work and is kept.
    """
    limit = time.time() - older_than_s
    removed = []
    for leftover in sorted(root.rglob(f".*{_SUFFIX}")):
        if not leftover.exists() or leftover.stat().st_mtime > limit:
            continue
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)
        removed.append(leftover)
    return removed
