"""The guard's states, as one table.

========  =======  =========================  =======  =========
state     event    who                        becomes  reference
========  =======  =========================  =======  =========
DISARMED  arm      a person                   ARMED    no
...       trip     whatever ends a run        DISARMED yes
...       lock     what a person must see     LOCKED   yes
...       clear    a person                   DISARMED no
ARMED     arm      a person, a next episode   ARMED    no
========  =======  =========================  =======  =========

Nothing leads from LOCKED to ARMED but a person's ``clear`` and then an ``arm``.
"""

from dataclasses import dataclass
from typing import Literal

from tspace_core.guard.state import GuardState

GuardEvent = Literal["arm", "trip", "lock", "clear"]


@dataclass(frozen=True)
class Transition:
    """What an event does: the state after it, and whether the reference page is put into effect.

    Attributes:
        state: the state after it.
        reference: the reference page is put into effect, also where it should be already.
        refused: the event has no effect, because it is not allowed in that state.
    """

    state: GuardState
    reference: bool = False
    refused: str = ""


TABLE: dict[tuple[GuardState, GuardEvent], Transition] = {
    ("DISARMED", "arm"): Transition("ARMED"),
    ("DISARMED", "trip"): Transition("DISARMED", reference=True),
    ("DISARMED", "lock"): Transition("LOCKED", reference=True),
    ("DISARMED", "clear"): Transition("DISARMED"),
    ("ARMED", "arm"): Transition("ARMED"),
    ("ARMED", "trip"): Transition("DISARMED", reference=True),
    ("ARMED", "lock"): Transition("LOCKED", reference=True),
    ("ARMED", "clear"): Transition("ARMED", refused="there is nothing to clear"),
    ("LOCKED", "arm"): Transition("LOCKED", refused="it is locked until a person clears it"),
    ("LOCKED", "trip"): Transition("LOCKED", reference=True),
    ("LOCKED", "lock"): Transition("LOCKED", reference=True),
    ("LOCKED", "clear"): Transition("DISARMED", reference=True),
}
