"""From a complete window to the proposal: learner stopped, at work, and at work with new weights coming.

A whole run (``Avatar``: KvaserCAN, Cruncher, DriverAgent, keeper, LearnerProcess) in this process; a bridge
without a bus in another one (``online_bridge``) sends real datagrams and answers proposals at once. Two
figures a decision:

========  ===========================================================================================
decide    from the moment at which KvaserCAN has the window's last datagram from its socket to the
          moment at which the proposal is written to the channel's socket
way       from just before the bridge sends that datagram to the proposal's arrival at the bridge: both
          ways through the machine's loopback and all waking of threads included
========  ===========================================================================================

Three states take turns within one run, in an order that rotates, so that what else the machine does and what
comes before hit all alike:

========  ===========================================================================================
off       the learner's process is stopped (SIGSTOP)
on        it learns and never waits: it has 1000 updates to do for each record
new       the same, and each second a policy is read, exported and taken over (``online.weights: step``)
========  ===========================================================================================

Samples come at 60 Hz and windows are short (6 samples for 30), so that there are 5 decisions a second and not
one in 3 s: a tail needs hundreds. ``--rate 20 --window 30`` decides as the twin's truck does. A round is some
turns of all three; a busy machine spoils rounds, so the best one is told beside the whole.
"""

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from interleaved import Result
from numpy.typing import NDArray
from online_bridge import KEY, VEHICLE
from online_instruments import PATIENCE_S, UPDATES_PER_RECORD, BusyLearner, Run, free_port, processor_s, say

from tspace_core.config import load_vehicle
from tspace_core.link.endpoints import Endpoints
from tspace_core.objects.path import AnyPath
from tspace_core.online.cruncher import LATE_WINDOW
from tspace_core.online.driver_agent import DriverAgent, Successor
from tspace_core.online.results import EpisodeResult
from tspace_core.vehicle.kvaser import KvaserOptions

WARM_S = 3.0
SETTLE_S = 0.3
"""After the learner was turned on or off, decisions this long are of neither."""
NEW_WEIGHTS_S = 1.0
STATES = ("off", "on", "new")


@dataclass(frozen=True)
class Leg:
    """A stretch of the run in one state; ``perf_counter_ns``."""

    round: int
    state: str
    begin_ns: int
    end_ns: int
    busy: float
    """Share of a processor that the learner took."""


@contextmanager
def _bridge(udp_port: int, rate_hz: float) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, str(Path(__file__).with_name("online_bridge.py")), str(udp_port), str(rate_hz)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@dataclass(frozen=True)
class Measured:
    """What was measured.

    Attributes:
        decide, way: latencies in ms by state, an array a round.
        busy: share of a processor that the learner took while it was on.
        taken_over: policies that took over.
        late: windows that were too late to be decided on, so in no latency.
        bridge_late_ms: how late the bridge's clock was at worst.
        invalid: windows.
    """

    decide: dict[str, list[NDArray[np.float64]]]
    way: dict[str, list[NDArray[np.float64]]]
    busy: float
    taken_over: int
    late: int
    bridge_late_ms: float
    invalid: int


def measure(rounds: int, turns: int, leg_s: float, window: int, rate_hz: float) -> Measured:
    """Run, and take turns with the learner stopped, at work, and at work with new weights.

    Args:
        rounds: told apart in the answer.
        turns: legs of each state in a round.
        leg_s: length of a leg.
        window: samples in a window.
        rate_hz: samples a second.
    """
    vehicle = load_vehicle(VEHICLE)
    updates = {"updates_per_record": UPDATES_PER_RECORD, "weights": "step"}
    vehicle = vehicle.model_copy(
        update={
            "sampling": vehicle.sampling.model_copy(update={"window": window, "rate_hz": rate_hz}),
            # A short window feels a sample that comes 30 ms late, which is of the machine, not of the run.
            "guard": vehicle.guard.model_copy(update={"window_rate_min": 0.1, "stale_periods": 30}),
            "online": vehicle.online.model_copy(update=updates),
        }
    )
    root = Path(tempfile.mkdtemp(prefix="tspace-latency-"))
    port = free_port()
    late: list[int] = []

    def stored(result: EpisodeResult) -> None:
        log = json.loads(result.training_log.read_text(encoding="utf-8"))
        late.append(sum(step["reason"] == LATE_WINDOW for step in log["steps"]))

    try:
        with _bridge(port, vehicle.sampling.rate_hz) as bridge:
            assert bridge.stdout is not None
            addresses = Endpoints("127.0.0.1", port, "127.0.0.1", int(bridge.stdout.readline()))
            options = KvaserOptions(hmi="udp", addresses=addresses, key=KEY)
            run = Run(vehicle, root, options, learner=BusyLearner, on_episode=stored)
            legs, taken_over = _legs(run, rounds, turns, leg_s, port)
            told, _ = bridge.communicate(timeout=PATIENCE_S)
        return _sorted(run, legs, json.loads(told), taken_over, sum(late))
    finally:
        shutil.rmtree(root)


def _legs(run: Run, rounds: int, turns: int, leg_s: float, port: int) -> tuple[list[Leg], int]:
    learner = run.learner
    assert isinstance(learner, BusyLearner)
    pid = learner.pid
    assert pid is not None
    pause = threading.Event()
    legs = []
    taken = _count_taken_over()
    say("begin", port)
    pause.wait(WARM_S)  # the learner gets its first records, and everything is warm
    try:
        for number in range(rounds):
            for turn in range(turns):
                for at in range(len(STATES)):
                    state = STATES[(at + turn + number) % len(STATES)]
                    os.kill(pid, signal.SIGSTOP if state == "off" else signal.SIGCONT)
                    pause.wait(SETTLE_S)
                    begin, before = time.perf_counter_ns(), processor_s(pid)
                    _pass(leg_s, learner if state == "new" else None, pause)
                    end = time.perf_counter_ns()
                    busy = (processor_s(pid) - before) / (end - begin) * 1e9
                    legs.append(Leg(number, state, begin, end, busy))
            print(f"latency: round {number + 1} of {rounds}", file=sys.stderr)
            if not run.alive:
                sys.exit(f"the run ended: {run.error}")
    finally:
        os.kill(pid, signal.SIGCONT)
    say("end_valid", port)
    say("exit", port)
    run.join()
    return legs, len(taken)


def _pass(seconds: float, renewed: BusyLearner | None, pause: threading.Event) -> None:
    """Let time pass, with new weights now and then where there is a learner to make them."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0.0:
        if renewed is not None:
            renewed.renew()
        pause.wait(min(left, NEW_WEIGHTS_S if renewed is not None else left))


def _count_taken_over() -> list[AnyPath]:
    taken: list[AnyPath] = []
    take_over = DriverAgent.take_over

    def noted(self: DriverAgent, successor: Successor) -> None:
        taken.append(successor.source)
        take_over(self, successor)

    DriverAgent.take_over = noted  # type: ignore[method-assign]
    return taken


def _sorted(run: Run, legs: list[Leg], told: Any, taken_over: int, late: int) -> Measured:
    arrived = {int(number): instant for number, instant in told["arrived"].items()}
    decide: dict[str, list[NDArray[np.float64]]] = {state: [] for state in STATES}
    way: dict[str, list[NDArray[np.float64]]] = {state: [] for state in STATES}
    for number in sorted({leg.round for leg in legs}):
        for state in STATES:
            mine = [leg for leg in legs if (leg.round, leg.state) == (number, state)]
            within = [
                one
                for one in run.notes.decisions
                if any(leg.begin_ns <= one.received_ns < leg.end_ns for leg in mine)
            ]
            decide[state].append(np.array([one.written_ns - one.received_ns for one in within]) / 1e6)
            way[state].append(np.array([arrived[one.number] - one.stamp_ns for one in within]) / 1e6)
    busy = statistics.fmean(leg.busy for leg in legs if leg.state != "off")
    return Measured(decide, way, busy, taken_over, late, told["late_ms"], len(run.notes.invalid))


def results(measured: Measured) -> list[Result]:
    """p50 and p99 of all decisions and of the best round, and how much the learner adds to them."""
    lines = []
    for title, times in (
        ("window complete -> proposal written", measured.decide),
        ("datagram sent -> proposal at the bridge", measured.way),
    ):
        for state in STATES:
            values = np.concatenate(times[state])
            best = min(_tail(one) for one in times[state])
            lines += [
                Result(f"{title}, {state}: p50", "tspace", float(np.quantile(values, 0.5)), "ms", "lower"),
                Result(f"{title}, {state}: p99", "tspace", _tail(values), "ms", "lower"),
                Result(f"{title}, {state}: p99, best round", "tspace", best, "ms", "lower"),
                Result(f"{title}, {state}: decisions", "tspace", float(len(values)), "decisions", "higher"),
            ]
        for state in STATES[1:]:
            lines += _ratios(f"{title}, {state} / off", times[state], times["off"])
    lines.append(Result("learner on: share of a processor", "tspace", 100 * measured.busy, "%", "higher"))
    lines.append(
        Result("policies that took over", "tspace", float(measured.taken_over), "policies", "higher")
    )
    lines.append(Result("windows too late to decide on", "tspace", float(measured.late), "windows", "lower"))
    lines.append(Result("invalid windows", "tspace", float(measured.invalid), "windows", "lower"))
    lines.append(Result("datagrams: worst lateness", "stub bridge", measured.bridge_late_ms, "ms", "lower"))
    return lines


def _tail(values: NDArray[np.float64]) -> float:
    return float(np.quantile(values, 0.99))


def _ratios(title: str, above: list[NDArray[np.float64]], below: list[NDArray[np.float64]]) -> list[Result]:
    middles = [float(np.median(a) / np.median(b)) for a, b in zip(above, below, strict=True)]
    tails = [_tail(a) / _tail(b) for a, b in zip(above, below, strict=True)]
    best = min(map(_tail, above)) / min(map(_tail, below))
    whole = _tail(np.concatenate(above)) / _tail(np.concatenate(below))
    return [
        Result(f"{title}: p50, median of rounds", "tspace", statistics.median(middles), "x", "lower"),
        Result(f"{title}: p99, all decisions", "tspace", whole, "x", "lower"),
        Result(f"{title}: p99, median of rounds", "tspace", statistics.median(tails), "x", "lower"),
        Result(f"{title}: p99, best rounds", "tspace", best, "x", "lower"),
    ]
