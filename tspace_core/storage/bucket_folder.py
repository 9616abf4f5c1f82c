"""Folders of objects that become visible by their manifest: replay versions, checkpoints.

A bucket has no rename. All files of a folder are put first, each only where there is none yet, and
``manifest.json`` last, in the same way: of two writers of one folder one wins, and never do the files of both
mix under one manifest. What a killed writer leaves has no manifest, so no reader takes it for a folder; the
next writer of that folder replaces it once it is a minute old, and ``sweep`` removes it.
"""

import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from tspace_core.errors import ObjectExistsError, ObjectMissingError, StorageError
from tspace_core.objects.cache import keep_folder
from tspace_core.objects.path import S3Path
from tspace_core.objects.store import ObjectInfo, ObjectStore
from tspace_core.objects.transfer import side_by_side

MANIFEST = "manifest.json"
LEFT_BEHIND_S = 60.0
"""Files without a manifest that are older than this are taken for a killed writer's, s."""
_AREAS = {"replay": 2, "checkpoints": 3, "embeddings/encoders": 2}
"""Where such folders lie: so many levels below each of these."""


def require_absent(path: S3Path) -> None:
    """Refuse a folder that has its manifest.

    Raises:
        StorageError: it is there.
    """
    if (path / MANIFEST).is_file():
        message = f"{path} exists already and is never replaced: choose a new version or name"
        raise StorageError(message)


def put(path: S3Path, folder: Path) -> None:
    """Write the files of a folder, which is moved away, below ``path``; visible at once, and whole.

    Raises:
        StorageError: it has no manifest, or someone else writes or wrote the same folder.
        ObjectError: the objects cannot be written; nothing is visible.
    """
    files = sorted(found for found in folder.rglob("*") if found.is_file())
    names = [file.relative_to(folder).as_posix() for file in files]
    if MANIFEST not in names:
        message = f"{path} was written without {MANIFEST}: in a bucket a folder becomes visible by it"
        raise StorageError(message)
    names.remove(MANIFEST)
    store, prefix = path.store, f"{path.key}/"
    _clear(path)
    written: dict[str, ObjectInfo] = {}

    def write(name: str) -> None:
        size = (folder / name).stat().st_size
        etag = store.upload(folder / name, prefix + name, if_absent=True)
        written[prefix + name] = ObjectInfo(prefix + name, size, etag, datetime.now(UTC))

    try:
        side_by_side(write, names)  # a checkpoint is twenty small files
        _require_unchanged(path, store, prefix, written)
        write(MANIFEST)
    except BaseException as error:
        # Only what is still ours: where another writer has won, its files have these names.
        with suppress(StorageError):
            there = {info.key: info.etag for info in store.list(prefix)}
            if prefix + MANIFEST not in there:
                store.delete(*(key for key, info in written.items() if there.get(key) == info.etag))
        if isinstance(error, ObjectExistsError):
            raise _made_by_someone_else(path) from error
        raise
    keep_folder(store, prefix, list(written.values()), folder)


def _clear(path: S3Path) -> None:
    """Remove what a killed writer left; what is young may be of one at work."""
    found = list(path.store.list(f"{path.key}/"))
    if any(info.key == f"{path.key}/{MANIFEST}" for info in found):
        raise _made_by_someone_else(path)
    youngest = max((info.modified.timestamp() for info in found), default=0.0)
    if found and time.time() - youngest < LEFT_BEHIND_S:
        message = (
            f"{path} is being written by someone else, or was when they were killed: "
            f"try again in {LEFT_BEHIND_S:g} s, or choose a new version or name"
        )
        raise StorageError(message)
    path.store.delete(*(info.key for info in found))


def _require_unchanged(path: S3Path, store: ObjectStore, prefix: str, written: dict[str, ObjectInfo]) -> None:
    there = {info.key: info.etag for info in store.list(prefix)}
    if there != {key: info.etag for key, info in written.items()}:
        raise _made_by_someone_else(path)


def _made_by_someone_else(path: S3Path) -> StorageError:
    return StorageError(f"{path} was made by someone else meanwhile: choose a new version or name")


def sweep(root: S3Path, *, older_than_s: float) -> Iterator[S3Path]:
    """Remove unfinished folders and parts of uploads below ``root``; yields the objects removed."""
    for found in unfinished(root, older_than_s=older_than_s):
        root.store.delete(*(path.key for path in found))
        yield from found
    with suppress(ObjectMissingError):
        root.store.abort_uploads(f"{root.key}/" if root.key else "", older_than_s=older_than_s)


def unfinished(root: S3Path, *, older_than_s: float) -> Iterator[list[S3Path]]:
    """The objects of each folder below ``root`` that has no manifest and was not written to for so long."""
    limit = time.time() - older_than_s
    for area, depth in _AREAS.items():
        folders: dict[str, list[tuple[S3Path, ObjectInfo]]] = {}
        for path, info in (root / area).objects():
            parts = path.relative_to(root / area).parts
            if len(parts) > depth:
                folders.setdefault("/".join(parts[:depth]), []).append((path, info))
        for found in folders.values():
            old = all(info.modified.timestamp() <= limit for _, info in found)
            if old and all(path.name != MANIFEST for path, _ in found):
                yield [path for path, _ in found]
