"""Small disorder in a log's stamps, put in order: loggers that merge channels write frames slightly late.

A frame whose stamp lies up to a tolerance before the newest one seen is late, not a broken clock: it is moved
to its place in time. A larger step back is a clock that was set; nothing is moved across it.
"""

import numpy as np
import numpy.typing as npt

from tspace_core.can.frames import FrameBatch
from tspace_core.compiled import compiled

NS_PER_S = 1_000_000_000


@compiled
def _runs(
    time: npt.NDArray[np.int64], tolerance: int, run: npt.NDArray[np.int64]
) -> tuple[int, int]:  # pragma: no cover - compiled
    """Fill ``run`` with the number of the unbroken stretch of each frame; count late frames."""
    newest = time[0]
    number = 0
    late = 0
    for i in range(len(time)):
        if time[i] < newest - tolerance:
            number += 1
            newest = time[i]
        elif time[i] < newest:
            late += 1
        else:
            newest = time[i]
        run[i] = number
    return late, newest


class FrameOrder:
    """Puts late frames of one log in their place, streaming: how it is cut into batches makes no difference.

    Args:
        tolerance_s: how late a frame may be, s; 0 changes nothing.

    Attributes:
        late: frames moved so far.
    """

    def __init__(self, tolerance_s: float) -> None:
        self.late = 0
        self._tolerance = round(tolerance_s * NS_PER_S)
        self._held = FrameBatch.empty()

    def push(self, batch: FrameBatch) -> FrameBatch:
        """Take the next frames in; give those out that no later frame can stand before."""
        if not len(batch):
            return batch
        ordered, newest = self._ordered(FrameBatch.concat([self._held, batch]))
        final = ordered.time < newest - self._tolerance
        # Whatever lies before the last step back of the clock is final too, however new its stamps are.
        steps = np.flatnonzero(np.diff(ordered.time) < 0)
        if len(steps):
            final[: steps[-1] + 1] = True
        count = int(np.count_nonzero(final))
        self._held = ordered.select(slice(count, None))
        return ordered.select(slice(0, count))

    def finish(self) -> FrameBatch:
        """Give out what is still held: at the end of the log."""
        rest, self._held = self._held, FrameBatch.empty()
        return rest

    def _ordered(self, frames: FrameBatch) -> tuple[FrameBatch, int]:
        run = np.empty(len(frames), np.int64)
        late, newest = _runs(frames.time, self._tolerance, run)
        if not late:
            return frames, int(newest)
        self.late += late
        return frames.select(np.lexsort((frames.time, run))), int(newest)
