"""The episode state machine: the whole table, and sequences of events at random."""

import itertools
import random

import pytest

from tspace_core.vehicle.states import CAPTURE, TABLE, Effect, Event, State, step

EVERY = list(itertools.product(State, Event))

# The contract in words, written down a second time by hand: next state and effects, abbreviated.
# d stale dropped, o episode opened, a armed, c capture on, x capture off, t countdown on, z countdown off,
# k episode kept, i episode discarded, r reference map (disarm), f failure counted, s run stopped
WORDS = """
idle         begin           capturing    d o a c
idle         end_valid       idle         f
idle         end_invalid     idle         r f
idle         exit            ended        r s
idle         countdown_over  idle
idle         interrupt       idle
idle         finish          ended        r s
idle         fail            ended        r s
idle         stop            ended        r s
capturing    begin           capturing    f
capturing    end_valid       countdown    t
capturing    end_invalid     idle         x r i
capturing    exit            ended        x r i s
capturing    countdown_over  capturing
capturing    interrupt       interrupted  x r
capturing    finish          ended        x r k s
capturing    fail            ended        x r i s
capturing    stop            ended        x r i s
countdown    begin           capturing    z x k d o a c
countdown    end_valid       countdown    f
countdown    end_invalid     idle         z x r i
countdown    exit            ended        z x r k s
countdown    countdown_over  idle         x k
countdown    interrupt       idle         z x r k
countdown    finish          ended        z x r k s
countdown    fail            ended        z x r k s
countdown    stop            ended        z x r k s
interrupted  begin           capturing    i d o a c
interrupted  end_valid       idle         k
interrupted  end_invalid     idle         i
interrupted  exit            ended        r i s
interrupted  countdown_over  interrupted
interrupted  interrupt       interrupted
interrupted  finish          ended        r k s
interrupted  fail            ended        r i s
interrupted  stop            ended        r i s
ended        begin           ended
ended        end_valid       ended
ended        end_invalid     ended
ended        exit            ended
ended        countdown_over  ended
ended        interrupt       ended
ended        finish          ended
ended        fail            ended
ended        stop            ended
"""
LETTERS = {
    "d": Effect.DROP_STALE,
    "o": Effect.OPEN,
    "a": Effect.ARM,
    "c": Effect.START_CAPTURE,
    "x": Effect.STOP_CAPTURE,
    "t": Effect.START_COUNTDOWN,
    "z": Effect.CANCEL_COUNTDOWN,
    "k": Effect.KEEP,
    "i": Effect.DISCARD,
    "r": Effect.DISARM,
    "f": Effect.COUNT_FAILURE,
    "s": Effect.STOP_RUN,
}
EXPECTED = {
    (State[state.upper()], Event[event.upper()]): (
        State[to.upper()],
        tuple(LETTERS[letter] for letter in letters),
    )
    for state, event, to, *letters in (line.split() for line in WORDS.strip().splitlines())
}


def test_the_table_is_total_and_has_nothing_else() -> None:
    assert set(TABLE) == set(EVERY) == set(EXPECTED)


@pytest.mark.parametrize(("state", "event"), EVERY, ids=[f"{s.value}-{e.value}" for s, e in EVERY])
def test_every_transition_is_the_one_written_down(state: State, event: Event) -> None:
    assert step(state, event) == EXPECTED[state, event]


@pytest.mark.parametrize(("state", "event"), EVERY, ids=[f"{s.value}-{e.value}" for s, e in EVERY])
def test_every_transition_leaves_the_world_as_its_state_says(state: State, event: Event) -> None:
    """Capture and countdown are on exactly where the state says so; an episode is closed once."""
    after, effects = step(state, event)
    world = World(state)
    world.apply(effects)
    assert world.capturing == (after in CAPTURE)
    assert world.countdown == (after is State.COUNTDOWN and event is not Event.COUNTDOWN_OVER)
    assert world.open == (after in {*CAPTURE, State.INTERRUPTED})
    assert world.stopped == (after is State.ENDED)


class World:
    """What the effects act on."""

    def __init__(self, state: State = State.IDLE) -> None:
        self.capturing = state in CAPTURE
        self.countdown = state is State.COUNTDOWN
        self.open = state in {*CAPTURE, State.INTERRUPTED}
        self.stopped = state is State.ENDED
        self.armed = self.capturing
        self.kept: list[int] = []
        self.discarded: list[int] = []
        self.number = 1 if self.open else 0
        self.failures = 0

    def apply(self, effects: tuple[Effect, ...]) -> None:
        for effect in effects:
            assert not self.stopped, f"{effect} after the run was stopped"
            getattr(self, f"_{effect.name.lower()}")()

    def _drop_stale(self) -> None:
        assert not self.capturing, "observations of a running episode are never dropped"

    def _open(self) -> None:
        assert not self.open
        self.number, self.open = self.number + 1, True

    def _arm(self) -> None:
        assert self.open
        self.armed = True

    def _start_capture(self) -> None:
        assert self.open
        assert not self.capturing
        self.capturing = True

    def _stop_capture(self) -> None:
        assert self.capturing
        self.capturing = self.countdown = False

    def _start_countdown(self) -> None:
        assert self.capturing
        assert not self.countdown
        self.countdown = True

    def _cancel_countdown(self) -> None:
        assert self.countdown
        self.countdown = False

    def _keep(self) -> None:
        assert self.open
        assert not self.capturing, "an episode is closed after its last window"
        self.kept.append(self.number)
        self.open = False

    def _discard(self) -> None:
        assert self.open
        assert not self.capturing
        self.discarded.append(self.number)
        self.open = False

    def _disarm(self) -> None:
        assert not self.capturing, "the map falls back only after the last window of the episode"
        self.armed = False

    def _count_failure(self) -> None:
        self.failures += 1

    def _stop_run(self) -> None:
        assert not self.open
        assert not self.capturing
        assert not self.armed
        self.stopped = True


@pytest.mark.parametrize("round_number", range(5))
def test_no_sequence_of_events_breaks_an_invariant(round_number: int) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}, round {round_number}")
    rng = random.Random(seed)
    ending = (Event.EXIT, Event.FINISH, Event.FAIL, Event.STOP)
    going_on = [event for event in Event if event not in ending]
    for _ in range(200):
        state, world = State.IDLE, World()
        for _ in range(rng.randint(1, 60)):
            event = rng.choice(ending) if rng.random() < 0.03 else rng.choice(going_on)
            was, kept, open_number = state, list(world.kept), world.number if world.open else None
            state, effects = step(state, event)
            world.apply(effects)
            assert world.capturing == (state in CAPTURE)
            if was is State.ENDED:
                assert state is State.ENDED, "nothing brings a run back"
                assert not effects
            if event is Event.END_INVALID and open_number is not None:
                assert world.kept == kept, "stored after end_invalid"
                assert world.discarded[-1] == open_number
            if event in (Event.END_INVALID, Event.INTERRUPT, *ending):
                assert not world.capturing, "captured after a stop"
                assert not world.armed or was is State.IDLE, "armed after a stop"
            if event is Event.BEGIN and was is not State.ENDED:
                assert world.capturing
                assert world.armed
        # Numbers are unique, in order, and no episode is both kept and discarded.
        judged = sorted(world.kept + world.discarded)
        assert judged == list(range(1, len(judged) + 1))
        assert world.number == len(judged) + world.open
