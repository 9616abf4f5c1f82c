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


def file_sizes(folder: AnyPath, pattern: str) -> dict[AnyPath, int]:
    """Files below whose way matches, as ``glob`` takes it, and their bytes; a bucket is listed once."""
    if isinstance(folder, S3Path):
        return {path: info.size for path, info in folder.objects(pattern)}
    return {path: path.stat().st_size for path in folder.glob(pattern) if path.is_file()}
