"""The stream to the control thread, and when that thread counts as alive."""

import threading

import numpy as np
import pytest

from tspace_core.supervision import PipelineClosed, PipelineEmpty
from tspace_core.vehicle.stream import ControlStream, EpisodeEnded, Liveness, RunEnded
from tspace_core.vehicle.windows import Window

LONG_S = 30.0


def window() -> Window:
    return Window(0, np.zeros((30, 3), np.float32), 0.0, 0.0, 0.0, valid=True)


def test_a_control_thread_is_not_alive_before_it_came_nor_after_it_fell_silent() -> None:
    now = 10.0
    liveness = Liveness(0.5, lambda: now)
    seen = [liveness.alive]
    liveness.tick()
    now = 10.5
    seen.append(liveness.alive)
    now = 10.51
    seen.append(liveness.alive)
    assert seen == [False, True, False]


def test_it_is_alive_as_long_as_it_waits_for_the_next_item() -> None:
    now = 10.0
    liveness = Liveness(0.5, lambda: now)
    stream = ControlStream(liveness)
    got: list[object] = []
    thread = threading.Thread(target=lambda: got.append(stream.get()), daemon=True)
    thread.start()
    with pytest.raises(PipelineEmpty):
        stream.get(timeout_s=0.05)  # this thread waits too; the other one does so for longer
    now = 1000.0
    assert liveness.alive
    stream.put(RunEnded("enough", failed=False))
    thread.join(LONG_S)
    assert got == [RunEnded("enough", failed=False)]
    alive = [liveness.alive]
    now = 1000.51
    assert [*alive, liveness.alive] == [True, False], "it took an item and hangs with it"


def test_a_full_stream_refuses_windows_and_still_takes_ends() -> None:
    stream = ControlStream(Liveness(0.5))
    taken = sum(stream.offer(window()) for _ in range(1000))
    assert taken == ControlStream.SIZE - ControlStream.RESERVED
    assert stream.put(EpisodeEnded(1, 0, valid=False, reason="exit"))
    while stream.put(EpisodeEnded(1, 0, valid=False, reason="exit")):
        pass
    stream.end(RunEnded("exit", failed=False))
    items = [stream.get() for _ in range(ControlStream.SIZE + 1)]
    assert items[-1] == RunEnded("exit", failed=False)
    with pytest.raises(PipelineClosed):
        stream.get()
