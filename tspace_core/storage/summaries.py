"""What each stage reports: counts, ranges, what was dropped and where the result lies."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from tspace_core.objects.fields import PathField
from tspace_core.objects.path import AnyPath, any_path, relative
from tspace_core.records.meta import TimeSource


class _Summary(BaseModel):
    model_config = ConfigDict(extra="forbid")

    key: str = Field(description="vehicle/date/name of the raw log")
    fingerprint: str = Field(description="hash over all inputs; the same again is not made again")
    reused: bool = Field(default=False, description="nothing was made: the inputs are as they were")


class FramesSummary(_Summary):
    """The frames of one log. Times are seconds on the log's own clock; None in a log without frames."""

    path: PathField | None = Field(description="Parquet file; None for a trip table, which has no frames")
    format: str
    frames: int = Field(description="frames; rows of a trip table")
    t_first: float | None = Field(description="first frame in the order of the log")
    t_last: float | None = Field(description="last frame in the order of the log")
    t_min: float | None
    t_max: float | None
    segments: int = 0
    backward_steps: int = 0
    gaps: int = 0
    longest_gap_s: float = 0.0
    ids: int = Field(default=0, description="distinct ids")
    frames_per_bus: dict[int, int] = {}
    bus_names: dict[str, int] = {}
    utc_offset_ns: int = Field(default=0, description="UTC instant of the log clock's zero")
    time_source: TimeSource
    dropped: dict[str, int] = {}
    notes: dict[str, int] = {}
    messages: dict[str, str] = Field(default={}, description="first message of each reason")


class SignalStatistics(BaseModel):
    """Valid samples of a signal before resampling, in our unit; None where there are none."""

    model_config = ConfigDict(extra="forbid")

    count: int
    min: float | None
    max: float | None
    mean: float | None


class SignalsSummary(_Summary):
    """The signals of one log on the vehicle's grid."""

    path: PathField
    format: str
    frames: int
    t_first: float | None
    t_last: float | None
    rows: int = Field(description="rows of the grid")
    segments: int
    signals: dict[str, SignalStatistics] = Field(description="before resampling")
    stale_rows: dict[str, int] = Field(description="rows without a fresh value, by signal")
    energy_wh: float = Field(description="on native samples, discharge positive")
    energy_tail_wh: float = Field(description="part of energy_wh behind the last grid row of a segment")
    energy_skipped: int = Field(description="current samples left out for want of a voltage")
    distance_m: float
    utc_start_ns: int | None = Field(description="UTC instant of the first row")
    utc_offset_ns: int
    time_source: TimeSource
    substitutes: dict[str, str]
    dropped: dict[str, int]
    messages: dict[str, str]


class EpisodesSummary(_Summary):
    """The episodes of one log."""

    paths: list[PathField]
    episodes: int
    records: int
    energy_wh: float
    distance_m: float
    duration_s: float
    reward_min: float | None
    reward_max: float | None
    reward_mean: float | None
    rows: int = Field(description="grid rows looked at")
    unusable_rows: dict[str, int] = Field(description="rows that no window may hold, by reason")
    short_runs: int
    short_rows: int
    left_rows: int = Field(description="usable rows that fill no whole step")
    lost_records: dict[str, int]
    clipped_records: int = Field(default=0, description="records with a torque change beyond the budget")
    ended: dict[str, int] = Field(description="episodes by what ended them")
    dropped: dict[str, int] = Field(default={}, description="lines of the flash journal not used, by reason")
    messages: dict[str, str] = Field(default={}, description="first message of each reason")
    action_source: str


def to_metadata(summary: BaseModel, root: AnyPath) -> dict[str, Any]:
    """Return a summary as JSON types with paths relative to ``root``, so that a lake can be moved."""
    content: dict[str, Any] = summary.model_dump(mode="json")
    if content.get("path"):
        content["path"] = relative(any_path(content["path"]), root)
    if "paths" in content:
        content["paths"] = [relative(any_path(path), root) for path in content["paths"]]
    return content


def from_metadata(content: dict[str, Any], root: AnyPath) -> dict[str, Any]:
    """Undo ``to_metadata`` and mark the summary as reused."""
    found = {**content, "reused": True}
    if found.get("path"):
        found["path"] = root / found["path"]
    if "paths" in found:
        found["paths"] = [root / path for path in found["paths"]]
    return found
