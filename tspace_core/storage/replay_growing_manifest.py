"""What a growing replay buffer publishes: its manifest, and the lines that name its episodes."""

import hashlib
import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from tspace_core.errors import StorageError
from tspace_core.storage.replay_manifest import MANIFEST, ReplayLayout, RewardRange, check_format

EPISODES = "episodes.jsonl"
CHUNKS = "chunks.f64"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SegmentEntry(_Frozen):
    """What is published of one segment."""

    number: int
    rows: int
    episodes: int
    index_bytes: int
    """Length of the published lines in ``episodes.jsonl``."""


class EpisodeLine(_Frozen):
    """One episode: rows ``row .. row + records`` of its segment, the last with the last observation only."""

    id: str
    vehicle_id: str
    row: int
    records: int
    terminal: bool
    sha256: str
    """Hash of its rows, and of its recurrent states where they are kept."""


class GrowingManifest(_Frozen):
    """The state of a growing buffer after one append."""

    format: Literal["tspace-replay-growing-1"] = "tspace-replay-growing-1"
    name: str
    created: datetime
    software_version: str
    number: int
    """Appends published so far."""
    layout: ReplayLayout
    memory_dim: int
    capacity_rows: int
    segment_rows: int
    """Rows a segment has room for, a power of two."""
    segments: tuple[SegmentEntry, ...]
    skipped: int
    """Evicted episodes at the beginning of the first segment."""
    evicted_episodes: int
    """All that were ever evicted."""
    rows: int
    records: int
    episodes: int
    reward: RewardRange
    state_mean: tuple[float, ...]
    state_std: tuple[float, ...]
    chain: str
    """Hash over everything that was ever appended, in its order."""

    @property
    def content_sha256(self) -> str:
        """Names what is kept: equal appends and evictions, equal hash."""
        return hashlib.sha256(f"{self.chain}:{self.evicted_episodes}".encode()).hexdigest()

    @property
    def bits(self) -> int:
        """A row's number is ``segment << bits`` plus its place in the segment."""
        return self.segment_rows.bit_length() - 1

    def text(self) -> str:
        """The manifest file, with a hash over what it says."""
        values = self.model_dump(mode="json")
        return json.dumps({**values, "sha256": _digest(values)}, indent=1) + "\n"

    @classmethod
    def read(cls, directory: Path) -> "GrowingManifest":
        """Read and check the manifest.

        Raises:
            StorageError: there is none, or it is damaged.
            SchemaVersionError: it is of a format that this version of tspace does not know.
        """
        path = directory / MANIFEST
        try:
            data = path.read_bytes()
        except OSError as error:
            message = (
                f"{path}: not readable ({error.strerror}), so {directory} is no growing replay buffer yet; "
                "append an episode with ReplayAppender"
            )
            raise StorageError(message) from error
        check_format(path, data, cls.model_fields["format"].default)
        try:
            values = json.loads(data)
            told = values.pop("sha256")
            manifest = cls.model_validate(values)
            found = _digest(values)
        except (ValueError, LookupError, AttributeError, ValidationError) as error:
            message = f"{path}: not a replay manifest ({error}); {REBUILD}"
            raise StorageError(message) from error
        if found != told:
            message = (
                f"{path}: hashes to {found[:12]}..., it says {str(told)[:12]}...: it was changed; {REBUILD}"
            )
            raise StorageError(message)
        return manifest


REBUILD = "move the folder away and append its episodes again"


def segment_folder(directory: Path, number: int) -> Path:
    """Folder of a segment."""
    return directory / f"segment-{number:08d}"


def read_lines(folder: Path, begin: int, row: int, entry: SegmentEntry, episodes: int) -> list[EpisodeLine]:
    """The published lines of a segment from byte ``begin`` on, of the episodes after the first ``episodes``.

    Raises:
        FileNotFoundError: the segment is gone.
        StorageError: the lines are torn, or do not fit the rows.
    """
    path = folder / EPISODES
    with path.open("rb") as file:
        file.seek(begin)
        data = file.read(entry.index_bytes - begin)
    try:
        if len(data) < entry.index_bytes - begin:
            message = f"{begin + len(data)} bytes, expected {entry.index_bytes}"
            raise ValueError(message)  # noqa: TRY301
        lines = [EpisodeLine.model_validate_json(line) for line in data.splitlines()]
        _require_fit(lines, row, entry, episodes)
    except ValueError as error:
        message = f"{path}: {error}; {REBUILD}"
        raise StorageError(message) from error
    return lines


def _require_fit(lines: Sequence[EpisodeLine], row: int, entry: SegmentEntry, episodes: int) -> None:
    for line in lines:
        if line.row != row or line.records < 1:
            message = f"episode {line.id!r} has {line.records} records from row {line.row} on, expected {row}"
            raise ValueError(message)
        row += line.records + 1
    count = episodes + len(lines)
    if row != entry.rows or count != entry.episodes:
        message = f"{count} episodes fill {row} rows, the manifest says {entry.episodes} and {entry.rows}"
        raise ValueError(message)


def _digest(values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
