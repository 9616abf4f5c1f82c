"""A flash, from the identity of the VCU to the number of the page in effect.

::

    identity, seed and key (once a session) -> is in effect what should be? -> write the idle page
      -> read every cell back bit for bit, checksum over the map -> audit log (on the disk)
      -> switch page -> read the page's number

APPLIED: the new page is in effect, read back. REVERTED: the page from before, or the reference page, is in
effect, asked of the VCU. UNKNOWN: neither could be confirmed, or it was confirmed too late.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tspace_core.config.torque_map import TorqueMap
from tspace_core.errors import AuditError, GuardError, LinkError
from tspace_core.guard.commands import AbortedError, Commands, OverrunError
from tspace_core.guard.target import Identity, failure_code

DOWNLOAD_FAILED, INTERNAL, NETWORK, TIMED_OUT = 1, 2, 3, 4


class MismatchError(GuardError):
    """The VCU is, holds or runs something else than it should; a person must look at it."""


class NotWrittenError(GuardError):
    """What was read back is not what was written."""


@dataclass
class Session:
    """What is known of the VCU between flashes.

    Attributes:
        expected: who it must be.
        page: the page in effect.
        live: the map in effect.
        open: identity was checked and the VCU unlocked since the last failure.
    """

    expected: Identity
    page: int
    live: TorqueMap
    open: bool = False


@dataclass(frozen=True)
class Flashed:
    """What became of a flash.

    Attributes:
        result: see the module.
        code: 0, or the field's failure code.
        reason: why it was not applied.
        page: the page in effect; None where that is not known.
        effect_ns: when the new page took effect; None unless applied.
        cells: cells that were sent.
        lock: a person must look at it before the next flash.
        trip: the reference map must come back before the next flash.
    """

    result: Literal["APPLIED", "REVERTED", "UNKNOWN"]
    code: int
    reason: str
    page: int | None
    effect_ns: int | None
    cells: int
    lock: bool = False
    trip: bool = False


def flash(
    commands: Commands,
    session: Session,
    table: TorqueMap,
    *,
    record: Callable[[int, int], None],
    now_ns: Callable[[], int],
    limit_s: float,
    mark: int,
) -> Flashed:
    """Bring ``table`` into effect; one that is the live map is only looked for in the VCU.

    Args:
        commands: the VCU.
        session: what is known of it; only ``open`` is changed.
        table: the whole map as it shall be.
        record: called with page and cells sent before the switch; returns when that is on the disk.
        now_ns: monotonic clock, ns.
        limit_s: a flash that takes longer is given up.
        mark: `Commands.mark` from before it was decided that this may be flashed.

    Returns:
        What is in effect now. Errors of link and audit log are in it, not raised.
    """
    attempt = _Attempt(commands, session, table, record, now_ns)
    try:
        with commands.transaction(mark, limit_s):
            if table == session.live:
                attempt.look()
            else:
                attempt.run()
    except Exception as error:
        session.open = False
        return attempt.settle(error)
    return Flashed("APPLIED", 0, "", attempt.target, attempt.effect_ns, attempt.cells)


class _Attempt:
    def __init__(
        self,
        commands: Commands,
        session: Session,
        table: TorqueMap,
        record: Callable[[int, int], None],
        now_ns: Callable[[], int],
    ) -> None:
        self.commands, self.session = commands, session
        self.table, self.record, self.now_ns = table, record, now_ns
        self.safe = {session.page, commands.reference_page}  # pages whose content is known to be good
        self.target = session.page
        self.switched = False
        self.effect_ns: int | None = None
        self.cells = 0

    def run(self) -> None:
        commands, cells = self.commands, self.table.table
        check_in(commands, self.session)
        self.target = commands.idle_page()
        self.safe.discard(self.target)
        self.cells = commands.write(self.target, cells)
        # All of them: a page that is behind by earlier flashes is written outside the four rows as well.
        back = commands.read(self.target, 0, len(cells))
        if not same_bits(back, cells):
            message = f"page {self.target} was read back and holds something else than was written"
            raise NotWrittenError(message)
        if not commands.checksum_ok(self.target, cells):
            message = f"the VCU's checksum over page {self.target} is not that of the map"
            raise NotWrittenError(message)
        self.record(self.target, self.cells)
        commands.check()
        self.switched = True
        commands.activate(self.target)
        self.effect_ns = self.now_ns()
        found = commands.active_page()
        if found != self.target:
            message = f"page {found} is in effect after the switch to page {self.target}"
            raise NotWrittenError(message)
        commands.check()

    def look(self) -> None:
        """What should be in effect is."""
        check_in(self.commands, self.session)
        self.effect_ns = self.now_ns()

    def settle(self, error: Exception) -> Flashed:
        """Find out, or bring about, what is in effect after ``error``."""
        reason = f"{type(error).__name__}: {error}"
        code, lock = _severity(error)
        late = isinstance(error, OverrunError) and self.effect_ns is not None
        page = None if isinstance(error, AbortedError | MismatchError) or self.switched else self._in_effect()
        if page not in self.safe:
            problem = self.commands.revert()
            if problem is not None:
                reason = f"{reason}; then the reference page was not confirmed: {problem}"
                return Flashed("UNKNOWN", code, reason, None, None, self.cells, lock=True)
            page = self.commands.reference_page
        result: Literal["REVERTED", "UNKNOWN"] = "UNKNOWN" if late else "REVERTED"
        return Flashed(result, code, reason, page, None, self.cells, lock=lock or late)

    def _in_effect(self) -> int | None:
        try:
            return self.commands.active_page()
        except LinkError:
            return None


def check_in(commands: Commands, session: Session) -> None:
    """Identity, seed and key once a session; then only whether the page and map in effect are the known ones.

    Raises:
        MismatchError: they are not.
        LinkError: the VCU does not answer as it must.
    """
    if not session.open:
        check_identity(commands.identify(), session.expected)
        commands.unlock()
    found = commands.active_page()
    if found != session.page:
        message = (
            f"page {found} is in effect, it should be page {session.page}: the VCU fell back by itself, or "
            "somebody else calibrates it"
        )
        raise MismatchError(message)
    if not commands.checksum_ok(session.page, session.live.table):
        message = (
            f"page {session.page}, which is in effect, holds another map than was flashed: who wrote it?"
        )
        raise MismatchError(message)
    session.open = True


def check_identity(found: Identity, expected: Identity) -> None:
    """Whether it is the VCU that the config is made for.

    Raises:
        MismatchError: names what differs.
    """
    for name in ("vin", "software_id", "map_address"):
        wanted, value = getattr(expected, name), getattr(found, name)
        if value != wanted:
            message = f"the VCU's {name} is {value!r}, the vehicle's file says {wanted!r}: nothing is flashed"
            raise MismatchError(message)


def same_bits(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two tables of float32 have the same shape and the same bytes."""
    return (
        one.shape == other.shape
        and np.asarray(one, dtype="<f4").tobytes() == np.asarray(other, dtype="<f4").tobytes()
    )


def _severity(error: Exception) -> tuple[int, bool]:
    """The field's failure code, and whether a person must look at it."""
    if isinstance(error, LinkError):
        return failure_code(error), False
    if isinstance(error, OverrunError | AbortedError):
        return TIMED_OUT, False
    if isinstance(error, NotWrittenError):
        return DOWNLOAD_FAILED, False
    if isinstance(error, MismatchError | AuditError):
        return INTERNAL, True
    return INTERNAL, True


def given_up(done: Flashed, reason: str, *, confirmed: bool) -> Flashed:
    """A flash after which the reference map was called for; ``confirmed``: and is known to be in effect."""
    return Flashed(
        "REVERTED" if confirmed else "UNKNOWN",
        done.code or INTERNAL,
        reason,
        page=None,
        effect_ns=None,
        cells=done.cells,
        lock=not confirmed,
    )
