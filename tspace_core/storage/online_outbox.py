"""Online episodes on their way into the lake: what was driven is never lost to a server that is down.

Where the lake is not on this machine an episode is first written to it, in the lake's own layout below
``<state of the vehicle>/waiting``, and taken over from there, its manifest last. It stays until that has
worked: through an outage, a full bucket, refused credentials and the end of the process. The next run of the
vehicle goes on with what is left.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tspace_core.config import TorqueMap, Vehicle
from tspace_core.errors import ObjectError, ObjectExistsError, StorageError
from tspace_core.objects.path import AnyPath, local_copy
from tspace_core.records.episode import Episode
from tspace_core.storage.files import atomic_write
from tspace_core.storage.lake import Lake, RawLog, read_json
from tspace_core.storage.online_episodes import OnlineCounts, store_online_episode
from tspace_core.storage.summaries import EpisodesSummary, from_metadata, to_metadata
from tspace_core.storage.unit_of_work import UnitOfWork

WAITING = "waiting"
_TAKEN_OUT = "quarantined"
"""Fingerprint of an episode of which a check has taken pieces out since it was stored."""


class EpisodeOutbox:
    """Stores a vehicle's online episodes; of one process at a time.

    Args:
        lake: where they belong.
        folder: of the vehicle's state on this machine.

    Attributes:
        folder: where episodes wait.
    """

    def __init__(self, lake: Lake, folder: Path) -> None:
        self._lake = lake
        self.folder = folder / WAITING
        self._waiting = Lake(self.folder)
        # On this machine there is nothing to wait for: what cannot be written there cannot wait there either.
        self._direct = lake.local == lake.root

    def store(
        self,
        vehicle: Vehicle,
        key: str,
        episodes: Sequence[Episode],
        *,
        counts: OnlineCounts | None = None,
        training_log: Mapping[str, Any] | None = None,
        live_map: TorqueMap | None = None,
    ) -> EpisodesSummary:
        """Store an episode so that it is not lost; ``deliver`` takes it to a lake that is elsewhere.

        Arguments and errors are those of ``store_online_episode``. The paths returned are the lake's.
        """
        place = self._lake if self._direct else self._waiting
        with UnitOfWork(place, name=f"online episode {key}") as unit:
            summary = store_online_episode(
                place, vehicle, key, episodes, counts=counts, training_log=training_log,
                live_map=live_map, writer=unit,
            )  # fmt: skip
        if self._direct:
            return summary
        moved = from_metadata(to_metadata(summary, self._waiting.root), self._lake.root)
        return EpisodesSummary(**{**moved, "reused": summary.reused})

    def waiting(self) -> list[str]:
        """Keys of the episodes that are not in the lake yet, the oldest first."""
        return [] if self._direct else sorted(log.key for log in self._waiting.episode_logs())

    def deliver(self) -> list[str]:
        """Take what waits to the lake, the oldest first; return the keys of what is there now.

        An episode whose key another one has in the lake stays here, the others are taken over.

        Raises:
            ObjectError: the lake cannot be written now; what waits is not lost.
            StorageError: an episode cannot be taken over, or this machine's disk cannot be read.
        """
        delivered: list[str] = []
        refused: StorageError | None = None
        for key in self.waiting():
            try:
                self._deliver(self._waiting.log_of(key))
            except ObjectError:
                raise
            except StorageError as error:
                refused = refused or error
                continue
            except OSError as error:
                message = f"online episode {key} waits in {self.folder} and cannot be read ({error})"
                raise StorageError(message) from error
            delivered.append(key)
        if delivered and not self.waiting():
            shutil.rmtree(self.folder, ignore_errors=True)
        if refused is not None:
            raise refused
        return delivered

    def _deliver(self, log: RawLog) -> None:
        manifest = local_copy(self._waiting.episodes_manifest(log))
        target = self._lake.episodes_manifest(log)
        content = read_json(manifest)
        there = self._is_there(target, manifest, content)
        parts = [manifest.with_name(str(entry["file"])) for entry in content["episodes"]]
        parts += [
            path
            for path in map(local_copy, (self._waiting.training_log(log), self._waiting.last_live_map(log)))
            if path.is_file()
        ]
        if not there:
            for path in parts:
                _copy(path, target, if_absent=False)
            try:
                _copy(manifest, target, if_absent=True)
            except ObjectExistsError:
                # Another machine was faster, or a try of our own whose answer was lost.
                if not self._is_there(target, manifest, content):
                    raise
        for path in (manifest, *parts):  # the manifest first: without it nothing waits
            path.unlink(missing_ok=True)

    def _is_there(self, target: AnyPath, manifest: Path, content: Mapping[str, Any]) -> bool:
        """Whether the lake has this very episode.

        Raises:
            StorageError: it has another one of this key.
        """
        if not target.is_file():
            return False
        found, ours = read_json(target)["summary"]["fingerprint"], content["summary"]["fingerprint"]
        if found not in (ours, _TAKEN_OUT):
            message = (
                f"{target} holds another episode of the key {content['summary']['key']}: the one driven "
                f"here stays in {manifest.parent}; number the episodes of a vehicle on, on all machines that "
                "drive it"
            )
            raise StorageError(message)
        return True


def _copy(path: Path, target: AnyPath, *, if_absent: bool) -> None:
    with atomic_write(target.with_name(path.name), if_absent=if_absent) as temporary:
        shutil.copyfile(path, temporary)
