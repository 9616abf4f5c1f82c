"""The manifest of a replay buffer: what its files hold, in the words a reader and a checker need."""

import hashlib
import json
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from tspace_core.errors import ObjectMissingError, SchemaVersionError, StorageError
from tspace_core.objects.path import AnyPath, S3Path

MANIFEST = "manifest.json"
ROWS = "rows.f32"
STARTS = "starts.npy"
MEMORY = "memory.f32"
GROWING = "growing"
"""Folder of the one buffer of a name that grows while it is sampled."""
FORMAT = "tspace-replay-1"
GROWING_FORMAT = "tspace-replay-growing-1"


def check_format(path: AnyPath, data: bytes, expected: str) -> None:
    """Raise unless a manifest is of the expected format, or too damaged to say what it is.

    Raises:
        SchemaVersionError: names both formats and what to do.
    """
    try:
        values = json.loads(data)
        found = values.get("format") or values["content"]["format"]
    except (ValueError, LookupError, AttributeError, TypeError):
        return
    if found == expected:
        return
    if found == GROWING_FORMAT:
        message = (
            f"{path}: is of a buffer that grows; open it with GrowingReplay, or Replay.open(..., 'growing')"
        )
    elif found == FORMAT:
        message = f"{path}: is of a version that never changes; open it with Replay"
    else:
        message = (
            f"{path}: has the format {found!r}, this tspace reads {expected!r}; update tspace, or build the "
            "buffer again: dagster asset materialize -m tspace_pipelines.definitions --select replay_buffer "
            "--partition VEHICLE"
        )
    raise SchemaVersionError(message)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ReplayLayout(_Frozen):
    """What every episode of one buffer has in common."""

    state_dim: int
    action_dim: int
    rate_hz: float
    window: int
    signals: tuple[str, ...]
    reward_kind: str
    gamma: float
    budget_nm: float
    pedal_axis: tuple[float, ...]
    speed_axis_kmh: tuple[float, ...]

    @property
    def row_width(self) -> int:
        """Floats a row: state, action, reward, first flashed row of the map."""
        return self.state_dim + self.action_dim + 2


class ReplayEpisode(_Frozen):
    """Place of one episode: rows ``first .. first + length``; the last holds the last observation only."""

    id: str
    vehicle_id: str
    first: int
    length: int
    terminal: bool
    kept: tuple[tuple[int, int], ...] | None = None
    """Runs (record, count) of the records that are drawn; None: all. The others are rows that others need."""

    @property
    def runs(self) -> tuple[tuple[int, int], ...]:
        """Runs (record, count) of the records that are drawn."""
        return ((0, self.length),) if self.kept is None else self.kept

    @property
    def records(self) -> int:
        """How many records are drawn."""
        return sum(count for _, count in self.runs)


class RewardRange(_Frozen):
    """Smallest, largest and mean reward of all records (unit of the reward kind)."""

    minimum: float
    maximum: float
    mean: float


class ReplayContent(_Frozen):
    """All that follows from the episodes alone; equal input gives an equal content."""

    format: Literal["tspace-replay-1"] = "tspace-replay-1"
    layout: ReplayLayout
    rows: int
    records: int
    rows_sha256: str
    episodes: tuple[ReplayEpisode, ...]
    reward: RewardRange
    state_mean: tuple[float, ...]
    state_std: tuple[float, ...]
    memory_dim: int = 0
    """Length of the recurrent state stored with each row; 0: none is."""
    memory_sha256: str | None = None

    def sha256(self) -> str:
        """Hash of the content, hex."""
        values = self.model_dump(mode="json")
        if not self.memory_dim:  # as before there were recurrent states: equal content, equal hash
            del values["memory_dim"], values["memory_sha256"]
        for episode in values["episodes"]:
            if episode["kept"] is None:  # as before records could be left out
                del episode["kept"]
        text = json.dumps(values, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


class ReplayManifest(_Frozen):
    """The manifest file of one version."""

    name: str
    version: str
    created: datetime
    software_version: str
    content_sha256: str
    content: ReplayContent

    @classmethod
    def read(cls, directory: AnyPath) -> "ReplayManifest":
        """Read and check the manifest of a version's directory.

        Raises:
            StorageError: the file is missing, unreadable, or does not match its own content hash.
            SchemaVersionError: it is of a format that this version of tspace does not know.
        """
        path = directory / MANIFEST
        try:
            data = path.read_bytes()
            check_format(path, data, FORMAT)
            manifest = cls.model_validate_json(data)
        except (FileNotFoundError, ObjectMissingError) as error:
            message = f"{path}: missing, so {directory} is no replay buffer; build it again from its episodes"
            raise StorageError(message) from error
        except (ValidationError, OSError) as error:
            message = f"{path}: not a replay manifest ({error}); build the buffer again from its episodes"
            raise StorageError(message) from error
        found = manifest.content.sha256()
        if found != manifest.content_sha256:
            message = (
                f"{path}: its content hashes to {found[:12]}..., the manifest says "
                f"{manifest.content_sha256[:12]}...: it was changed or damaged; build the buffer again"
            )
            raise StorageError(message)
        return manifest

    def write(self, directory: Path) -> None:
        """Write the manifest into ``directory``."""
        (directory / MANIFEST).write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")


def versions_of(root: AnyPath) -> list[str]:
    """Names of the complete versions below ``root``, oldest first."""
    if isinstance(root, S3Path):
        whole = (path.parent.name for path, _ in root.objects(f"*/{MANIFEST}"))
        return sorted(name for name in whole if name.isdigit())
    if not root.is_dir():
        return []
    return sorted(path.name for path in root.iterdir() if path.name.isdigit() and (path / MANIFEST).is_file())
