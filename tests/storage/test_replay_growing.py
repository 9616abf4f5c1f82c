"""A buffer that grows while it is sampled: what readers see of appends, evictions and failures."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.storage.replay_episodes import STATE_DIM, coded_episode
from tspace_core.errors import SchemaVersionError, StorageError, UnitOfWorkError, WriterBusyError
from tspace_core.objects.path import any_path
from tspace_core.records.episode import Episode
from tspace_core.storage import unit_disk
from tspace_core.storage.lake import Lake
from tspace_core.storage.replay import Replay, ReplayBatch, build_replay
from tspace_core.storage.replay_appender import ReplayAppender
from tspace_core.storage.replay_growing import GrowingReplay
from tspace_core.storage.replay_sequences import SequenceBatch
from tspace_core.storage.replay_writer import layout_of
from tspace_core.storage.unit_of_work import UnitOfWork
from tspace_core.storage.writer import DIRECT, Direct

ROOMY = 100_000


def all_of(replay: Replay) -> ReplayBatch:
    return replay.pick(np.arange(len(replay)))


def ids(replay: Replay) -> list[str]:
    return [item.id for item in replay.manifest.content.episodes]


def same(first: ReplayBatch | SequenceBatch, second: ReplayBatch | SequenceBatch) -> None:
    for name, a, b in zip(first._fields, first, second, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)


def as_version(folder: Path, episodes: list[Episode]) -> Replay:
    return build_replay(folder, episodes)


def test_what_is_appended_is_read_as_from_a_version(tmp_path: Path) -> None:
    episodes = [coded_episode(n, n + 2, end_reason=("terminal", "end")[n % 2]) for n in range(1, 30)]
    with ReplayAppender(tmp_path / "r" / "growing", capacity_rows=ROOMY, segment_rows=64) as appender:
        appender.extend(episodes)
        assert len(appender) == sum(len(episode) for episode in episodes)
    growing = Replay.open(tmp_path / "r")
    version = as_version(tmp_path / "v", episodes)
    same(all_of(growing), all_of(version))
    same(growing.sample(99, np.random.default_rng(1)), version.sample(99, np.random.default_rng(1)))
    same(
        growing.sample_sequences(40, 7, np.random.default_rng(1), burn_in=3, stride=5),
        version.sample_sequences(40, 7, np.random.default_rng(1), burn_in=3, stride=5),
    )
    assert ids(growing) == ids(version)
    np.testing.assert_allclose(growing.state_mean, version.state_mean, rtol=1e-12)
    np.testing.assert_allclose(growing.state_std, version.state_std, rtol=1e-9)
    assert growing.manifest.content.reward.minimum == version.manifest.content.reward.minimum
    assert growing.manifest.content.reward.mean == pytest.approx(version.manifest.content.reward.mean)
    growing.verify()


def test_appends_within_a_tick_of_the_clock_are_seen(tmp_path: Path) -> None:
    """A manifest's inode is free for the next but one, which may have its time and length as well."""
    folder = tmp_path / "r" / "growing"
    manifest = folder / "manifest.json"
    with ReplayAppender(folder, capacity_rows=ROOMY) as appender:

        def append(number: int) -> None:
            appender.append(coded_episode(number, 5))
            manifest.write_bytes(manifest.read_bytes().ljust(8192))
            os.utime(manifest, (0, 0))

        append(1)
        reader = GrowingReplay(folder)
        for number in (2, 4, 6):
            append(number)
            append(number + 1)
            assert reader.refresh()
            assert len(reader) == 5 * (number + 1)
            assert not reader.refresh()


def test_readers_see_an_append_when_they_refresh(tmp_path: Path) -> None:
    folder = tmp_path / "r" / "growing"
    with ReplayAppender(folder, capacity_rows=ROOMY) as appender:
        appender.append(coded_episode(1, 5))
        reader, other = GrowingReplay(folder), GrowingReplay(folder)
        assert not reader.refresh()
        appender.append(coded_episode(2, 6))
        assert len(reader) == 5
        assert reader.refresh()
        assert (len(reader), len(other)) == (11, 5)
        assert other.refresh()
        same(all_of(reader), all_of(other))
        assert "e2" in appender
        assert "e3" not in appender


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=25),
    capacity=st.integers(31, 120),
    reopen=st.sets(st.integers(0, 25)),
    look=st.sets(st.integers(0, 25)),
)
def test_the_oldest_episodes_leave_whole(
    tmp_path_factory: pytest.TempPathFactory,
    lengths: list[int],
    capacity: int,
    reopen: set[int],
    look: set[int],
) -> None:
    """Against a list: what is kept, in which order, with which figures, whoever looks when."""
    folder = tmp_path_factory.mktemp("replay") / "r" / "growing"
    appender = ReplayAppender(folder, capacity_rows=capacity, segment_rows=32)
    late: GrowingReplay | None = None
    kept: list[Episode] = []
    for number, length in enumerate(lengths):
        episode = coded_episode(number, length)
        appender.append(episode)
        kept.append(episode)
        while sum(len(item) + 1 for item in kept) > capacity:
            kept.pop(0)
        if number in reopen:
            appender.close()
            appender = ReplayAppender(folder, capacity_rows=capacity, segment_rows=32)
        if late is None:
            late = GrowingReplay(folder)
        if number in look:
            late.refresh()
    appender.close()
    assert late is not None
    late.refresh()
    fresh = GrowingReplay(folder)
    states = np.concatenate([episode.states for episode in kept]).astype(np.float64)
    rewards = np.concatenate([episode.rewards for episode in kept])
    for reader in (late, fresh):
        assert ids(reader) == [episode.meta.episode_id for episode in kept]
        np.testing.assert_array_equal(all_of(reader).rewards, rewards)
        same(
            reader.sample_sequences(8, 5, np.random.default_rng(2)),
            fresh.sample_sequences(8, 5, np.random.default_rng(2)),
        )
        np.testing.assert_allclose(reader.state_mean, states.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(reader.state_std, states.std(axis=0), rtol=1e-9, atol=1e-12)
        reward = reader.manifest.content.reward
        assert (reward.minimum, reward.maximum) == (rewards.min(), rewards.max())
        reader.verify()
    segments = {path.name for path in folder.glob("segment-*")}
    assert len(segments) <= capacity // 16 + 2, "evicted segments are given back"


def test_a_reader_keeps_what_it_had_until_it_refreshes(tmp_path: Path) -> None:
    """Also when its files are long gone, so its batches follow from its own calls alone."""
    folder = tmp_path / "r" / "growing"
    with ReplayAppender(folder, capacity_rows=64, segment_rows=32) as appender:
        appender.append(coded_episode(1, 20))
        reader = GrowingReplay(folder)
        before = reader.sample(50, np.random.default_rng(3))
        for number in range(2, 12):
            appender.append(coded_episode(number, 25))
        assert not (folder / "segment-00000001").exists()
        same(reader.sample(50, np.random.default_rng(3)), before)
        reader.refresh()
    assert ids(reader) == ["e10", "e11"]
    assert set(np.floor(reader.sample(50, np.random.default_rng(3)).rewards)) == {10, 11}


def test_equal_appends_give_equal_batches_in_another_process(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with ReplayAppender(tmp_path / name / "growing", capacity_rows=60, segment_rows=32) as appender:
            for number in range(8):
                appender.append(coded_episode(number, 12))
    one = GrowingReplay(tmp_path / "a" / "growing")
    program = (
        "import sys, numpy as np\nfrom pathlib import Path\n"
        "from tspace_core.storage.replay import Replay\n"
        "replay = Replay.open(Path(sys.argv[1]), 'growing')\n"
        "batch = replay.sample(64, np.random.default_rng(5))\n"
        "print(replay.manifest.content_sha256, batch.rewards.tobytes().hex(), 'torch' in sys.modules)\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "b")], capture_output=True, text=True, check=True
    )
    rewards = one.sample(64, np.random.default_rng(5)).rewards.tobytes().hex()
    assert found.stdout.split() == [one.manifest.content_sha256, rewards, "False"]


def test_recurrent_states_stay_with_their_records(tmp_path: Path) -> None:
    folder = tmp_path / "r" / "growing"
    memory = np.arange(20, dtype=np.float32).reshape(10, 2) + 1
    with ReplayAppender(folder, capacity_rows=ROOMY, memory_dim=2, segment_rows=32) as appender:
        appender.append(coded_episode(1, 10), memory=memory)
        appender.append(coded_episode(2, 10))
        with pytest.raises(StorageError, match=r"recurrent states of episode 'e3' are \(10, 2\), expected"):
            appender.append(coded_episode(3, 9), memory=memory)
        with pytest.raises(StorageError, match="not finite"):
            appender.append(coded_episode(3, 10), memory=memory * np.nan)
    reader = GrowingReplay(folder)
    assert reader.memory_dim == 2
    found = reader.pick_sequences(np.array([3, 9, 10]), 4)
    assert found.memory is not None
    np.testing.assert_array_equal(found.memory, [memory[3], memory[9], [0, 0]])
    reader.verify()
    with pytest.raises(StorageError, match=r"keeps recurrent states of 2, 3 asked for"):
        ReplayAppender(folder, capacity_rows=ROOMY, memory_dim=3)


def test_only_one_appends(tmp_path: Path) -> None:
    folder = tmp_path / "r" / "growing"
    with (
        ReplayAppender(folder, capacity_rows=ROOMY),
        pytest.raises(WriterBusyError, match="somebody else appends"),
    ):
        ReplayAppender(folder, capacity_rows=ROOMY)
    with ReplayAppender(folder, capacity_rows=ROOMY) as appender:
        appender.append(coded_episode(1, 3))
    with pytest.raises(StorageError, match="is closed"):
        appender.append(coded_episode(2, 3))


def test_what_does_not_fit_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "r" / "growing"
    with pytest.raises(StorageError, match="a segment of 33 rows; give a power of two"):
        ReplayAppender(folder, capacity_rows=40, segment_rows=33)
    with pytest.raises(StorageError, match="a segment of 0 rows; give a power of two"):
        ReplayAppender(folder, capacity_rows=40, segment_rows=0)
    with pytest.raises(StorageError, match="recurrent states of -1 numbers; give 0"):
        ReplayAppender(folder, capacity_rows=40, memory_dim=-1)
    with pytest.raises(StorageError, match="capacity is 1 rows"):
        ReplayAppender(folder, capacity_rows=1)
    with ReplayAppender(folder, capacity_rows=40, segment_rows=32) as appender:
        appender.append(coded_episode(1, 20))
        for episode, says in (
            (coded_episode(2, 40), "takes 41 rows, the capacity of .* is 40"),
            (coded_episode(2, 35), "takes 36 rows, the segment size of .* is 32"),
            (coded_episode(1, 5), "'e1' is in .* already"),
            (coded_episode(2, 5, rate_hz=50.0), r"rate_hz 50\.0 instead of 20\.0"),
        ):
            with pytest.raises(StorageError, match=says):
                appender.extend([coded_episode(7, 2), episode])
        assert ids(GrowingReplay(folder)) == ["e1"]
        appender.append(coded_episode(7, 2))
    reader = GrowingReplay(folder)
    assert ids(reader) == ["e1", "e7"]
    reader.verify()


def test_an_empty_buffer_can_be_waited_for(tmp_path: Path) -> None:
    folder = tmp_path / "r" / "growing"
    with pytest.raises(StorageError, match="no growing replay buffer yet"):
        GrowingReplay(folder)
    layout = layout_of(coded_episode(1, 1))
    with ReplayAppender(folder, capacity_rows=ROOMY, layout=layout) as appender:
        reader = Replay.open(tmp_path / "r")
        assert len(reader) == 0
        with pytest.raises(StorageError, match="holds no record yet"):
            reader.sample(1, np.random.default_rng(0))
        with pytest.raises(StorageError, match="holds no record yet"):
            reader.sample_sequences(1, 3, np.random.default_rng(0))
        appender.append(coded_episode(1, 1))
        reader.refresh()
        assert reader.sample(3, np.random.default_rng(0)).rewards.tolist() == [1, 1, 1]
    with pytest.raises(StorageError, match="does not fit the buffer: rate_hz"):
        other = layout.model_copy(update={"rate_hz": 50.0})
        ReplayAppender(folder, capacity_rows=ROOMY, layout=other)


def test_a_smaller_capacity_makes_room_at_the_next_append(tmp_path: Path) -> None:
    folder = tmp_path / "r" / "growing"
    with ReplayAppender(folder, capacity_rows=ROOMY, segment_rows=64) as appender:
        appender.extend(coded_episode(number, 20) for number in range(10))
    with ReplayAppender(folder, capacity_rows=45) as appender:
        appender.append(coded_episode(10, 20))
    assert ids(GrowingReplay(folder)) == ["e9", "e10"]


def test_more_than_the_capacity_at_once_keeps_the_newest(tmp_path: Path) -> None:
    folder = tmp_path / "r" / "growing"
    with ReplayAppender(folder, capacity_rows=50, segment_rows=32) as appender:
        appender.extend(coded_episode(number, 15) for number in range(9))
        assert ids(GrowingReplay(folder)) == ["e6", "e7", "e8"]
        appender.append(coded_episode(0, 15))  # long evicted: it may come again
    assert ids(GrowingReplay(folder)) == ["e7", "e8", "e0"]


@pytest.mark.parametrize("after_bytes", [0, 100, 3000])
def test_a_full_disk_loses_nothing_that_was_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after_bytes: int
) -> None:
    folder = tmp_path / "r" / "growing"
    left, write = after_bytes, os.pwrite

    def full(descriptor: int, data: bytes, offset: int) -> int:
        nonlocal left
        if left <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = write(descriptor, bytes(data)[:left], offset)
        left -= written
        return written

    with ReplayAppender(folder, capacity_rows=ROOMY, segment_rows=32) as appender:
        appender.append(coded_episode(1, 20))
        before = all_of(GrowingReplay(folder))
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", full)
            with pytest.raises(StorageError, match=r"no room on the disk .*free some space"):
                appender.extend([coded_episode(2, 8), coded_episode(3, 20)])
        same(all_of(GrowingReplay(folder)), before)
        appender.append(coded_episode(4, 20))
    reader = GrowingReplay(folder)
    assert ids(reader) == ["e1", "e4"]
    reader.verify()


class _Unit(Direct):
    """A unit of work in small: what is written becomes visible at its end."""

    def __init__(self) -> None:
        self.texts: dict[object, str] = {}

    def text(self, path: object, text: str, **_: object) -> None:
        self.texts[path] = text

    def commit(self) -> None:
        for path, text in self.texts.items():
            DIRECT.text(path, text)  # type: ignore[arg-type]


def test_an_append_is_visible_with_its_unit_of_work(tmp_path: Path) -> None:
    folder = tmp_path / "r" / "growing"
    with ReplayAppender(folder, capacity_rows=60, segment_rows=32) as appender:
        appender.append(coded_episode(1, 20))
        unit = _Unit()
        for number in (2, 3):
            appender.append(coded_episode(number, 20), writer=unit)
        assert ids(GrowingReplay(folder)) == ["e1"]
        unit.commit()
        assert ids(GrowingReplay(folder)) == ["e2", "e3"]
        appender.append(coded_episode(4, 20), writer=_Unit())  # discarded
        assert ids(GrowingReplay(folder)) == ["e2", "e3"]
        appender.append(coded_episode(5, 20))
        assert ids(GrowingReplay(folder)) == ["e3", "e5"]
        assert "e4" not in appender
    GrowingReplay(folder).verify()


def test_an_append_belongs_to_a_real_unit_of_work(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    folder, note = lake.replay("v1") / "growing", tmp_path / "note.txt"
    assert isinstance(folder, Path)
    with ReplayAppender(folder, capacity_rows=60, segment_rows=32) as appender:
        with UnitOfWork(lake, name="both") as unit:
            appender.extend([coded_episode(1, 20), coded_episode(2, 20)], writer=unit)
            unit.text(note, "one")
            assert not (folder / "manifest.json").exists()
        assert ids(GrowingReplay(folder)) == ["e1", "e2"]
        with pytest.raises(RuntimeError, match="broken"), UnitOfWork(lake, name="broken") as unit:
            appender.append(coded_episode(3, 20), writer=unit)
            unit.text(note, "two")
            message = "broken"
            raise RuntimeError(message)
        assert (ids(GrowingReplay(folder)), note.read_text()) == (["e1", "e2"], "one")
        with UnitOfWork(lake, name="again") as unit:
            appender.append(coded_episode(4, 20), writer=unit)
        assert ids(GrowingReplay(folder)) == ["e2", "e4"]
    GrowingReplay(folder).verify()


KILLED_UNIT = """
import os, signal, sys
from pathlib import Path
from tests.storage.replay_episodes import coded_episode
from tspace_core.storage import unit_disk
from tspace_core.storage.lake import Lake
from tspace_core.storage.replay_appender import ReplayAppender
from tspace_core.storage.unit_of_work import UnitOfWork

lake = Lake(Path(sys.argv[1]))
unit_disk.apply = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
with ReplayAppender(lake.replay("v1") / "growing", capacity_rows=200, segment_rows=32) as appender:
    appender.append(coded_episode(1, 12))
    with UnitOfWork(lake) as unit:
        appender.extend([coded_episode(2, 12), coded_episode(3, 20)], writer=unit)
"""


def test_what_a_killed_unit_had_committed_is_published_before_others_append(tmp_path: Path) -> None:
    """Its rows lie behind the published ones and in a segment that the manifest does not name yet."""
    folder = tmp_path / "replay" / "v1" / "growing"
    done = subprocess.run([sys.executable, "-c", KILLED_UNIT, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert ids(GrowingReplay(folder)) == ["e1"]
    with ReplayAppender(folder, capacity_rows=200) as appender:
        assert "e3" in appender
        appender.append(coded_episode(4, 20))
    reader = GrowingReplay(folder)
    assert ids(reader) == ["e1", "e2", "e3", "e4"]
    reader.verify()


def test_an_append_waits_until_a_committed_unit_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in the process that is alive: here the disk refuses the unit's last steps for a while."""
    lake, folder = Lake(tmp_path), tmp_path / "replay" / "v1" / "growing"

    def refuse(*_: object) -> list[str]:
        raise OSError(errno.EROFS, "Read-only file system")

    with ReplayAppender(folder, capacity_rows=200, segment_rows=32) as appender:
        with monkeypatch.context() as patch:
            patch.setattr(unit_disk, "apply", refuse)
            with pytest.raises(UnitOfWorkError, match="committed but not all"), UnitOfWork(lake) as unit:
                appender.extend([coded_episode(1, 12), coded_episode(2, 25)], writer=unit)
            with pytest.raises(UnitOfWorkError, match="committed but not all"):
                appender.append(coded_episode(3, 12))
        appender.append(coded_episode(3, 12))
    reader = GrowingReplay(folder)
    assert ids(reader) == ["e1", "e2", "e3"]
    reader.verify()


def test_nobody_else_appends_while_a_unit_of_work_is_open(tmp_path: Path) -> None:
    lake, folder = Lake(tmp_path), tmp_path / "replay" / "v1" / "growing"
    with UnitOfWork(lake) as unit:
        with ReplayAppender(folder, capacity_rows=200, segment_rows=32) as appender:
            appender.append(coded_episode(1, 12), writer=unit)
            with pytest.raises(StorageError, match="belongs to a unit of work that has not ended"):
                appender.append(coded_episode(2, 12))
        with pytest.raises(WriterBusyError, match="somebody else appends"):
            ReplayAppender(folder, capacity_rows=200)
    with ReplayAppender(folder, capacity_rows=200) as appender:
        appender.append(coded_episode(2, 12))
    with (
        pytest.raises(UnitOfWorkError, match="is not open"),
        ReplayAppender(folder, capacity_rows=200) as late,
    ):
        late.append(coded_episode(3, 12), writer=unit)
    reader = GrowingReplay(folder)
    assert ids(reader) == ["e1", "e2"]
    reader.verify()


def test_damage_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "r" / "growing"
    with ReplayAppender(folder, capacity_rows=ROOMY, segment_rows=32) as appender:
        appender.append(coded_episode(1, 20))
        appender.append(coded_episode(2, 20))
    segment, manifest = folder / "segment-00000002", folder / "manifest.json"

    rows = (segment / "rows.f32").read_bytes()
    flipped = bytearray(rows)
    flipped[100] ^= 1
    (segment / "rows.f32").write_bytes(flipped)
    with pytest.raises(StorageError, match=r"segment-00000002: episode 'e2', rows 0 to 20, differs"):
        GrowingReplay(folder).verify()
    (segment / "rows.f32").write_bytes(rows[:-4])
    with pytest.raises(StorageError, match=r"rows\.f32: .* bytes, expected .*append its episodes again"):
        GrowingReplay(folder)
    (segment / "rows.f32").unlink()
    with pytest.raises(StorageError, match=r"rows\.f32: missing, the manifest speaks of it"):
        GrowingReplay(folder)
    (segment / "rows.f32").write_bytes(rows)

    lines = (segment / "episodes.jsonl").read_bytes()
    (segment / "episodes.jsonl").write_bytes(lines[:-9])
    with pytest.raises(StorageError, match=r"episodes\.jsonl: .* bytes, expected"):
        GrowingReplay(folder)
    (segment / "episodes.jsonl").write_bytes(lines.replace(b'"records":20', b'"records":19'))
    with pytest.raises(StorageError, match=r"episodes\.jsonl: 1 episodes fill 20 rows, the manifest says"):
        GrowingReplay(folder)
    (segment / "episodes.jsonl").write_bytes(lines)

    text = manifest.read_text()
    manifest.write_text(text.replace('"records": 40', '"records": 41'))
    with pytest.raises(StorageError, match="it was changed"):
        GrowingReplay(folder)
    manifest.write_text(text[:99])
    with pytest.raises(StorageError, match="not a replay manifest"):
        GrowingReplay(folder)
    manifest.write_text(json.dumps({**json.loads(text), "format": "tspace-replay-growing-2"}))
    with pytest.raises(SchemaVersionError, match=r"'tspace-replay-growing-2', this tspace reads"):
        ReplayAppender(folder, capacity_rows=ROOMY)
    manifest.write_text(text)
    GrowingReplay(folder).verify()
    with pytest.raises(SchemaVersionError, match="of a buffer that grows"):
        Replay(folder)


def test_a_buffer_that_was_begun_anew_is_read_anew(tmp_path: Path) -> None:
    folder = tmp_path / "r" / "growing"
    with ReplayAppender(folder, capacity_rows=ROOMY) as appender:
        appender.append(coded_episode(1, 20))
    reader = GrowingReplay(folder)
    folder.rename(tmp_path / "away")
    with pytest.raises(StorageError, match="no growing replay buffer yet"):
        reader.refresh()
    assert len(reader) == 20
    with ReplayAppender(folder, capacity_rows=ROOMY) as appender:
        appender.extend([coded_episode(2, 3), coded_episode(3, 4)])
    reader.refresh()
    assert ids(reader) == ["e2", "e3"]


def test_a_bucket_is_refused() -> None:
    with pytest.raises(StorageError, match=r"a bucket cannot hold a growing buffer.*build_replay"):
        ReplayAppender(any_path("s3://bucket/replay/v1/growing"), capacity_rows=ROOMY)


def test_a_version_comes_before_the_growing_buffer(tmp_path: Path) -> None:
    with ReplayAppender(tmp_path / "r" / "growing", capacity_rows=ROOMY) as appender:
        appender.append(coded_episode(1, 20))
    as_version(tmp_path / "r", [coded_episode(2, 4)])
    assert not isinstance(Replay.open(tmp_path / "r"), GrowingReplay)
    assert isinstance(Replay.open(tmp_path / "r", "growing"), GrowingReplay)
    with pytest.raises(StorageError, match="there are 000001, growing"):
        Replay.open(tmp_path / "r", "000002")
    assert Replay.open(tmp_path / "r").refresh() is False
    assert Replay.open(tmp_path / "r").layout.state_dim == STATE_DIM
