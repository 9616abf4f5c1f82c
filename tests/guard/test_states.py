"""The table of the guard's states, walked through completely."""

from typing import get_args

from tspace_core.guard.state import GuardState
from tspace_core.guard.states import TABLE, GuardEvent, Transition

STATES, EVENTS = get_args(GuardState), get_args(GuardEvent)


def test_every_event_is_defined_in_every_state() -> None:
    assert set(TABLE) == {(state, event) for state in STATES for event in EVENTS}


def test_every_transition() -> None:
    expected = {
        ("DISARMED", "arm"): ("ARMED", False),
        ("DISARMED", "trip"): ("DISARMED", True),
        ("DISARMED", "lock"): ("LOCKED", True),
        ("DISARMED", "clear"): ("DISARMED", False),
        ("ARMED", "arm"): ("ARMED", False),
        ("ARMED", "trip"): ("DISARMED", True),
        ("ARMED", "lock"): ("LOCKED", True),
        ("ARMED", "clear"): ("ARMED", False),
        ("LOCKED", "arm"): ("LOCKED", False),
        ("LOCKED", "trip"): ("LOCKED", True),
        ("LOCKED", "lock"): ("LOCKED", True),
        ("LOCKED", "clear"): ("DISARMED", True),
    }
    assert {pair: (one.state, one.reference) for pair, one in TABLE.items()} == expected


def test_armed_is_reached_by_arming_alone_and_never_from_locked() -> None:
    ways = {pair for pair, one in TABLE.items() if one.state == "ARMED" and pair[0] != "ARMED"}
    assert ways == {("DISARMED", "arm")}


def test_whoever_leaves_armed_brings_the_reference_back() -> None:
    leaving = [one for (state, _), one in TABLE.items() if state == "ARMED" and one.state != "ARMED"]
    assert leaving
    assert all(one.reference for one in leaving)


def test_what_is_refused_changes_nothing() -> None:
    for (state, _), one in TABLE.items():
        if one.refused:
            assert one == Transition(state, refused=one.refused)
