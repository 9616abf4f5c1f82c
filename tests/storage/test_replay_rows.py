"""Where the rows of a replay buffer are read from changes nothing about its batches."""

import mmap
from pathlib import Path

import numpy as np
import pytest

from tests.storage.replay_episodes import coded_episode
from tspace_core.errors import StorageError
from tspace_core.records.episode import Episode
from tspace_core.storage import replay_rows
from tspace_core.storage.replay import Replay, ReplayBatch, build_replay
from tspace_core.storage.replay_appender import ReplayAppender
from tspace_core.storage.replay_growing import GrowingReplay
from tspace_core.storage.replay_sequences import SequenceBatch

EPISODES = [coded_episode(n, 5 * n, end_reason=("terminal", "end")[n % 2]) for n in range(1, 9)]
MEMORY = 3


def memory_of(episode: Episode) -> np.ndarray:
    return np.arange(len(episode) * MEMORY, dtype=np.float32).reshape(-1, MEMORY)


def same(first: ReplayBatch | SequenceBatch, second: ReplayBatch | SequenceBatch) -> None:
    for name, a, b in zip(first._fields, first, second, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)


def draws_alike(first: Replay, second: Replay) -> None:
    one, other = np.random.default_rng(3), np.random.default_rng(3)
    same(first.sample(200, one), second.sample(200, other))
    same(first.sample_sequences(50, 6, one, burn_in=2), second.sample_sequences(50, 6, other, burn_in=2))
    same(first.sample(7, one), second.sample(7, other))
    numbers = np.arange(len(first))
    same(first.pick(numbers), second.pick(numbers))
    same(first.pick_sequences(numbers, 9), second.pick_sequences(numbers, 9))


def version(root: Path) -> Path:
    built = build_replay(root / "r", EPISODES, memories=memory_of, memory_dim=MEMORY)
    assert isinstance(built.directory, Path)
    return built.directory


def growing(root: Path) -> Path:
    """Of several segments, the first of them evicted."""
    folder = root / "r" / "growing"
    with ReplayAppender(folder, capacity_rows=150, segment_rows=64, memory_dim=MEMORY) as appender:
        for episode in EPISODES:
            appender.append(episode, memory=memory_of(episode))
    return folder


class _Watched:
    """A mapped file that notes which bytes were asked for."""

    def __init__(self, mapped: mmap.mmap) -> None:
        self.mapped = mapped
        self.asked = np.zeros(len(mapped), np.bool_)

    def __len__(self) -> int:
        return len(self.mapped)

    def madvise(self, advice: int, start: int = 0, length: int | None = None) -> None:
        size = len(self) - start if length is None else length
        assert start + size <= len(self)
        if advice == mmap.MADV_WILLNEED:
            self.asked[start : start + size] = True
        self.mapped.madvise(advice, start, size)


def watched(rows: replay_rows.MappedRows) -> list[_Watched]:
    maps = [_Watched(mapped) for mapped in rows._maps]
    rows._maps = maps  # type: ignore[assignment]
    rows._fresh = [(item, len(item)) for item in maps]  # type: ignore[misc]
    return maps


@pytest.mark.parametrize("build", [version, growing])
def test_a_buffer_larger_than_the_memory_gives_the_same_and_asks_for_what_it_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build: object
) -> None:
    assert callable(build)
    folder = build(tmp_path)
    kind = Replay if build is version else GrowingReplay
    warm = kind(folder)
    assert not warm._rows.cold
    monkeypatch.setattr(replay_rows, "memory_limit", lambda: 2 * mmap.PAGESIZE)
    cold = kind(folder)
    assert cold._rows.cold
    draws_alike(warm, cold)

    read = kind(folder)
    assert read._memory is not None
    rows, memory = watched(read._rows), watched(read._memory)
    first = len(read) - 40
    found = read.pick_sequences(np.array([first]), 9)
    assert found.mask.all() and found.memory is not None and found.memory.any()
    place = read._index.rows(read._index.high - 1)
    row = place.first + place.length - 40
    for mapped, maps, count in ((read._rows, rows, 10), (read._memory, memory, 1)):
        segment, width = row >> mapped.bits, mapped.row_bytes
        begin = (row - (segment << mapped.bits)) * width
        asked = maps[segment - mapped.first].asked
        assert asked[begin : begin + count * width].all()
        whole = count * width + 2 * mmap.PAGESIZE
        assert sum(int(item.asked.sum()) for item in maps) < whole, "and for nothing else"


def test_rows_in_memory_give_the_same_batches_whatever_becomes_of_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = version(tmp_path)
    mapped, copied = Replay(folder), Replay.open(tmp_path / "r", in_memory=True)
    rows = folder / "rows.f32"
    expected = mapped.pick(np.arange(len(mapped)))
    rows.write_bytes(bytes(rows.stat().st_size))  # the mapped one sees that, and is gone with it
    assert not mapped.pick(np.arange(len(mapped))).states.any()
    same(copied.pick(np.arange(len(copied))), expected)
    monkeypatch.setattr(replay_rows, "memory_limit", lambda: 2 * mmap.PAGESIZE)
    with pytest.raises(StorageError, match=r"rows\.f32: .* too much to be copied.*without in_memory"):
        Replay(folder, in_memory=True)


def test_rows_in_memory_and_mapped_rows_are_drawn_alike(tmp_path: Path) -> None:
    folder = version(tmp_path)
    draws_alike(Replay(folder), Replay(folder, in_memory=True))


def test_evicted_segments_give_their_disk_space_back_also_where_nothing_is_drawn(tmp_path: Path) -> None:
    folder = tmp_path / "r" / "growing"
    with ReplayAppender(folder, capacity_rows=64, segment_rows=32, memory_dim=MEMORY) as appender:
        appender.append(coded_episode(1, 20))
        reader = GrowingReplay(folder)
        for number in range(2, 9):
            appender.append(coded_episode(number, 25))
            reader.refresh()
    maps = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(folder) in line]
    rows = [line for line in maps if ".f32" in line]
    assert len(rows) == 2 * len(reader.growing.segments), "rows and memories of the kept ones"
    assert not [line for line in maps if line.endswith("(deleted)")]
