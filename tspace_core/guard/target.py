"""What the guard asks of whatever carries a map into the VCU, and how its failures are numbered.

`tspace_core.link.calibration.Calibration` is the one over XCP. Every method may raise a LinkError and must
return or raise within a bounded time (an XCP time-out times its attempts): the one-key revert waits for at
most one running command, and ends that one where the target is `Interruptible`.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tspace_core.errors import LinkError, XcpCommandError, XcpError, XcpTimeoutError


@dataclass(frozen=True)
class Identity:
    """What the VCU says it is."""

    vin: str
    software_id: str
    map_address: int


class FlashTarget(Protocol):
    """The calibration memory of one VCU: a reference page, never written, and one or two working pages."""

    @property
    def reference_page(self) -> int:
        """The page that cannot be written."""
        ...

    def identify(self) -> Identity:
        """Open the session where it is not open, and read VIN, software id and the map's address."""
        ...

    def unlock(self) -> None:
        """Seed and key, where the VCU asks for it."""
        ...

    def idle_page(self) -> int:
        """The working page to write next.

        Of two the one not in effect; of one that one, after the reference page was put into effect.
        """
        ...

    def write(self, page: int, table: NDArray[np.float32]) -> int:
        """Bring ``page`` to ``table`` (Nm, the whole map) and return how many cells were sent.

        Only cells that differ from what the page is known to hold go out.
        """
        ...

    def read(self, page: int, first_row: int, rows: int) -> NDArray[np.float32]:
        """Rows of ``page`` as they are in the VCU, bit for bit, shape (rows, columns)."""
        ...

    def checksum_ok(self, page: int, table: NDArray[np.float32]) -> bool:
        """Whether the VCU's own checksum over the map of ``page`` is that of ``table``."""
        ...

    def activate(self, page: int) -> None:
        """Put ``page`` into effect."""
        ...

    def active_page(self) -> int:
        """The page in effect, asked of the VCU."""
        ...

    def keep_alive(self) -> None:
        """Any command: after 2 s without one the VCU falls back to its reference page."""
        ...


@runtime_checkable
class Interruptible(Protocol):
    """A `FlashTarget` whose running command can be ended: a revert does not wait for a VCU that is slow."""

    def abort(self, cause: str) -> None:
        """Have the running command and all after it raise until ``resume``; any thread, never blocks."""
        ...

    def resume(self) -> None:
        """Allow commands again after ``abort``."""
        ...

    def limited(self, seconds: float, what: str) -> AbstractContextManager[None]:
        """Have the commands within take at most ``seconds`` together, then raise a LinkError."""
        ...


def failure_code(error: LinkError) -> int:
    """The field's number of a failed flash.

    1 download failure (the VCU refused a command), 2 internal error (it answered nonsense, or what it was to
    be told makes no sense), 3 unknown network error, 4 time-out.
    """
    if isinstance(error, XcpTimeoutError):
        return 4
    if isinstance(error, XcpCommandError):
        return 1
    if isinstance(error, XcpError):
        return 2
    return 3
