"""Files and folders that appear whole or not at all, on a disk or in a bucket.

On a disk everything is written under a temporary name in the target's own folder, synced, renamed and the
folder synced: whoever looks at the final name at any instant, also after a crash, sees the old state or the
new one. What a killed writer leaves behind are hidden ``.tmp`` names, which no reader looks at and ``sweep``
removes.

In a bucket a file is written to this machine's disk first and appears by one put. A folder appears by its
``manifest.json``, which is put last (see ``bucket_folder``).
"""

import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from tspace_core.config.settings import settings
from tspace_core.errors import ObjectExistsError, StorageError
from tspace_core.objects.cache import cached_file, keep_file
from tspace_core.objects.path import AnyPath, S3Path, local_copy
from tspace_core.objects.store import ObjectInfo
from tspace_core.storage import bucket_folder

_SUFFIX = ".tmp"
COPIED_BYTES = 1 << 30
"""Larger objects are not copied by the server: one request would take it too long. They are uploaded."""


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{_SUFFIX}")


def sync(path: Path) -> None:
    """Let a file or folder be on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Let a folder and all in it be on the disk."""
    for parent, _, files in os.walk(folder):
        for name in files:
            sync(Path(parent, name))
        sync(Path(parent))


def _require_written(temporary: Path, path: AnyPath) -> None:
    if not temporary.is_file():
        message = f"nothing was written for {path}: the writer must write to the path it was given"
        raise StorageError(message)


@contextmanager
def atomic_write(path: AnyPath, *, if_absent: bool = False, seen: str | None = None) -> Iterator[Path]:
    """Yield a temporary path on this disk; on success it becomes ``path``, on an exception it vanishes.

    Missing folders are made. An existing ``path`` is replaced, unless a condition is given.

    Args:
        path: on a disk or in a bucket.
        if_absent: what is there already is never replaced; of several writers one wins.
        seen: what is there must still be what it was when ``read_version`` gave this (a bucket's server
            looks in the same instant, on a disk the look is just before).

    Raises:
        ObjectExistsError: the condition does not hold; nothing was written.
        ObjectError: the object cannot be written.
        StorageError: if the body wrote nothing to the temporary path.
    """
    if isinstance(path, S3Path):
        with scratch(path) as temporary:
            yield temporary
            _require_written(temporary, path)
            _put(path, temporary, if_absent=if_absent, seen=seen)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        yield temporary
        _require_written(temporary, path)
        sync(temporary)
        _place(temporary, path, if_absent=if_absent, seen=seen)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def _place(temporary: Path, path: Path, *, if_absent: bool, seen: str | None) -> None:
    if if_absent:
        try:
            os.link(temporary, path)
        except FileExistsError as error:
            message = f"{path} exists already and is never replaced: look at it, or choose another name"
            raise ObjectExistsError(message) from error
        temporary.unlink()
        return
    if seen is not None and read_version(path)[1] != seen:
        message = f"{path} was replaced by someone else meanwhile: read it again and repeat the change"
        raise ObjectExistsError(message)
    temporary.replace(path)


@contextmanager
def scratch(path: S3Path) -> Iterator[Path]:
    """A path on this disk with the object's name, for what is going to be put; removed in any case."""
    folder = settings().s3.cache_dir / f".write.{os.getpid()}-{secrets.token_hex(4)}{_SUFFIX}"
    folder.mkdir(parents=True)
    try:
        yield folder / path.name
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _put(path: S3Path, temporary: Path, *, if_absent: bool, seen: str | None) -> None:
    store, size = path.store, temporary.stat().st_size
    etag = store.upload(temporary, path.key, if_absent=if_absent, if_match=seen)
    # What was just written is often read next: signals are made from frames.
    keep_file(store, ObjectInfo(path.key, size, etag, datetime.now(UTC)), temporary)


@contextmanager
def atomic_copy(source: AnyPath, path: AnyPath) -> Iterator[Path]:
    """Yield a file on this disk with the content of ``source``; on success ``path`` holds the same.

    What is there already is never replaced. Where both lie in buckets, the server copies, and nothing is
    uploaded.

    Raises:
        ObjectExistsError: something is at ``path``, or ``source`` was replaced meanwhile: nothing is done.
        ObjectError: the object cannot be read or written.
    """
    info = source.info() if isinstance(source, S3Path) else None
    if isinstance(source, S3Path) and isinstance(path, S3Path) and info and info.size <= COPIED_BYTES:
        local = cached_file(source.store, info)
        yield local
        how = {"bucket": source.bucket, "source_etag": info.etag}
        etag = path.store.copy(source.key, path.key, if_absent=True, **how)
        with suppress(OSError), scratch(path) as linked:
            linked.hardlink_to(local)
            keep_file(path.store, ObjectInfo(path.key, info.size, etag, datetime.now(UTC)), linked)
        return
    with atomic_write(path, if_absent=True) as temporary:
        shutil.copyfile(local_copy(source), temporary)
        yield temporary


@contextmanager
def atomic_directory(path: AnyPath) -> Iterator[Path]:
    """Yield a temporary folder to fill; on success it becomes ``path``, on an exception it vanishes.

    A folder written this way is immutable: an existing ``path`` is never replaced. In a bucket it must hold
    a ``manifest.json``, by which it becomes visible.

    Raises:
        StorageError: if ``path`` exists, or someone else writes it at the same time.
        ObjectError: the objects cannot be written.
    """
    if isinstance(path, S3Path):
        bucket_folder.require_absent(path)
        with scratch(path) as temporary:
            temporary.mkdir()
            yield temporary
            bucket_folder.put(path, temporary)
        return
    if path.exists():
        message = f"{path} exists already and is never replaced: choose a new version or name"
        raise StorageError(message)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    temporary.mkdir()
    try:
        yield temporary
        sync_tree(temporary)
        try:
            temporary.rename(path)
        except OSError as error:
            message = f"{path} was made by someone else meanwhile ({error}): choose a new version or name"
            raise StorageError(message) from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync(path.parent)


def write_text(path: AnyPath, text: str, *, if_absent: bool = False, seen: str | None = None) -> None:
    """Write ``text`` (UTF-8) to ``path`` atomically; conditions and errors are those of ``atomic_write``."""
    if isinstance(path, S3Path):
        path.store.put(path.key, text.encode(), if_absent=if_absent, if_match=seen)
        return
    with atomic_write(path, if_absent=if_absent, seen=seen) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_version(path: AnyPath) -> tuple[bytes, str]:
    """Content of a small file, and what tells this content from another: ``seen`` of a later write.

    Raises:
        ObjectMissingError: there is no such object; on a disk FileNotFoundError.
    """
    if isinstance(path, S3Path):
        content, info = path.store.get_with_info(path.key)
        return content, info.etag
    content = path.read_bytes()
    return content, hashlib.sha256(content).hexdigest()


def sha256(path: AnyPath) -> str:
    """Return the content hash of a file as 64 hex digits; an object is read once, and not kept."""
    if isinstance(path, S3Path):
        digest = hashlib.sha256()
        for block in path.store.blocks(path.key):
            digest.update(block)
        return digest.hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sweep(root: AnyPath, *, older_than_s: float = 86_400.0) -> list[AnyPath]:
    """Remove what killed writers left under ``root`` and return the paths removed.

    A younger temporary may belong to a writer that is still at work and is kept. In a bucket these are
    folders without their manifest below ``replay`` and ``checkpoints``, and parts of unfinished uploads.
    """
    if isinstance(root, S3Path):
        return list(bucket_folder.sweep(root, older_than_s=older_than_s))
    limit = time.time() - older_than_s
    removed: list[AnyPath] = []
    for leftover in sorted(root.rglob(f".*{_SUFFIX}")):
        if not leftover.exists() or leftover.stat().st_mtime > limit:
            continue
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)
        removed.append(leftover)
    return removed
