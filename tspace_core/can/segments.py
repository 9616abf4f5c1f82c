"""Where a log's clock breaks: each unbroken run of frames is a segment."""

import numpy as np
import numpy.typing as npt

from tspace_core.can.report import ReadReport
from tspace_core.errors import LogReadError

NS_PER_S = 1_000_000_000
MAX_SEGMENTS = 1 << 16


class SegmentCounter:
    """Numbers the segments of one log, streaming: how the log is cut into batches makes no difference.

    A step back of the clock, or a gap longer than `gap_s`, starts a new segment. Equal stamps do not.

    Args:
        gap_s: longest pause inside a segment, s.

    Attributes:
        backward_steps: times the clock stepped back so far.
        gaps: pauses longer than `gap_s` so far.
        longest_gap_s: longest pause forward so far, s, inside segments or between them.
        first_backward: stamps (ns) before and after the first step back, None where there is none.
        first_gap: the same for the first pause longer than `gap_s`.
    """

    def __init__(self, gap_s: float) -> None:
        self.gap_s = gap_s
        self.backward_steps = 0
        self.gaps = 0
        self.longest_gap_s = 0.0
        self.first_backward: tuple[int, int] | None = None
        self.first_gap: tuple[int, int] | None = None
        self._gap_ns = round(gap_s * NS_PER_S)
        self._last: int | None = None
        self._segment = 0

    @property
    def segments(self) -> int:
        """Segments begun so far."""
        return 0 if self._last is None else self._segment + 1

    def assign(self, time: npt.NDArray[np.int64]) -> npt.NDArray[np.uint16]:
        """Segment number of each frame.

        Args:
            time: int64[n], ns on the log clock, in log order, following what was assigned before.

        Returns:
            uint16[n], from 0.

        Raises:
            LogReadError: the clock breaks more than 65535 times.
        """
        if not len(time):
            return np.empty(0, np.uint16)
        steps = np.diff(time, prepend=time[:1] if self._last is None else np.int64(self._last))
        backward = steps < 0
        gaps = steps > self._gap_ns
        numbers = self._segment + np.cumsum(backward | gaps)
        self.first_backward = self.first_backward or _first(backward, time, steps)
        self.first_gap = self.first_gap or _first(gaps, time, steps)
        self.backward_steps += int(np.count_nonzero(backward))
        self.gaps += int(np.count_nonzero(gaps))
        if numbers[-1] >= MAX_SEGMENTS:
            message = (
                f"the log clock breaks more than {MAX_SEGMENTS - 1} times ({self.backward_steps} steps back, "
                f"{self.gaps} gaps over {self.gap_s} s so far): its stamps are no clock; check the log's "
                "time column, or raise log.gap_s in the vehicle's config"
            )
            raise LogReadError(message)
        self.longest_gap_s = max(self.longest_gap_s, float(steps.max()) / NS_PER_S)
        self._last = int(time[-1])
        self._segment = int(numbers[-1])
        return numbers.astype(np.uint16)

    def tell(self, report: ReadReport, place: str) -> None:
        """Count the breaks in ``report`` as ``clock_step_back`` and ``gap``: no sum goes across one.

        Args:
            report: of the log.
            place: the log's name.
        """
        for reason, count, first, what in (
            ("clock_step_back", self.backward_steps, self.first_backward, "the clock steps back"),
            ("gap", self.gaps, self.first_gap, f"no frame for longer than log.gap_s = {self.gap_s:g} s"),
        ):
            if first is not None:
                before, after = (stamp / NS_PER_S for stamp in first)
                detail = f"{what}, from {before:.6f} s to {after:.6f} s: a new segment begins there"
                report.drop(reason, count=count, place=place, detail=detail)


def _first(
    breaks: npt.NDArray[np.bool_], time: npt.NDArray[np.int64], steps: npt.NDArray[np.int64]
) -> tuple[int, int] | None:
    if not breaks.any():
        return None
    at = int(np.argmax(breaks))
    return int(time[at]) - int(steps[at]), int(time[at])
