"""What each page of a map is known to hold, and in which runs of cells to send what changed."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tspace_core.link.float_buffer import CELL_BYTES
from tspace_core.link.xcp_packets import MOST_ELEMENTS, BlockMode, SlaveInfo

Words = NDArray[np.uint32]
"""Cells as their bits: equal bits are what counts, not equal numbers (0.0 == -0.0, NaN != NaN)."""

SET_MTA_FRAMES = 2  # command and answer


@dataclass(frozen=True)
class DownloadCost:
    """Frames that it takes to write a run of bytes.

    Attributes:
        payload: data bytes of a packet.
        block: most bytes that are answered at once.
    """

    payload: int
    block: int

    @classmethod
    def of(cls, slave: SlaveInfo, block: BlockMode) -> "DownloadCost":
        """That of a session."""
        payload = slave.download_bytes
        most = min(payload * block.max_bs, MOST_ELEMENTS * slave.granularity) if block.offered else payload
        return cls(payload, most)

    def frames(self, size: int) -> int:
        """SET_MTA and its answer, the packets of ``size`` bytes, and an answer a block."""
        blocks, rest = divmod(size, self.block)
        packets = blocks * -(-self.block // self.payload) + -(-rest // self.payload)
        return SET_MTA_FRAMES + packets + blocks + (rest > 0)


@dataclass
class MapPages:
    """The cells of one map on each page, as far as they are known.

    Attributes:
        address: of the first cell.
        extension: XCP address extension.
        shape: rows and columns.
    """

    address: int
    extension: int
    shape: tuple[int, int]
    _known: dict[int, tuple[Words, NDArray[np.bool_]]] = field(default_factory=dict)

    @property
    def cells(self) -> int:
        """Cells of the map."""
        return self.shape[0] * self.shape[1]

    def changed(self, page: int, words: Words) -> NDArray[np.bool_]:
        """Which cells of ``words`` differ from what the page holds, or may; shape (cells,)."""
        if page not in self._known:
            return np.ones(self.cells, dtype=bool)
        held, known = self._known[page]
        differs: NDArray[np.bool_] = ~known | (held != words)
        return differs

    def holds(self, page: int, start: int, words: Words) -> None:
        """Note that the cells from ``start`` are now ``words``."""
        if page not in self._known:
            self._known[page] = np.zeros(self.cells, np.uint32), np.zeros(self.cells, dtype=bool)
        held, known = self._known[page]
        held[start : start + len(words)] = words
        known[start : start + len(words)] = True

    def forget(self, page: int, start: int = 0, stop: int | None = None) -> None:
        """Note that these cells of the page may hold anything."""
        if page in self._known:
            self._known[page][1][start:stop] = False

    def forget_all(self) -> None:
        """Note that nothing is known: another session, another VCU."""
        self._known.clear()


def runs(changed: NDArray[np.bool_], cost: DownloadCost) -> list[tuple[int, int]]:
    """The runs of cells to send, such that the frames on the bus are fewest.

    Each run begins with SET_MTA. Where two changed parts are close, it is cheaper to send the cells between
    them once more than to set the MTA again; the best way to join neighbours is found for all at once.

    Args:
        changed: shape (cells,).
        cost: frames of a run.

    Returns:
        (start, stop) of each run, ascending; together they hold all changed cells.
    """
    edges = np.flatnonzero(np.diff(np.concatenate(([False], changed, [False]))))
    parts: list[tuple[int, int]] = [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]
    best: list[tuple[int, int]] = [(0, 0)]  # (frames, bytes) to send the first n parts
    first: list[int] = [0]  # where the last run of that begins
    for last in range(1, len(parts) + 1):
        stop = parts[last - 1][1]
        options = []
        for begin in range(last - 1, -1, -1):
            size = (stop - parts[begin][0]) * CELL_BYTES
            frames, sent = best[begin]
            options.append((frames + cost.frames(size), sent + size, begin))
            gap = (parts[begin][0] - parts[begin - 1][1]) * CELL_BYTES if begin else 0
            if gap // cost.payload > 2 * SET_MTA_FRAMES:
                break  # no run that spans such a gap is ever cheaper
        frames, sent, begin = min(options)
        best.append((frames, sent))
        first.append(begin)
    found = []
    last = len(parts)
    while last:
        found.append((parts[first[last]][0], parts[last - 1][1]))
        last = first[last]
    return found[::-1]
