"""Where new logs arrive: in a folder, in a bucket, from telematics boxes."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from tspace_core.storage.lake import Lake
from tspace_pipelines.inbox import Seen, Taken, take

if TYPE_CHECKING:
    from tspace_core.storage.box_logs import BoxCollector, Collected
    from tspace_pipelines.bucket_inbox import Position

_collectors: dict[str, "BoxCollector"] = {}
_unconfirmed: dict[str, dict[str, None]] = {}
_lock = threading.Lock()


class InboxResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The watched folder ``<folder>/<vehicle id>/<log>``."""

    folder: str = Field(description="watched folder")
    min_age_s: float = Field(
        default=5.0, ge=0, description="a file is complete if untouched for this long, s"
    )
    budget_s: float = Field(default=20.0, gt=0, description="no further file is begun after this time, s")

    def take(self, lake: Lake, seen: Seen) -> Taken:
        """Store what is new and complete; see ``tspace_pipelines.inbox.take``."""
        return take(Path(self.folder), lake, seen, min_age_s=self.min_age_s, budget_s=self.budget_s)


class BucketInboxResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The watched place in a bucket ``<url>/<vehicle id>/<log>``."""

    url: str = Field(description="watched place, s3://bucket/prefix")
    budget_s: float = Field(default=20.0, gt=0, description="no further log is begun after this time, s")

    def take(self, lake: Lake, position: "Position") -> Taken:
        """Store what is new; see ``tspace_pipelines.bucket_inbox.take_from_bucket``."""
        from tspace_core.objects.path import S3Path
        from tspace_pipelines.bucket_inbox import take_from_bucket

        return take_from_bucket(S3Path(self.url), lake, position, budget_s=self.budget_s)


class BoxesResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The place in a bucket where telematics boxes upload windows, ``<url>/<vin>/...``."""

    url: str = Field(description="place of all boxes, s3://bucket/prefix")
    budget_s: float = Field(default=20.0, gt=0, description="nothing more is begun after this time, s")
    quiet_s: float = Field(
        default=60.0, ge=0, description="a drive is over when nothing has been uploaded for this long, s"
    )

    def collect(self, lake: Lake, has_partition: Callable[[str], bool]) -> tuple["Collected", list[str]]:
        """Look once; what a process knows of the boxes is kept between looks.

        Returns:
            What the look brought, and the keys of all logs, of this look and of earlier ones, that have no
            partition: the tick that asked for it may have been lost.
        """
        from tspace_core.objects.path import S3Path
        from tspace_core.storage.box_logs import BoxCollector, Rules

        mark = f"{self.url}\0{self.budget_s}\0{self.quiet_s}\0{lake.root}\0{lake.local}"
        with _lock:
            if mark not in _collectors:
                rules = Rules(budget_s=self.budget_s, quiet_s=self.quiet_s)
                _collectors[mark] = BoxCollector(lake, S3Path(self.url), rules=rules)
            found = _collectors[mark].collect()
            unsure = _unconfirmed.setdefault(mark, {})
            unsure.update(dict.fromkeys([*found.earlier, *(log.key for log in found.logs)]))
            for key in [key for key in unsure if has_partition(key)]:
                del unsure[key]
            return found, list(unsure)
