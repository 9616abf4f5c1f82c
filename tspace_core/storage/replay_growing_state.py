"""What the one writer of a growing replay buffer knows of it."""

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import NamedTuple

from tspace_core.storage.replay_manifest import ReplayLayout
from tspace_core.storage.replay_segments import Segment


class Kept(NamedTuple):
    """An episode that is kept: its segment, and the rows it takes."""

    segment: int
    id: str
    rows: int


@dataclass
class State:
    """What an append changes; made anew for each, and taken over when it is published."""

    layout: ReplayLayout | None
    created: datetime
    number: int = 0
    segments: list[Segment] = field(default_factory=list)
    skipped: int = 0
    evicted_episodes: int = 0
    rows: int = 0
    records: int = 0
    episodes: int = 0
    chain: str = ""
    added: dict[str, Kept] = field(default_factory=dict)
    evicted: int = 0

    def copy(self) -> "State":
        """To be changed by the next append."""
        return replace(self, segments=list(self.segments), added={}, evicted=0)
