"""The one who appends is killed at any moment: readers never see torn rows, nothing reported is lost."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.storage.replay_episodes import coded_episode
from tspace_core.storage.replay import ReplayBatch
from tspace_core.storage.replay_appender import ReplayAppender
from tspace_core.storage.replay_growing import GrowingReplay
from tspace_core.storage.replay_writer import layout_of

CAPACITY, SEGMENT = 300, 64
WRITER = f"""
import sys
from pathlib import Path
from tests.storage.replay_episodes import coded_episode
from tspace_core.storage.replay_appender import ReplayAppender

number = int(sys.argv[2])
with ReplayAppender(Path(sys.argv[1]), capacity_rows={CAPACITY}, segment_rows={SEGMENT}) as appender:
    while True:
        appender.append(coded_episode(1 + number % 900, 5 + number % 40, episode_id=f"e{{number}}"))
        print(number, flush=True)
        number += 1
"""


def check_origin(batch: ReplayBatch) -> None:
    """Rows say which episode and step they are: a torn or foreign one would not fit together."""
    numbers = np.floor(batch.rewards)
    np.testing.assert_array_equal(batch.states, np.repeat(batch.rewards[:, None], 9, axis=1))
    np.testing.assert_array_equal(batch.next_states, batch.states + np.float32(1 / 1024))
    np.testing.assert_array_equal(batch.actions, np.repeat((numbers / 1000)[:, None], 68, axis=1))


def expected(newest: int) -> list[int]:
    kept, rows = list[int](), 0
    for number in range(newest, 0, -1):
        rows += 6 + number % 40
        if rows > CAPACITY:
            break
        kept.insert(0, number)
    return kept


def kill_while_reading(folder: Path, rounds: int, generator: random.Random) -> None:
    with ReplayAppender(
        folder, capacity_rows=CAPACITY, segment_rows=SEGMENT, layout=layout_of(coded_episode(1, 1))
    ):
        pass
    reader, draws = GrowingReplay(folder), np.random.default_rng(0)
    told = 0
    for _ in range(rounds):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder), str(told + 1)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        try:
            # After some appends, and then at any moment of the next one: while the reader looks and draws.
            for _ in range(generator.randint(1, 12)):
                told = int(writer.stdout.readline())
                reader.refresh()
                check_origin(reader.sample(64, draws))
            for _ in range(generator.randint(0, 400)):
                check_origin(reader.sample(8, draws))
        finally:
            os.kill(writer.pid, signal.SIGKILL)
            rest = writer.stdout.read().split()
            writer.wait()
            writer.stdout.close()
        told = max([told, *map(int, rest)])
        reader.refresh()
        check_origin(reader.sample(64, draws))
        newest = int(reader.manifest.content.episodes[-1].id[1:])
        # The last append may have been published and not told of; it is never half there.
        assert newest in (told, told + 1)
        assert [int(item.id[1:]) for item in reader.manifest.content.episodes] == expected(newest)
        reader.verify()
        told = newest


def test_a_killed_writer_leaves_whole_episodes(tmp_path: Path) -> None:
    kill_while_reading(tmp_path / "r" / "growing", 5, random.Random(3))


@pytest.mark.slow
def test_five_hundred_killed_writers_leave_whole_episodes(tmp_path: Path) -> None:
    kill_while_reading(tmp_path / "r" / "growing", 500, random.Random(5))
