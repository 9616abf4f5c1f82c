"""Folders as a whole: their removal, and what lies in them."""

import os
import secrets
import shutil

from tspace_core.objects.path import AnyPath, S3Path
from tspace_core.storage.bucket_folder import MANIFEST


def remove_directory(path: AnyPath) -> None:
    """Remove a folder; no reader takes what is left of it meanwhile for a whole one.

    In a bucket its manifest goes first, on a disk the folder first loses its name to one that ``files.sweep``
    removes, should this be killed.
    """
    if isinstance(path, S3Path):
        (path / MANIFEST).unlink(missing_ok=True)
        path.rmtree()
        return
    gone = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    path.rename(gone)
    shutil.rmtree(gone)


def last_change(folder: AnyPath, pattern: str) -> float | None:
    """When a file below whose way matches was changed last, s since 1970 UTC; None: there is none."""
    if isinstance(folder, S3Path):
        times = [info.modified.timestamp() for _, info in folder.objects(pattern)]
    else:
        times = [path.stat().st_mtime for path in folder.glob(pattern)]
    return max(times, default=None)


def file_sizes(folder: AnyPath, pattern: str) -> dict[AnyPath, int]:
    """Files below whose way matches, as ``glob`` takes it, and their bytes; a bucket is listed once."""
    if isinstance(folder, S3Path):
        return {path: info.size for path, info in folder.objects(pattern)}
    return {path: path.stat().st_size for path in folder.glob(pattern) if path.is_file()}
