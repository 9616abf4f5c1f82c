"""The states of an online run and its episodes: one table, total over all states and events.

The events of the training HMI are the field's; how they come to a run does not matter here. Nothing in this
module acts: effects are names that the vehicle interface carries out in their order.

What the wire contract leaves open is decided so:

- A second ``begin`` while an episode is captured, and an end without a beginning, change nothing and count as
  a failure each; only the reference map comes back at every ``end_invalid``.
- ``begin`` during the countdown ends the episode before it as valid at once and begins the next.
- An interruption stops capture and disarms, but the episode stays open for the person to judge: ``end_valid``
  keeps what was recorded before it, everything else discards it.
- ``exit`` and whatever else ends the run discard an episode that was not ended as valid; one whose countdown
  was running had been, so it is kept.
"""

from enum import Enum


class State(Enum):
    """Where a run is."""

    IDLE = "idle"
    """No episode: samples are not looked at."""
    CAPTURING = "capturing"
    """An episode: samples become windows."""
    COUNTDOWN = "countdown"
    """Ended as valid; capture goes on so that the last reward is whole."""
    INTERRUPTED = "interrupted"
    """An episode whose capture was stopped by a failure; a person has to say what becomes of it."""
    ENDED = "ended"
    """The run is over, for good."""


class Event(Enum):
    """What may happen."""

    BEGIN = "begin"
    END_VALID = "end_valid"
    END_INVALID = "end_invalid"
    EXIT = "exit"
    """A person ends the run by the HMI."""
    COUNTDOWN_OVER = "countdown over"
    INTERRUPT = "interrupt"
    """A flash was not answered in time, or the bridge locked or disarmed itself."""
    FINISH = "finish"
    """The stop request to a source without a person: what is captured is valid."""
    FAIL = "fail"
    """A failure that ends the run: a flash failure that stops, the watchdog, a crash."""
    STOP = "stop"
    """The process is asked to end."""


class Effect(Enum):
    """What a transition does."""

    DROP_STALE = "drop stale observations"
    OPEN = "open an episode"
    """Counts it, and clears interrupt and stop of the one before."""
    ARM = "arm the bridge"
    START_CAPTURE = "start capture"
    STOP_CAPTURE = "stop capture"
    START_COUNTDOWN = "start the countdown"
    CANCEL_COUNTDOWN = "cancel the countdown"
    KEEP = "close the episode: stored and learned from"
    DISCARD = "close the episode: discarded"
    DISARM = "disarm the bridge: reference map"
    COUNT_FAILURE = "count a failure"
    STOP_RUN = "stop every task"


Transition = tuple[State, tuple[Effect, ...]]

_BEGIN = (Effect.DROP_STALE, Effect.OPEN, Effect.ARM, Effect.START_CAPTURE)
_LEAVE = (Effect.DISARM, Effect.STOP_RUN)
_REFUSED = (Effect.COUNT_FAILURE,)

TABLE: dict[tuple[State, Event], Transition] = {
    (State.IDLE, Event.BEGIN): (State.CAPTURING, _BEGIN),
    (State.IDLE, Event.END_VALID): (State.IDLE, _REFUSED),
    (State.IDLE, Event.END_INVALID): (State.IDLE, (Effect.DISARM, *_REFUSED)),
    (State.IDLE, Event.EXIT): (State.ENDED, _LEAVE),
    (State.IDLE, Event.COUNTDOWN_OVER): (State.IDLE, ()),
    (State.IDLE, Event.INTERRUPT): (State.IDLE, ()),
    (State.IDLE, Event.FINISH): (State.ENDED, _LEAVE),
    (State.IDLE, Event.FAIL): (State.ENDED, _LEAVE),
    (State.IDLE, Event.STOP): (State.ENDED, _LEAVE),
    #
    (State.CAPTURING, Event.BEGIN): (State.CAPTURING, _REFUSED),
    (State.CAPTURING, Event.END_VALID): (State.COUNTDOWN, (Effect.START_COUNTDOWN,)),
    (State.CAPTURING, Event.END_INVALID): (State.IDLE, (Effect.STOP_CAPTURE, Effect.DISARM, Effect.DISCARD)),
    (State.CAPTURING, Event.EXIT): (
        State.ENDED,
        (Effect.STOP_CAPTURE, Effect.DISARM, Effect.DISCARD, Effect.STOP_RUN),
    ),
    (State.CAPTURING, Event.COUNTDOWN_OVER): (State.CAPTURING, ()),
    (State.CAPTURING, Event.INTERRUPT): (State.INTERRUPTED, (Effect.STOP_CAPTURE, Effect.DISARM)),
    (State.CAPTURING, Event.FINISH): (
        State.ENDED,
        (Effect.STOP_CAPTURE, Effect.DISARM, Effect.KEEP, Effect.STOP_RUN),
    ),
    (State.CAPTURING, Event.FAIL): (
        State.ENDED,
        (Effect.STOP_CAPTURE, Effect.DISARM, Effect.DISCARD, Effect.STOP_RUN),
    ),
    (State.CAPTURING, Event.STOP): (
        State.ENDED,
        (Effect.STOP_CAPTURE, Effect.DISARM, Effect.DISCARD, Effect.STOP_RUN),
    ),
    #
    (State.COUNTDOWN, Event.BEGIN): (
        State.CAPTURING,
        (Effect.CANCEL_COUNTDOWN, Effect.STOP_CAPTURE, Effect.KEEP, *_BEGIN),
    ),
    (State.COUNTDOWN, Event.END_VALID): (State.COUNTDOWN, _REFUSED),
    (State.COUNTDOWN, Event.END_INVALID): (
        State.IDLE,
        (Effect.CANCEL_COUNTDOWN, Effect.STOP_CAPTURE, Effect.DISARM, Effect.DISCARD),
    ),
    (State.COUNTDOWN, Event.EXIT): (
        State.ENDED,
        (Effect.CANCEL_COUNTDOWN, Effect.STOP_CAPTURE, Effect.DISARM, Effect.KEEP, Effect.STOP_RUN),
    ),
    (State.COUNTDOWN, Event.COUNTDOWN_OVER): (State.IDLE, (Effect.STOP_CAPTURE, Effect.KEEP)),
    (State.COUNTDOWN, Event.INTERRUPT): (
        State.IDLE,
        (Effect.CANCEL_COUNTDOWN, Effect.STOP_CAPTURE, Effect.DISARM, Effect.KEEP),
    ),
    (State.COUNTDOWN, Event.FINISH): (
        State.ENDED,
        (Effect.CANCEL_COUNTDOWN, Effect.STOP_CAPTURE, Effect.DISARM, Effect.KEEP, Effect.STOP_RUN),
    ),
    (State.COUNTDOWN, Event.FAIL): (
        State.ENDED,
        (Effect.CANCEL_COUNTDOWN, Effect.STOP_CAPTURE, Effect.DISARM, Effect.KEEP, Effect.STOP_RUN),
    ),
    (State.COUNTDOWN, Event.STOP): (
        State.ENDED,
        (Effect.CANCEL_COUNTDOWN, Effect.STOP_CAPTURE, Effect.DISARM, Effect.KEEP, Effect.STOP_RUN),
    ),
    #
    (State.INTERRUPTED, Event.BEGIN): (State.CAPTURING, (Effect.DISCARD, *_BEGIN)),
    (State.INTERRUPTED, Event.END_VALID): (State.IDLE, (Effect.KEEP,)),
    (State.INTERRUPTED, Event.END_INVALID): (State.IDLE, (Effect.DISCARD,)),
    (State.INTERRUPTED, Event.EXIT): (State.ENDED, (Effect.DISARM, Effect.DISCARD, Effect.STOP_RUN)),
    (State.INTERRUPTED, Event.COUNTDOWN_OVER): (State.INTERRUPTED, ()),
    (State.INTERRUPTED, Event.INTERRUPT): (State.INTERRUPTED, ()),
    (State.INTERRUPTED, Event.FINISH): (State.ENDED, (Effect.DISARM, Effect.KEEP, Effect.STOP_RUN)),
    (State.INTERRUPTED, Event.FAIL): (State.ENDED, (Effect.DISARM, Effect.DISCARD, Effect.STOP_RUN)),
    (State.INTERRUPTED, Event.STOP): (State.ENDED, (Effect.DISARM, Effect.DISCARD, Effect.STOP_RUN)),
    #
    (State.ENDED, Event.BEGIN): (State.ENDED, ()),
    (State.ENDED, Event.END_VALID): (State.ENDED, ()),
    (State.ENDED, Event.END_INVALID): (State.ENDED, ()),
    (State.ENDED, Event.EXIT): (State.ENDED, ()),
    (State.ENDED, Event.COUNTDOWN_OVER): (State.ENDED, ()),
    (State.ENDED, Event.INTERRUPT): (State.ENDED, ()),
    (State.ENDED, Event.FINISH): (State.ENDED, ()),
    (State.ENDED, Event.FAIL): (State.ENDED, ()),
    (State.ENDED, Event.STOP): (State.ENDED, ()),
}
"""Next state and effects for every state and event."""

CAPTURE = frozenset({State.CAPTURING, State.COUNTDOWN})
"""States in which samples become windows and flashes may be proposed."""


def step(state: State, event: Event) -> Transition:
    """Return the next state and the effects, in their order, of an event in a state."""
    return TABLE[state, event]
