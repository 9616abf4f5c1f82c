"""Whether any window is missed while a vehicle drives and learns: the whole chain in real time.

``tspace twin`` and ``tspace bridge`` are processes on a udp_multicast bus; this process is the run (Avatar,
KvaserCAN), its learner another process that never waits. Episodes of up to two minutes follow each other.

A window is missed where it is not valid, was lost because the control thread was busy, was too late to be
decided on, or never was: the clock says how many windows fit between an episode's first and last sample.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from interleaved import Result
from online_instruments import UPDATES_PER_RECORD, BusyLearner, Run, free_port, processor_s, say

from tspace_core.config import load_vehicle
from tspace_core.config.settings import settings
from tspace_core.online.cruncher import LATE_WINDOW
from tspace_core.online.results import EpisodeResult
from tspace_core.vehicle.kvaser import KvaserOptions

PROJECT = Path(__file__).resolve().parents[1]
VEHICLE = "twin_truck"
EPISODE_S = 120.0
PAUSE_S = 1.0
PATIENCE_S = 120.0


@dataclass
class Counted:
    """What a run of the chain came to.

    Attributes:
        expected: windows that the clock says there were.
        valid: valid windows that reached the control thread.
        late: of these, windows that were too late to be decided on.
        decide_ms: from the window's last datagram to the proposal, written.
        flash_ms: from the proposal to the bridge's answer.
        results: decisions by what became of them.
        facts: further counts by name.
        busy: share of a processor that the learner took.
        driven_s: length of all episodes.
    """

    expected: int = 0
    valid: int = 0
    late: int = 0
    decide_ms: list[float] = field(default_factory=list)
    flash_ms: list[float] = field(default_factory=list)
    results: Counter[str] = field(default_factory=Counter)
    facts: dict[str, int] = field(default_factory=dict)
    busy: float = 0.0
    driven_s: float = 0.0

    @property
    def missed(self) -> int:
        """Windows that are not there, or were there too late."""
        return max(self.expected - self.valid, 0) + self.late


class _Process:
    """A tspace command whose lines are read as they come."""

    def __init__(self, *words: str) -> None:
        command = [sys.executable, "-m", "tspace_core.cli", *words, "--vehicle", VEHICLE]
        self._process = subprocess.Popen(
            command, cwd=PROJECT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        )
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._changed:
                self.lines.append(line)
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def wait_for(self, words: str) -> None:
        """Wait for a line with these words."""

        def said() -> bool:
            return any(words in line for line in self.lines)

        with self._changed:
            self._changed.wait_for(lambda: said() or not self._reader.is_alive(), PATIENCE_S)
        if not said():
            sys.exit(f"a process never said {words!r} but {self.lines[-5:]}")

    def close(self) -> None:
        """End it as a service manager does."""
        self._process.terminate()
        self._process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        assert self._process.stdout is not None
        self._process.stdout.close()


@contextmanager
def _own_settings() -> Iterator[None]:
    """A copy of conf/ with ports of its own, and an empty lake."""
    root = Path(tempfile.mkdtemp(prefix="tspace-online-"))
    before = dict(os.environ)
    try:
        shutil.copytree(PROJECT / "conf", root / "conf")
        file = root / "conf" / "vehicles" / f"{VEHICLE}.yaml"
        text = re.sub(r"port: \d+", f"port: {free_port()}", file.read_text(encoding="utf-8"))
        channel = free_port(socket.SOCK_STREAM)
        text += f"\nports: {{udp: {free_port()}, bridge: {channel}}}\n"
        file.write_text(text, encoding="utf-8")
        os.environ |= {"TSPACE_CONF_DIR": str(root / "conf"), "TSPACE_DATA_DIR": str(root / "data")}
        os.environ["OMP_NUM_THREADS"] = "1"
        settings.cache_clear()
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        settings.cache_clear()
        shutil.rmtree(root)


def measure(minutes: float) -> Counted:
    """Drive that long, with the learner at work."""
    with _own_settings(), ExitStack() as stack:
        twin = _Process("twin", "--hmi", "none", "--seed", "3")
        stack.callback(twin.close)
        bridge = _Process("bridge", "--no-keys", "--no-standby")
        stack.callback(bridge.close)
        twin.wait_for('"ready"')
        bridge.wait_for("DISARMED")
        counted = _drive(minutes * 60.0)
        counted.facts |= _counters()
        counted.facts["twin: steps given up"] = sum('"late"' in line for line in twin.lines)
        return counted


def _drive(seconds: float) -> Counted:
    vehicle = load_vehicle(VEHICLE)
    vehicle = vehicle.model_copy(
        update={"online": vehicle.online.model_copy(update={"updates_per_record": UPDATES_PER_RECORD})}
    )
    counted, stored = Counted(), threading.Semaphore(0)
    port = vehicle.ports.udp
    assert port is not None

    def take(result: EpisodeResult) -> None:
        _count(counted, json.loads(result.training_log.read_text(encoding="utf-8")))
        stored.release()

    run = Run(vehicle, settings().data_dir, KvaserOptions(hmi="udp"), learner=BusyLearner, on_episode=take)
    assert run.learner is not None
    assert run.learner.pid is not None
    began, before = time.monotonic(), processor_s(run.learner.pid)
    pause = threading.Event()
    while counted.driven_s < seconds:
        length = min(EPISODE_S, seconds - counted.driven_s)
        say("begin", port)
        pause.wait(length)
        counted.driven_s += length
        say("end_valid", port)
        if not stored.acquire(timeout=PATIENCE_S):
            sys.exit(f"an episode was not stored: {run.error}")
        print(f"run: {counted.driven_s:.0f} of {seconds:.0f} s", file=sys.stderr)
        pause.wait(PAUSE_S)
    counted.busy = (processor_s(run.learner.pid) - before) / (time.monotonic() - began)
    say("exit", port)
    run.join()
    _windows(counted, run, vehicle.sampling.period_ns, vehicle.sampling.window)
    return counted


def _count(counted: Counted, log: Any) -> None:
    for step in log["steps"]:
        counted.results[step["flash"]] += 1
        counted.late += step["reason"] == LATE_WINDOW
        if step["flash_ms"] is not None:
            counted.flash_ms.append(step["flash_ms"])


def _windows(counted: Counted, run: Run, period_ns: int, length: int) -> None:
    notes, car = run.notes, run.car
    assert car is not None
    for episode in notes.episodes:
        if episode:
            span = episode[-1].end_ns - episode[0].start_ns + period_ns
            counted.expected += round(span / (period_ns * length))
            counted.valid += sum(window.valid for window in episode)
    counted.decide_ms = [(one.written_ns - one.received_ns) / 1e6 for one in notes.decisions]
    counted.facts |= {
        "datagrams taken": car.intake.samples,
        "datagrams refused": car.intake.refused,
        "datagrams lost": car.builder.lost,
        "datagrams dropped": sum(car.builder.dropped.values()),
        "windows not valid": len(notes.invalid),
    }
    for reason in notes.invalid:
        print(f"window not valid: {reason}", file=sys.stderr)


def _counters() -> dict[str, int]:
    command = [sys.executable, "-m", "tspace_core.cli", "status", "--json", "--vehicle", VEHICLE]
    told = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    counters = json.loads(told.stdout)["counters"]
    names = ("ticks_missed", "datagrams_incomplete", "frames_refused", "error_frames")
    return {f"bridge: {name.replace('_', ' ')}": counters[name] for name in names}


def results(counted: Counted) -> list[Result]:
    """Missed windows first, then what may have caused them."""
    name = f"drive of {counted.driven_s / 60:g} min"
    lines = [
        Result(f"{name}: windows missed", "tspace", float(counted.missed), "windows", "lower"),
        Result(f"{name}: windows expected", "tspace", float(counted.expected), "windows", "higher"),
        Result(f"{name}: of them too late", "tspace", float(counted.late), "windows", "lower"),
        Result(f"{name}: learner's share of a processor", "tspace", 100 * counted.busy, "%", "higher"),
    ]
    quantiles: list[tuple[str, list[float]]] = [
        ("window complete -> proposal written", counted.decide_ms),
        ("proposal -> answer of the flash", counted.flash_ms),
    ]
    for title, values in quantiles:
        if values:
            lines += [
                Result(f"{name}: {title}: {share}", "tspace", float(np.quantile(values, q)), "ms", "lower")
                for share, q in (("p50", 0.5), ("p99", 0.99))
            ]
    for result, count in sorted(counted.results.items()):
        better = "higher" if result == "APPLIED" else "lower"
        lines.append(Result(f"{name}: decisions {result}", "tspace", float(count), "decisions", better))
    for fact, number in counted.facts.items():
        better = "higher" if fact == "datagrams taken" else "lower"
        lines.append(Result(f"{name}: {fact}", "tspace", float(number), "", better))
    return lines
