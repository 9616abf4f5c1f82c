"""Times several subjects in turns, so that what else the machine does hits all of them alike."""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, redirect_stdout
from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """One line of a benchmark's answer."""

    what: str
    subject: str
    value: float
    unit: str
    better: str


def seconds_in_turns(
    subjects: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    calls: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds a call of each subject, one figure a round; every subject runs in every round.

    Where all subjects compute on one thread, ``time.process_time`` as ``clock`` leaves out what other
    processes take of the machine.
    """
    for call in subjects.values():
        for _ in range(3):
            call()
    found: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(rounds):
        for name, call in subjects.items():
            began = clock()
            for _ in range(calls):
                call()
            found[name].append((clock() - began) / calls)
    return found


def median_ratio(above: list[float], below: list[float]) -> float:
    """Median over the rounds of ``above / below``."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def arguments(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="print one JSON list and nothing else")
    parser.add_argument("--rounds", type=int, default=25, help="rounds; the medians over them are printed")
    return parser


def show(results: list[Result], *, as_json: bool, title: str) -> None:
    if as_json:
        print(json.dumps([vars(result) for result in results]))
        return
    print(title)
    for result in results:
        print(f"  {result.what:<58} {result.subject:<22} {result.value:>10.2f} {result.unit}")


def off_stdout() -> AbstractContextManager[object]:
    """Sends what packages print while they are set up to stderr, so that ``--json`` stays JSON."""
    return redirect_stdout(sys.stderr)


def left_out(package: str, error: ImportError) -> None:
    print(f"{package} is left out: {error}; install the `bench` extra for it", file=sys.stderr)
