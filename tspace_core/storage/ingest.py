"""The way of a log into the lake: raw -> frames -> signals -> episodes, each stage a function of its own.

Every stage is idempotent: it hashes all its inputs (content of the log, config, DBC files, software version)
and makes nothing if the stored result was made from the same.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from tspace_core.config import Vehicle
from tspace_core.errors import StorageError
from tspace_core.objects.path import AnyPath, S3Path, relative
from tspace_core.storage.episodes_stage import store_episodes
from tspace_core.storage.frames_stage import store_frames
from tspace_core.storage.lake import JOURNAL_SUFFIX, ORIGIN_SUFFIX, Lake, RawLog
from tspace_core.storage.raw_store import store_raw
from tspace_core.storage.signals_stage import store_signals
from tspace_core.storage.summaries import EpisodesSummary, FramesSummary, SignalsSummary

__all__ = [
    "EpisodesSummary",
    "FramesSummary",
    "IngestResult",
    "SignalsSummary",
    "find_logs",
    "ingest_log",
    "store_episodes",
    "store_frames",
    "store_raw",
    "store_signals",
]


@dataclass(frozen=True)
class IngestResult:
    """What one log gave, stage by stage."""

    raw: RawLog
    frames: FramesSummary
    signals: SignalsSummary
    episodes: EpisodesSummary

    def to_dict(self) -> dict[str, Any]:
        """Return the figures of the log before resampling, in JSON's types."""
        return {
            "format": self.frames.format,
            "frames": self.frames.frames,
            "t_first": self.frames.t_first,
            "t_last": self.frames.t_last,
            "signals": {name: found.model_dump(mode="json") for name, found in self.signals.signals.items()},
            "energy_wh": self.signals.energy_wh,
            "dropped": self.signals.dropped,
        }


def ingest_log(
    lake: Lake,
    source: AnyPath,
    vehicle: Vehicle,
    *,
    date: str | None = None,
    driver: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> IngestResult:
    """Take a log through all stages.

    Args:
        lake: where to.
        source: the log, anywhere.
        vehicle: whose log it is.
        date: YYYY-MM-DD to file it under, or None to find out.
        driver: id of who drove, or None: the driver of the vehicle's file.
        progress: is told the name of each stage as it begins.

    Raises:
        TspaceError: what the first stage that fails says; the stages before it are done.
    """
    tell = progress or (lambda stage: None)
    stage = "raw"
    try:
        tell(stage)
        raw = store_raw(lake, source, vehicle, date, driver=driver)
        tell(stage := "frames")
        frames = store_frames(lake, raw, vehicle)
        tell(stage := "signals")
        signals = store_signals(lake, raw, vehicle)
        tell(stage := "episodes")
        return IngestResult(raw, frames, signals, store_episodes(lake, raw, vehicle))
    except OSError as error:
        message = (
            f"{source}, stage {stage}: {error}; check the log, and that the lake {lake.root} is a folder "
            "that can be written and has free space, then take the log in again"
        )
        raise StorageError(message) from error


def find_logs(path: AnyPath) -> list[AnyPath]:
    """Return a file itself, or all files below a folder but hidden ones, journals and origins, sorted."""
    if path.is_file():
        return [path]
    below: Iterable[AnyPath]
    if isinstance(path, S3Path):
        below = (found for found, _ in path.objects())
    else:
        below = (found for found in path.rglob("*") if found.is_file())
    logs = [found for found in below if _may_be_log(relative(found, path))]
    return sorted(logs, key=lambda found: found.parts)


def _may_be_log(way: str) -> bool:
    hidden = any(part.startswith(".") for part in way.split("/"))
    return not hidden and not way.endswith((JOURNAL_SUFFIX, ORIGIN_SUFFIX))
