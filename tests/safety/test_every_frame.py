"""A fault at every frame of a flash, with the real master, guard and slave: a defined end each time."""

import random
from collections.abc import Callable, Iterable
from functools import cache

import numpy as np
import pytest

from tests.safety.bench import Bench, learned
from tests.safety.wire import Frame, doubled, filled, lost, nothing
from tspace_core.errors import BusError
from tspace_core.guard.audit import verify
from tspace_core.guard.state import FlashOutcome
from tspace_core.link.xcp_packets import ErrorCode

Plan = Callable[[Bench, int], None]
"""Arms a fault for the frame of that number."""


def late(seconds: float) -> Callable[[Frame], None]:
    def tamper(frame: Frame) -> None:
        frame.at_ns += round(seconds * 1e9)

    return tamper


def at(tamper: Callable[[Frame], None]) -> Plan:
    def plan(bench: Bench, number: int) -> None:
        bench.wire.tampers[number] = tamper

    return plan


def said(*packet: int) -> Plan:
    """An answer is replaced: what was asked is done and answered with this. A command is refused with it.

    No command is acknowledged that was not done: a VCU that lies cannot be helped.
    """
    refusal = packet[0] == 0xFE

    def plan(bench: Bench, number: int) -> None:
        def tamper(frame: Frame) -> None:
            if frame.to_vcu and refusal:
                frame.lost = True
                bench.wire.answer(bytes(packet))
            elif not frame.to_vcu:
                frame.data, frame.proof = filled(bytes(packet)), None

        bench.wire.tampers[number] = tamper

    return plan


def bus_error(bench: Bench, number: int) -> None:
    """The bus fails once, where that frame is due."""

    def fail() -> None:
        if bench.wire.frames >= number - 1:
            bench.bridge.transport.fail = lambda: None
            raise BusError("bus off")

    bench.bridge.transport.fail = fail


def silence(bench: Bench, number: int) -> None:
    def tamper(frame: Frame) -> None:
        frame.lost |= bench.wire.frames >= number

    bench.wire.tamper = tamper


def refused_for_ever(bench: Bench, number: int) -> None:
    """From that frame on the VCU refuses whatever it is told but CONNECT and SYNCH."""

    def tamper(frame: Frame) -> None:
        if bench.wire.frames >= number and frame.to_vcu and frame.data[0] < 0xFC:
            frame.lost = True
            bench.wire.answer(bytes((0xFE, ErrorCode.ERR_GENERIC)))

    bench.wire.tamper = tamper


def bus_off(bench: Bench, number: int) -> None:
    def fail() -> None:
        if bench.wire.frames >= number - 1:
            raise BusError("bus off")

    bench.bridge.transport.fail = fail


ONCE: dict[str, tuple[Plan, set[int]]] = {
    # fault: how, and the failure codes that it may have
    "lost": (at(lost), {2, 4}),
    "doubled": (at(doubled), {1, 2, 4}),
    "late by one time-out": (at(late(0.15)), {2, 4}),
    "late by all time-outs": (at(late(0.5)), {2, 4}),
    "busy": (said(0xFE, ErrorCode.ERR_CMD_BUSY), {1, 4}),
    "syntax": (said(0xFE, ErrorCode.ERR_CMD_SYNTAX), {1, 4}),
    "out of range": (said(0xFE, ErrorCode.ERR_OUT_OF_RANGE), {1, 4}),
    "locked": (said(0xFE, ErrorCode.ERR_ACCESS_LOCKED), {1, 4}),
    "sequence": (said(0xFE, ErrorCode.ERR_SEQUENCE), {1, 4}),
    "generic": (said(0xFE, ErrorCode.ERR_GENERIC), {1, 4}),
    "unnamed error": (said(0xFE, 0x99), {1, 4}),
    "session ended": (said(0xFD, 0x07), {2, 4}),
    "positive garbage": (said(0xFF, *range(200, 207)), {1, 2, 4}),
    "garbage": (said(0x77, *range(200, 207)), {1, 2, 4}),
    "bus error": (bus_error, {3}),
}
WHOLE = ("lost", "late by one time-out", "generic", "positive garbage", "bus error")
"""Tried at every frame in the quick suite too."""
FOR_EVER: dict[str, tuple[Plan, set[int]]] = {
    "silence": (silence, {4}),
    "refused": (refused_for_ever, {1}),
    "bus off": (bus_off, {3}),
}


@cache
def frames_of_a_flash(vehicle: str, *, fd: bool, block_mode: bool) -> int:
    with learned(vehicle, fd=fd, block_mode=block_mode) as bench:
        before = bench.wire.frames
        assert bench.flash().result == "APPLIED"
        return bench.wire.frames - before


def is_known(bench: Bench, outcome: FlashOutcome, codes: set[int]) -> None:
    """What every outcome must say, and what must be so."""
    guard, wire = bench.guard, bench.wire
    assert outcome.result in ("APPLIED", "REVERTED", "UNKNOWN")
    assert outcome.code in (codes if outcome.result != "APPLIED" else {0}), outcome.reason
    assert (outcome.effect_ns is not None) == (outcome.result == "APPLIED")
    rows = guard.live.table[outcome.first_row : outcome.first_row + 4]
    assert np.array_equal(outcome.rows, rows)
    assert wire.witness.broken == []
    if outcome.result == "UNKNOWN":
        assert guard.state == "LOCKED"
    else:
        assert bench.in_effect == guard.live
    if guard.state == "LOCKED":
        assert guard.live == guard.reference
        assert not guard.arm(by="test", token=None, resume=None).ok


def back_to_work(bench: Bench, outcome: FlashOutcome) -> None:
    """The fault is over: a guard that is armed flashes again, one that is locked needs a person first."""
    guard, wire = bench.guard, bench.wire
    wire.tamper, wire.tampers = nothing, {}
    bench.bridge.transport.fail = lambda: None
    # A slow flash spoils two windows, as the guard hears no sample meanwhile; a third one would end the run.
    pause_s = 5.0 if outcome.duration_s > 0.3 else 1.1
    bench.drive(pause_s)
    if bench.state == "LOCKED":
        bench.drive(2.0)
        assert wire.vcu.page == wire.vcu.reference_page
        guard.clear("a person")
        assert bench.state == "DISARMED"
        bench.arm()
        bench.drive(0.1)
    again = bench.flash()
    assert again.result == "APPLIED", again.reason
    is_known(bench, again, set())
    bench.drive(pause_s)


def with_fault(vehicle: str, kind: str, frames: Iterable[int], *, fd: bool, block_mode: bool) -> None:
    plan, codes = {**ONCE, **FOR_EVER}[kind]
    with learned(vehicle, fd=fd, block_mode=block_mode) as bench:
        for number in frames:
            plan(bench, bench.wire.frames + number)
            outcome = bench.flash()
            try:
                is_known(bench, outcome, codes)
                if kind in FOR_EVER and outcome.result != "APPLIED":
                    left_alone(bench)
                back_to_work(bench, outcome)
            except AssertionError as error:
                message = f"{kind} at frame {number}: {outcome}, {bench.guard.state}: {bench.guard.cause}"
                raise AssertionError(message) from error
        assert verify(bench.bridge.audit.path).ok


def left_alone(bench: Bench) -> None:
    """The fault stays: nobody was told that all is well, and 3 s later the reference map is in effect."""
    guard, vcu = bench.guard, bench.wire.vcu
    assert guard.state == "LOCKED"
    bench.drive(3.0)
    assert vcu.page == vcu.reference_page


def all_frames(vehicle: str, *, fd: bool, block_mode: bool) -> range:
    return range(1, frames_of_a_flash(vehicle, fd=fd, block_mode=block_mode) + 1)


def some_frames(vehicle: str, *, fd: bool, block_mode: bool) -> list[int]:
    """The first and last ones, and some by chance of the many alike between them."""
    frames = all_frames(vehicle, fd=fd, block_mode=block_mode)
    seed = random.randrange(2**32)
    print("seed", seed)
    return sorted({*frames[:8], *frames[-8:], *random.Random(seed).sample(frames, 8)})


@pytest.mark.parametrize("kind", WHOLE)
def test_a_fault_at_every_frame(kind: str) -> None:
    setup = {"fd": True, "block_mode": True}
    with_fault("twin_truck", kind, all_frames("twin_truck", **setup), **setup)


@pytest.mark.parametrize("kind", [kind for kind in ONCE if kind not in WHOLE])
def test_another_fault_at_any_frame(kind: str) -> None:
    setup = {"fd": True, "block_mode": True}
    with_fault("twin_truck", kind, some_frames("twin_truck", **setup), **setup)


@pytest.mark.parametrize("kind", ONCE)
def test_a_fault_at_any_frame_with_one_working_page(kind: str) -> None:
    setup = {"fd": True, "block_mode": True}
    with_fault("twin_mule", kind, some_frames("twin_mule", **setup), **setup)


@pytest.mark.parametrize("block_mode", [False, True])
@pytest.mark.parametrize("kind", ["lost", "late by one time-out", "generic", "bus error"])
def test_a_fault_at_any_frame_of_eight_bytes(kind: str, *, block_mode: bool) -> None:
    setup = {"fd": False, "block_mode": block_mode}
    with_fault("twin_truck", kind, some_frames("twin_truck", **setup), **setup)


@pytest.mark.parametrize("vehicle", ["twin_truck", "twin_mule"])
@pytest.mark.parametrize("kind", FOR_EVER)
def test_a_fault_that_stays_from_any_frame_on(vehicle: str, kind: str) -> None:
    setup = {"fd": True, "block_mode": True}
    with_fault(vehicle, kind, some_frames(vehicle, **setup), **setup)


@pytest.mark.slow
@pytest.mark.parametrize("vehicle", ["twin_truck", "twin_mule"])
@pytest.mark.parametrize("fd", [False, True])
@pytest.mark.parametrize("block_mode", [False, True])
@pytest.mark.parametrize("kind", [*ONCE, *FOR_EVER])
def test_every_fault_at_every_frame(vehicle: str, kind: str, *, fd: bool, block_mode: bool) -> None:
    frames = all_frames(vehicle, fd=fd, block_mode=block_mode)
    with_fault(vehicle, kind, frames, fd=fd, block_mode=block_mode)
