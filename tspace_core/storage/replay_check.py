"""Whether the files of a replay buffer's version are those that its manifest speaks of."""

import hashlib
from pathlib import Path

import numpy as np

from tspace_core.errors import StorageError
from tspace_core.objects.path import AnyPath
from tspace_core.storage.replay_manifest import MANIFEST, MEMORY, ROWS, STARTS, ReplayContent
from tspace_core.storage.replay_writer import starts_of

_HASH_BLOCK = 1 << 24


def check_version(directory: AnyPath, local: Path, content: ReplayContent) -> None:
    """Look at what costs nothing: sizes, shapes, and that the episodes follow each other.

    Args:
        directory: the version, for messages.
        local: its files on this disk.
        content: what its manifest says.

    Raises:
        StorageError: names the file and what differs.
    """
    for name, width in _row_files(content):
        path = local / name
        expected = content.rows * width * 4
        size = path.stat().st_size if path.exists() else -1
        if size != expected:
            message = (
                f"{directory / name}: {'missing' if size < 0 else f'{size} bytes'}, expected {expected} "
                f"bytes ({content.rows} rows of {width}); build the buffer again"
            )
            raise StorageError(message)
    try:
        found = np.load(local / STARTS, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        message = f"{directory / STARTS}: not readable ({error}); build the buffer again"
        raise StorageError(message) from error
    if found.dtype != np.int64 or found.shape != (content.records,):
        message = (
            f"{directory / STARTS}: holds {found.dtype} {found.shape}, expected int64 "
            f"({content.records},); build the buffer again"
        )
        raise StorageError(message)
    _check_episodes(directory, content)


def verify_version(directory: AnyPath, local: Path, content: ReplayContent) -> None:
    """Read everything and compare it with the manifest.

    Raises:
        StorageError: names the file that differs.
    """
    for name, expected in ((ROWS, content.rows_sha256), (MEMORY, content.memory_sha256)):
        if expected is not None:
            _verify_hash(directory / name, local / name, expected)
    if not np.array_equal(np.load(local / STARTS, mmap_mode="r"), starts_of(content.episodes)):
        message = f"{directory / STARTS}: differs from the episodes in the manifest; build the buffer again"
        raise StorageError(message)


def _row_files(content: ReplayContent) -> list[tuple[str, int]]:
    rows = (ROWS, content.layout.row_width)
    return [rows, (MEMORY, content.memory_dim)] if content.memory_dim else [rows]


def _verify_hash(path: AnyPath, local: Path, expected: str) -> None:
    digest = hashlib.sha256()
    with local.open("rb") as file:
        while block := file.read(_HASH_BLOCK):
            digest.update(block)
    if digest.hexdigest() != expected:
        message = (
            f"{path}: sha256 {digest.hexdigest()[:12]}..., the manifest says "
            f"{expected[:12]}...: the file is damaged; build the buffer again"
        )
        raise StorageError(message)


def _check_episodes(directory: AnyPath, content: ReplayContent) -> None:
    """Raise unless the episodes follow each other and end with the rows: a gather checks nothing."""
    row = records = 0
    for item in content.episodes:
        if item.first != row or item.length < 1:
            message = (
                f"{directory / MANIFEST}: episode {item.id!r} has {item.length} records from row "
                f"{item.first} on, expected at least 1 from row {row} on; build the buffer again"
            )
            raise StorageError(message)
        row += item.length + 1
        records += item.records
        at = -1
        for first, count in item.runs:
            if first <= at or count < 1 or first + count > item.length:
                message = (
                    f"{directory / MANIFEST}: of the {item.length} records of episode {item.id!r} it keeps "
                    f"{count} from {first} on, after {at}; build the buffer again"
                )
                raise StorageError(message)
            at = first + count
    if row != content.rows or content.records != records:
        message = (
            f"{directory / MANIFEST}: its episodes fill {row} rows with {records} records, it says "
            f"{content.rows} rows and {content.records} records; build the buffer again"
        )
        raise StorageError(message)
