"""Local copies of objects: named by server, bucket, key and ETag, never changed, bounded in size.

::

    <cache_dir>/<hash>/<name>      one object, or one folder of objects

What is beyond ``settings().s3.cache_bytes`` goes, the least recently used first, but for what was asked for
within the last minute: its caller may just be opening it. An open file or memory map outlives its removal.
"""

import hashlib
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from tspace_core.config.settings import settings
from tspace_core.errors import ObjectError, ObjectExistsError
from tspace_core.objects.store import ObjectInfo, ObjectStore
from tspace_core.objects.transfer import side_by_side

IN_USE_S = 60.0
"""What was asked for within this time stays, s."""
_LEFT_BEHIND_S = 86_400.0
_SLACK = 0.1
_left: dict[Path, int] = {}
"""Bytes that this process may add before it looks for room again, by cache folder."""
_counting = threading.Lock()


def cached_file(store: ObjectStore, info: ObjectInfo) -> Path:
    """The copy of an object as a ``head`` or listing just described it.

    Raises:
        ObjectExistsError: it was replaced since; look at it again.
    """
    name = info.key.rpartition("/")[2]

    def fill(folder: Path) -> None:
        _fetch(store, info, folder / name)

    mark = _mark(store, "", [info])
    path = _entry(mark, fill, info.size) / name
    if not path.is_file():  # somebody has tidied up files, not folders
        shutil.rmtree(path.parent, ignore_errors=True)
        path = _entry(mark, fill, info.size) / name
    return path


def keep_file(store: ObjectStore, info: ObjectInfo, source: Path) -> None:
    """Make a file that was just uploaded the copy of its object, so that it need not be read back.

    The file is moved; where that cannot be done nothing is kept, which costs a download later.
    """
    keep_folder(store, "", [info], source)


def keep_folder(store: ObjectStore, prefix: str, objects: list[ObjectInfo], source: Path) -> None:
    """The same of a folder whose files were uploaded below ``prefix`` (ends with ``/``)."""
    name = (prefix.rstrip("/") or objects[0].key).rpartition("/")[2]

    def fill(folder: Path) -> None:
        shutil.move(source, folder / name)
        for path in _files(folder):
            path.chmod(0o444)

    with suppress(OSError, ObjectError):
        in_order = sorted(objects, key=lambda info: info.key.encode())
        _entry(_mark(store, prefix, in_order), fill, sum(info.size for info in objects))


def cached_folder(store: ObjectStore, name: str, prefix: str, found: Iterable[ObjectInfo]) -> Path:
    """The copy of all objects below ``prefix``, as a listing just described them.

    Raises:
        ObjectExistsError: one of them was replaced since; look at them again.
    """
    objects = [info for info in found if not info.key.endswith("/")]
    for info in objects:
        if any(part in ("", ".", "..") for part in info.key.removeprefix(prefix).split("/")):
            message = f"s3://{store.bucket}/{info.key} cannot be a file on this disk: rename the object"
            raise ObjectError(message)

    def fill(folder: Path) -> None:
        def one(info: ObjectInfo) -> None:
            path = folder / name / info.key.removeprefix(prefix)
            path.parent.mkdir(parents=True, exist_ok=True)
            _fetch(store, info, path)

        side_by_side(one, objects)

    return _entry(_mark(store, prefix or "/", objects), fill, sum(info.size for info in objects)) / name


def _fetch(store: ObjectStore, info: ObjectInfo, path: Path) -> None:
    if store.download(info.key, path, info).etag != info.etag:
        # Under the old content's name the new one would stay for ever.
        message = f"s3://{store.bucket}/{info.key} was replaced while it was fetched: look at it again"
        raise ObjectExistsError(message)
    path.chmod(0o444)
    changed = int(info.modified.timestamp()) * 10**9
    os.utime(path, ns=(changed, changed))


def _mark(store: ObjectStore, folder: str, objects: list[ObjectInfo]) -> str:
    digest = hashlib.sha256(f"{store.endpoint}\0{store.bucket}\0{folder}".encode())
    for info in objects:
        digest.update(f"\0{info.key}\0{info.etag}\0{info.size}".encode())
    return digest.hexdigest()[:32]


def _entry(mark: str, fill: Callable[[Path], None], size: int) -> Path:
    root = settings().s3.cache_dir
    folder = root / mark
    with suppress(OSError):
        os.utime(folder)  # used now
        return folder
    temporary = root / f".{mark}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
    try:
        temporary.mkdir(parents=True)
        fill(temporary)
        temporary.rename(folder)
    except OSError as error:
        if not folder.is_dir():  # else somebody else has just fetched the same
            message = (
                f"no local copy under {root} ({size} bytes needed): {error}; make room or let "
                "TSPACE_S3__CACHE_DIR lead to a folder that can be written"
            )
            raise ObjectError(message) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _count(root, size, settings().s3.cache_bytes)
    return folder


def _count(root: Path, size: int, allowed: int) -> None:
    """Make room when so much was added by this process that there may be too much.

    Looking through all entries for each one that is added would take longer the more there are.
    """
    with _counting:
        left = _left.get(root, -1) - size
        if left < 0:
            left = int(_SLACK * max(0, allowed - _make_room(root, allowed)))
        _left[root] = left


def _make_room(root: Path, allowed: int) -> int:
    """Remove what is used least until there are ``1 - _SLACK`` of what is allowed; return the bytes left."""
    now, total, entries = time.time(), 0, []
    for folder in root.iterdir():
        try:
            used = folder.stat().st_mtime
        except FileNotFoundError:
            continue  # another process makes room as well
        if folder.name.startswith("."):
            if now - used > _LEFT_BEHIND_S:
                shutil.rmtree(folder, ignore_errors=True)
            continue
        size = sum(file.stat().st_size for file in _files(folder))
        total += size
        entries.append((used, size, folder))
    target = allowed if total <= allowed else int((1 - _SLACK) * allowed)
    for used, size, folder in sorted(entries):
        if total <= target or now - used < IN_USE_S:
            break
        # Renamed first, so that nobody finds an entry that is half gone.
        going = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.gone")
        try:
            folder.rename(going)
        except FileNotFoundError:
            continue
        shutil.rmtree(going, ignore_errors=True)
        total -= size
    return total


def _files(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.rglob("*") if path.is_file()]
    except FileNotFoundError:
        return []
