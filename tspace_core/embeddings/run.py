"""From a vehicle's episodes to a trained encoder, and to vectors of all their records."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from tspace_core.config.embeddings import EmbeddingParameters, load_embeddings
from tspace_core.embeddings.base import Encoder, Float
from tspace_core.embeddings.quality import NeighbourQuality, neighbour_quality, situation_figures
from tspace_core.embeddings.registry import new_encoder
from tspace_core.embeddings.store import latest_encoder, store_encoder
from tspace_core.errors import StorageError
from tspace_core.objects.path import AnyPath
from tspace_core.objects.transfer import side_by_side
from tspace_core.storage import episodes_table
from tspace_core.storage.embedding_rows import EmbeddedEpisode
from tspace_core.storage.embeddings import EmbeddingTable, EncoderName, TableState
from tspace_core.storage.lake import Lake, read_json
from tspace_core.storage.writer import DIRECT, Writer

BLOCK_ROWS = 50_000
"""Records that become visible at a time: what an interrupted run loses at most."""
_LEAST_RUN = 32
"""Windows of an episode that are learned from at least: neighbours in time must be among them."""

Tell = Callable[[str], object]


class Layout(NamedTuple):
    """What windows are made of; an encoder knows one."""

    window: int
    signals: tuple[str, ...]
    rate_hz: float

    def __str__(self) -> str:
        return f"{self.window} samples of {', '.join(self.signals)} at {self.rate_hz:g} Hz"


@dataclass(frozen=True)
class Listed:
    """An episode as its manifest tells it."""

    episode_id: str
    path: AnyPath
    records: int
    start_ns: int
    layout: Layout


@dataclass(frozen=True)
class TrainedEncoder:
    """What training gave.

    Attributes:
        encoder: as it is in the lake.
        folder: where.
        episodes, windows: it has learned from.
        seconds: of learning.
        quality: of neighbours among what it learned from; None where there is nothing to compare.
    """

    encoder: Encoder
    folder: AnyPath
    episodes: int
    windows: int
    seconds: float
    quality: NeighbourQuality | None


@dataclass(frozen=True)
class Embedded:
    """What embedding gave.

    Attributes:
        state: of the table now.
        new_rows, new_episodes: written by this run.
        removed: episodes that are gone.
        seconds: of encoding and writing.
    """

    state: TableState
    new_rows: int
    new_episodes: int
    removed: int
    seconds: float


def list_episodes(lake: Lake, vehicle_id: str) -> list[Listed]:
    """The vehicle's visible episodes by their beginning; only manifests are read.

    Raises:
        StorageError: a manifest is damaged.
    """

    def listed(manifest: AnyPath) -> list[Listed]:
        content = read_json(manifest)
        try:
            return [_listed(manifest, entry) for entry in content["episodes"]]
        except (KeyError, TypeError, ValueError) as error:
            message = (
                f"{manifest} is damaged ({type(error).__name__}: {error}): delete it, run its stage again"
            )
            raise StorageError(message) from error

    found = side_by_side(listed, lake.episode_manifests(vehicle_id))
    return sorted(
        (item for items in found for item in items), key=lambda item: (item.start_ns, item.episode_id)
    )


def _listed(manifest: AnyPath, entry: Mapping[str, Any]) -> Listed:
    meta = entry["meta"]
    return Listed(
        episode_id=str(meta["episode_id"]),
        path=manifest.parent / str(entry["file"]),
        records=int(entry["records"]),
        start_ns=int(entry["start_ns"]),
        layout=Layout(int(meta["window"]), tuple(meta["signals"]), float(meta["rate_hz"])),
    )


def train_encoder(
    lake: Lake,
    vehicle_id: str,
    parameters: EmbeddingParameters | None = None,
    *,
    writer: Writer = DIRECT,
    tell: Tell = lambda line: None,
) -> TrainedEncoder:
    """Train an encoder on a vehicle's episodes and store it as its latest.

    It learns windows of the layout that most records have.

    Args:
        lake: with the episodes.
        vehicle_id: whose.
        parameters: default: those of conf/hyperparameters/embeddings.yaml.
        writer: makes it visible.
        tell: is told what goes on.

    Raises:
        StorageError: there is no episode, or one is damaged.
    """
    chosen = parameters or load_embeddings()
    episodes = list_episodes(lake, vehicle_id)
    if not episodes:
        message = f"{lake.root} holds no episode of {vehicle_id}: take in logs with `tspace ingest`"
        raise StorageError(message)
    layout = main_layout(episodes)
    encoder = new_encoder(chosen, window=layout.window, signals=layout.signals, rate_hz=layout.rate_hz)
    usable = [item for item in episodes if item.layout == layout]
    runs = list(_training_runs(usable, chosen.training_windows, chosen.seed))
    windows = sum(map(len, runs))
    tell(f"{chosen.encoder}: learns from {windows} windows of {len(runs)} episodes, {layout}")
    began = time.perf_counter()
    encoder.fit(runs)
    seconds = time.perf_counter() - began
    folder = store_encoder(lake, vehicle_id, encoder, windows=windows, episodes=len(runs), writer=writer)
    tell(f"{folder}: trained in {seconds:.1f} s")
    return TrainedEncoder(encoder, folder, len(runs), windows, seconds, quality_of(encoder, runs))


def main_layout(episodes: Iterable[Listed]) -> Layout:
    """The layout that most records have."""
    counted: Counter[Layout] = Counter()
    for item in episodes:
        counted[item.layout] += item.records
    return max(counted, key=lambda layout: (counted[layout], layout))


def quality_of(encoder: Encoder, runs: list[Float]) -> NeighbourQuality | None:
    """How alike neighbours are that the encoder finds among runs, each of one episode."""
    windows = np.concatenate(runs)
    groups = np.repeat(np.arange(len(runs)), [len(run) for run in runs])
    figures = situation_figures(windows, encoder.signals, encoder.rate_hz)
    return neighbour_quality(encoder.encode(windows), figures, groups)


def _training_runs(episodes: list[Listed], most: int, seed: int) -> Iterator[Float]:
    """Consecutive windows of the episodes, spread over them, some ``most`` in all."""
    total = sum(item.records for item in episodes)
    generator = np.random.default_rng(seed)
    share = min(1.0, most / total)
    order = generator.permutation(len(episodes)) if share < 1.0 else np.arange(len(episodes))
    taken = 0
    for number in order.tolist():
        if taken >= most:
            return
        item = episodes[number]
        length = min(item.records, max(_LEAST_RUN, round(share * item.records)), most - taken)
        first = int(generator.integers(0, item.records - length + 1))
        windows = _windows(episodes_table.read(item.path), item.layout)
        yield windows[first : first + length]
        taken += length


def _windows(episode: Any, layout: Layout) -> Float:
    count = len(episode)
    windows: Float = episode.states[:count].reshape(count, layout.window, len(layout.signals))
    return windows


def embed_episodes(
    lake: Lake,
    vehicle_id: str,
    *,
    encoder: Encoder | None = None,
    writer: Writer = DIRECT,
    block_rows: int = BLOCK_ROWS,
    tell: Tell = lambda line: None,
) -> Embedded:
    """Give every record of a vehicle its vector; only new and changed episodes are encoded.

    Each ``block_rows`` records become visible as they are done, so that a stopped run goes on where it was.
    All become visible together where a unit of work writes, and where the encoder is another than that of the
    table, which stays as it is until then.

    Args:
        lake: with the episodes.
        vehicle_id: whose.
        encoder: default: the vehicle's latest.
        writer: makes it visible.
        block_rows: records at a time.
        tell: is told how far it is.

    Raises:
        CheckpointError: no encoder was trained, or it is damaged.
        StorageError: an episode or the table is damaged.
        WriterBusyError: somebody else embeds this vehicle's episodes.
    """
    began = time.perf_counter()
    used = encoder or latest_encoder(lake, vehicle_id)
    name = EncoderName(used.id, used.dim)
    table = EmbeddingTable(lake, vehicle_id)
    state = table.state()
    same = state is not None and state.encoder == name.id
    known = table.sources() if same else {}
    episodes = list_episodes(lake, vehicle_id)
    fitting = [item for item in episodes if used.fits(*item.layout)]
    left_out = Counter(
        f"other windows than the encoder's: {item.layout}" for item in episodes if not used.fits(*item.layout)
    )
    new = [item for item in fitting if known.get(item.episode_id) != item.path.name]
    gone = set(known) - {item.episode_id for item in fitting}
    if state is not None and same and not new and not gone and state.left_out == dict(left_out):
        return Embedded(state, 0, 0, 0, time.perf_counter() - began)
    at_once = writer is not DIRECT or (not same and state is not None)
    done = rows = 0
    for block in _blocks(new, sum(item.records for item in new) if at_once else block_rows):
        state = table.store(
            (_embedded(item, used) for item in block),
            encoder=name,
            gone=gone,
            left_out=left_out,
            writer=writer,
        )
        done, rows = done + len(block), rows + sum(item.records for item in block)
        tell(f"{done} of {len(new)} new episodes embedded, {state.rows} rows")
    assert state is not None  # there is always a block, were it an empty one
    return Embedded(state, rows, done, len(gone), time.perf_counter() - began)


def _embedded(item: Listed, encoder: Encoder) -> EmbeddedEpisode:
    episode = episodes_table.read(item.path)
    vectors = encoder.encode(_windows(episode, item.layout))
    return EmbeddedEpisode(source=item.path.name, episode=episode, vectors=vectors)


def _blocks(items: list[Listed], rows: int) -> Iterator[list[Listed]]:
    block: list[Listed] = []
    for item in items:
        block.append(item)
        if sum(one.records for one in block) >= rows:
            yield block
            block = []
    if block or not items:
        yield block
