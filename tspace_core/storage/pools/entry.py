"""What a pool knows of an episode without reading it."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tspace_core.records.meta import EpisodeMeta
from tspace_core.records.policy import ACTION_DIM
from tspace_core.storage.pools.digest import zeroed
from tspace_core.storage.replay_manifest import ReplayLayout

__all__ = ["Entry", "layout_mark", "layout_of_meta", "zeroed"]
_LAYOUT = (
    "rate_hz", "window", "signals", "reward_kind", "gamma", "budget_nm", "pedal_axis", "speed_axis_kmh",
)  # fmt: skip
_DEFAULTS = {
    name: found.default for name, found in EpisodeMeta.model_fields.items() if not found.is_required()
}


@dataclass(frozen=True)
class Entry:
    """What a pool knows of an episode without reading it.

    Attributes:
        episode_id: ``<log key>#<piece>``.
        vehicle_id: whose.
        driver_id: who drove.
        site_id: where.
        agent: what acted, ``EpisodeMeta.action_source``.
        start_ns: time of its first state, ns UTC.
        end_ns: time of its last state, which is no record's, ns UTC.
        records: how many.
        invalid: how many of them have a reward that is not their action's (``RecordFlag.ZEROED``).
        state_dim: length of a state.
        layout: equal where two episodes can be in one sample (``layout_mark``).
        place: where it lies, for people.
        digest: of its content, see ``digest``; "" where the pool does not know it.
        load_meta: gives the meta information.
    """

    episode_id: str
    vehicle_id: str
    driver_id: str
    site_id: str
    agent: str
    start_ns: int
    end_ns: int
    records: int
    invalid: int
    state_dim: int
    layout: str
    place: str
    digest: str = ""
    load_meta: Callable[[], EpisodeMeta] | None = field(default=None, repr=False, compare=False)

    @property
    def meta(self) -> EpisodeMeta:
        """Meta information, parsed when it is asked for."""
        assert self.load_meta is not None, "an entry of a pool has a way to its meta information"
        return self.load_meta()

    @property
    def order(self) -> tuple[int, str]:
        """What entries are in the order of."""
        return self.start_ns, self.episode_id


def layout_of_meta(meta: EpisodeMeta) -> ReplayLayout:
    """What all episodes of one sample have in common."""
    shared: dict[str, Any] = {name: getattr(meta, name) for name in _LAYOUT}
    return ReplayLayout(state_dim=meta.window * len(meta.signals), action_dim=ACTION_DIM, **shared)


def layout_mark(meta: Mapping[str, Any]) -> str:
    """16 hex digits that are equal for equal layouts; of meta information as JSON types."""
    shared = [_plain(meta.get(name, _DEFAULTS.get(name))) for name in _LAYOUT]
    return hashlib.sha256(json.dumps(shared).encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    """A number is the same with and without its decimal point."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return float(value) if isinstance(value, int | float) else value
