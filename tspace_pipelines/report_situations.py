"""Where the agent changes the map most, and when the recorded drives were like that."""

from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from tspace_core.config import FLASHED_ROWS, Vehicle
from tspace_core.errors import StorageError, TspaceError
from tspace_core.evaluation.sections import SituationLine, SituationsSection
from tspace_core.objects.path import AnyPath
from tspace_core.storage.lake import Lake

if TYPE_CHECKING:
    from tspace_core.embeddings.run import Listed
    from tspace_core.evaluation.figures.situations import Strip
    from tspace_core.records.episode import Episode
    from tspace_core.storage.embedding_rows import Neighbour
    from tspace_core.storage.embeddings import EmbeddingTable

SITUATIONS, NEIGHBOURS = 3, 3
LOOKED_AT = 20
"""Episodes in which the largest changes are looked for, evenly from all."""
APART = 0.15
"""Cosine distance from which on two situations are worth being shown both."""
_AROUND = 2
"""Windows shown before and after."""


def situations_section(lake: Lake, vehicle: Vehicle, checkpoint: AnyPath) -> SituationsSection | None:
    """Situations with the agent's largest changes of the map, each beside recorded ones like it.

    Args:
        lake: with episodes and their vectors.
        vehicle: whose.
        checkpoint: of the agent.

    Returns:
        None where there are no vectors. Where they or their episodes cannot be read, a section that says so:
        a report on an agent does not fail for it.
    """
    from tspace_core.storage.embeddings import EmbeddingTable

    try:
        table = EmbeddingTable(lake, vehicle.id)
        state = table.state()
        if state is None or not state.rows:
            return None
        return _section(lake, vehicle, checkpoint, table)
    except (TspaceError, OSError) as error:
        return SituationsSection(note=f"The recorded situations could not be searched: {error}")


def _section(
    lake: Lake, vehicle: Vehicle, checkpoint: AnyPath, table: "EmbeddingTable"
) -> SituationsSection | None:
    from tspace_core.embeddings.run import list_episodes
    from tspace_core.evaluation.figures.situations import situation_strips
    from tspace_core.storage import episodes_table
    from tspace_core.storage.embedding_rows import SituationFilter

    known = table.sources()
    listed = {
        item.episode_id: item
        for item in list_episodes(lake, vehicle.id)
        if known.get(item.episode_id) == item.path.name
    }
    changed = _largest_changes(vehicle, checkpoint, table, list(listed.values()))
    lines, pictures = [], []
    for number, (episode_id, k, vector, change) in enumerate(changed, start=1):
        episode = episodes_table.read(listed[episode_id].path)
        where = SituationFilter(other_than=episode_id if len(known) > 1 else None, not_record=(episode_id, k))
        found = [item for item in table.search(vector, NEIGHBOURS, where=where) if item.episode_id in listed]
        strips = [_strip(episode, k, f"{number}: changed by {change:.0f} Nm\n{_when(episode, k)}")]
        strips += [
            _strip(
                neighbour, item.k, f"distance {item.distance:.3f}, {item.driver}\n{_when(neighbour, item.k)}"
            )
            for item in found
            for neighbour in [episodes_table.read(listed[item.episode_id].path)]
        ]
        caption = (
            f"Situation {number} (left) and recorded ones like it: speed above, pedal below; shaded is the "
            "window that was compared. Between the windows nothing is recorded."
        )
        pictures.append(situation_strips(strips, f"situation_{number}", caption))
        lines.append(
            SituationLine(
                number=number, episode=episode_id, at_s=(int(episode.times[k]) - int(episode.times[0])) / 1e9,
                change_nm=change, neighbours=tuple(_told(item) for item in found),
            )
        )  # fmt: skip
    state = table.state()
    if not lines or state is None:
        return None
    return SituationsSection(
        encoder=state.encoder, rows=state.rows, lines=tuple(lines), pictures=tuple(pictures)
    )


def _largest_changes(
    vehicle: Vehicle, checkpoint: AnyPath, table: "EmbeddingTable", episodes: "list[Listed]"
) -> list[tuple[str, int, NDArray[np.float32], float]]:
    """Episode, record, vector and mean absolute change in Nm of situations that differ from each other.

    The change is that of the flashed rows: what the limits cut off would not be driven.

    Raises:
        StorageError: an episode has another number of vectors than records.
    """
    from tspace_core.agents.scorers import Recorded
    from tspace_core.agents.scoring import open_checkpoint
    from tspace_core.storage import episodes_table

    scorer = open_checkpoint(str(checkpoint)).scorer
    default, limits = vehicle.default_map(), vehicle.torque_map
    sampling = vehicle.sampling
    stride = -(-len(episodes) // LOOKED_AT) or 1
    places: list[tuple[str, int]] = []
    changes, vectors = [], []
    for item in episodes[::stride]:
        episode = episodes_table.read(item.path)
        if (episode.meta.window, episode.meta.signals) != (sampling.window, sampling.signals):
            continue
        known = table.vectors(item.episode_id)
        if len(known) != len(episode):
            message = (
                f"{table.pointer}: {len(known)} vectors of {item.episode_id}, which has {len(episode)} "
                f"records: delete it, then `tspace embed --vehicle {vehicle.id}`"
            )
            raise StorageError(message)
        states = np.ascontiguousarray(episode.states[:-1])
        speed = states.reshape(len(states), sampling.window, -1)[:, :, sampling.signals.index("velocity")]
        rows = default.first_row(speed.max(axis=1))
        begins = np.arange(len(states)) == 0
        values = scorer(Recorded(states, episode.actions, episode.rewards, begins))
        torque, _ = default.flashed_rows(
            values.actions, rows, budget_nm=limits.budget_nm, upper_factor=limits.upper_factor
        )
        change = np.abs(torque - default.table[rows[:, None] + np.arange(FLASHED_ROWS)])
        places += [(item.episode_id, k) for k in range(len(episode))]
        changes.append(change.mean(axis=(1, 2), dtype=np.float64))
        vectors.append(known)
    if not places:
        return []
    by_place, vector = np.concatenate(changes), np.concatenate(vectors)
    free = np.ones(len(places), np.bool_)
    found: list[tuple[str, int, NDArray[np.float32], float]] = []
    while len(found) < SITUATIONS and free.any():
        best = int(np.where(free, by_place, -1.0).argmax())
        found.append((*places[best], vector[best], float(by_place[best])))
        free &= 1.0 - vector @ vector[best] > APART
    return found


def _strip(episode: "Episode", k: int, title: str) -> "Strip":
    """The windows around record ``k``, broken where nothing is recorded."""
    from tspace_core.evaluation.figures.situations import Strip

    meta = episode.meta
    first, stop = max(0, k - _AROUND), min(len(episode.states), k + _AROUND + 1)
    windows = (
        episode.states[first:stop].reshape(stop - first, meta.window, len(meta.signals)).astype(np.float64)
    )
    begun = (episode.times[first:stop] - episode.times[k]) / 1e9
    time = begun[:, None] + np.arange(meta.window + 1) / meta.rate_hz
    gap = np.full((stop - first, 1), np.nan)

    def broken(signal: str) -> NDArray[np.float64]:
        if signal not in meta.signals:
            return np.full(time.size, np.nan)
        return np.concatenate([windows[:, :, meta.signals.index(signal)], gap], axis=1).ravel()

    return Strip(title, time.ravel(), broken("velocity"), broken("thrust"), meta.window / meta.rate_hz)


def _when(episode: "Episode", k: int) -> str:
    from datetime import UTC, datetime

    instant = datetime.fromtimestamp(int(episode.times[k]) / 1e9, UTC)
    return f"{instant.astimezone(ZoneInfo(episode.meta.timezone)):%Y-%m-%d %H:%M:%S}"


def _told(item: "Neighbour") -> str:
    return f"{item.episode_id} at {item.at_s:.0f} s"
