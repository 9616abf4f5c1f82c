"""The VCU as the tests watch it: every byte that is written and read, and what may be in effect."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tspace_core.config.vehicle import Vehicle
from tspace_core.guard.state import Accepted, Refusal
from tspace_core.twin.vcu import Vcu
from tspace_core.twin.xcp_codes import Command


@dataclass(frozen=True)
class Proof:
    """An answer that shows what a page held: some of its bytes, or the checksum over them."""

    page: int
    start: int
    stop: int
    whole: bool
    writes: int

    def part(self, first: int, count: int) -> "Proof":
        """What one frame of an answer shows."""
        if self.whole:
            return self
        start = self.start + first
        return Proof(self.page, start, min(start + count, self.stop), self.whole, self.writes)


class Witness:
    """Knows what was accepted, written, read back and recorded, and says what must not be.

    Attributes:
        accepted: tables (bytes) that the guard accepted.
        recorded: hash of the map that the newest line `flash` of the audit log announces.
        broken: what must not be and was.
    """

    def __init__(self, vehicle: Vehicle) -> None:
        self._reference = vehicle.default_map().table.astype("<f4").tobytes()
        self.accepted: set[bytes] = set()
        self.recorded: Callable[[], str | None] = lambda: None
        self.broken: list[str] = []
        self.switches = 0
        self.forget()

    def forget(self) -> None:
        """The VCU starts: its working pages hold the reference map."""
        self._unread: dict[int, np.ndarray] = {}
        self._unsummed: set[int] = set()
        self._writes: dict[int, int] = {}
        self._in_effect = self._reference

    def accepting(self, rule: Callable[..., Accepted | Refusal]) -> Callable[..., Accepted | Refusal]:
        """The guard's function, with what it accepts noted."""

        def noted(*args: Any, **given: Any) -> Accepted | Refusal:
            answer = rule(*args, **given)
            if isinstance(answer, Accepted):
                self.accepted.add(answer.table.table.astype("<f4").tobytes())
            return answer

        return noted

    def wrong(self, what: str) -> None:
        if not self.broken:
            self.broken.append(what)

    def written(self, page: int, start: int, stop: int, size: int) -> None:
        self._unread.setdefault(page, np.zeros(size, dtype=bool))[start:stop] = True
        self._unsummed.add(page)
        self._writes[page] = self.writes(page) + 1

    def writes(self, page: int) -> int:
        """How often the page was written."""
        return self._writes.get(page, 0)

    def arrived(self, proof: Proof) -> None:
        """An answer has reached the master, unchanged."""
        if proof.writes != self.writes(proof.page):
            return
        if proof.whole:
            self._unsummed.discard(proof.page)
        elif proof.page in self._unread:
            self._unread[proof.page][proof.start : proof.stop] = False

    def switched(self, vcu: "WatchedVcu", page: int) -> None:
        """The VCU was told to put a page into effect."""
        if page == vcu.reference_page:
            self._in_effect = self._reference
            return
        content = self._in_effect = vcu.content(page)
        self.switches += 1
        unread = int(self._unread[page].sum()) if page in self._unread else 0
        if content not in self.accepted:
            self.wrong(f"page {page} was put into effect with a map that the guard never accepted")
        if unread:
            self.wrong(f"page {page} was put into effect, {unread} bytes written were not read back")
        if page in self._unsummed:
            self.wrong(f"page {page} was put into effect without its checksum")
        if self.recorded() != vcu.sha256(page):
            self.wrong(f"page {page} was put into effect, and the audit log does not say so")

    def look(self, vcu: "WatchedVcu") -> None:
        """The map in effect is the one that was put into effect; called at every moment."""
        if not vcu.holds(self._in_effect):
            self.wrong(f"page {vcu.page} was changed while it was in effect")


class WatchedVcu(Vcu):
    """A VCU that tells a witness.

    Attributes:
        command: the XCP command that is being done.
        proved: what its answer will show.
    """

    def __init__(self, vehicle: Vehicle, witness: Witness) -> None:
        super().__init__(vehicle)
        self._witness = witness
        self.command = 0
        self.proved: Proof | None = None

    def content(self, page: int) -> bytes:
        """All bytes of a page."""
        return super().read(page, 0, self.size)

    def holds(self, content: bytes) -> bool:
        """Whether the page in effect holds this, bit for bit."""
        return self._bytes[self._page] == content

    def read(self, page: int, offset: int, count: int) -> bytes:
        whole = self.command == Command.BUILD_CHECKSUM
        if not whole or count == self.size:
            writes = self._witness.writes(page)
            self.proved = Proof(page, offset, offset + count, whole, writes)
        return super().read(page, offset, count)

    def write(self, page: int, offset: int, data: bytes) -> None:
        self._witness.written(page, offset, offset + len(data), self.size)
        super().write(page, offset, data)

    def select(self, page: int) -> None:
        super().select(page)
        self._witness.switched(self, page)
