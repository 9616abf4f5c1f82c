"""Builds versions of a replay buffer from episodes."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tspace_core import __version__
from tspace_core.errors import StorageError
from tspace_core.objects.path import AnyPath, S3Path, local_folder
from tspace_core.storage.replay_check import check_version
from tspace_core.storage.replay_manifest import ReplayManifest, versions_of
from tspace_core.storage.replay_writer import Keep, Memories, ReplayWriter
from tspace_core.storage.writer import DIRECT, Writer

if TYPE_CHECKING:
    from tspace_core.records.episode import Episode


def write_replay(
    root: AnyPath,
    episodes: Iterable["Episode"],
    *,
    memories: Memories | None = None,
    memory_dim: int = 0,
    keep: Keep | None = None,
    writer: Writer = DIRECT,
) -> AnyPath:
    """``build_replay`` as part of a unit of work: the version's folder, which the writer makes visible.

    Raises:
        StorageError: no episode, two layouts, or the same episode twice.
    """
    versions = versions_of(root)
    version = f"{_last_number(root, versions) + 1:06d}"
    target = root / version
    try:
        with writer.directory(target) as directory:
            with ReplayWriter(directory, memories, memory_dim, keep=keep) as rows:
                for episode in episodes:
                    rows.append(episode)
                content = rows.finish()
            manifest = ReplayManifest(
                name=root.name,
                version=version,
                created=datetime.now(UTC),
                software_version=__version__,
                content_sha256=content.sha256(),
                content=content,
            )
            if versions:
                _stop_if_equal(root / versions[-1], manifest.content_sha256)
            manifest.write(directory)
    except _Unchanged:
        return root / versions[-1]
    return target


class _Unchanged(Exception):  # noqa: N818  a way out of the atomic directory, not an error
    """The new content equals the latest version's."""


def _last_number(root: AnyPath, versions: list[str]) -> int:
    last = int(versions[-1]) if versions else 0
    if isinstance(root, S3Path):
        # What a killed writer left keeps its number until it is swept; whoever is writing now keeps theirs.
        taken = (folder.rstrip("/").rpartition("/")[2] for folder in root.store.folders(f"{root.key}/"))
        return max([last, *(int(name) for name in taken if name.isdigit())])
    return last


def _stop_if_equal(directory: AnyPath, content_sha256: str) -> None:
    try:
        found = ReplayManifest.read(directory)
        check_version(directory, local_folder(directory), found.content)
    except StorageError:
        return  # a damaged version is not worth returning: the new one follows it
    if found.content_sha256 == content_sha256:
        raise _Unchanged
