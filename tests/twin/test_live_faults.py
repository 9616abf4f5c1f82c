"""Simulated faults hit what they name, as often as they say, and nothing else."""

import threading
import uuid
from types import SimpleNamespace

import can
import pytest

from tests.twin.xcp_talk import MAP, Clock, bench
from tspace_core.config import Vehicle
from tspace_core.config.link import BusConfig
from tspace_core.errors import TwinError
from tspace_core.link.bus import SharedBus
from tspace_core.twin import live_bus
from tspace_core.twin.faults import Fault, Faults, parse_fault
from tspace_core.twin.live_bus import XcpNode
from tspace_core.twin.vcu import Vcu
from tspace_core.twin.xcp_slave import XcpSlave

PATIENCE_S = 60.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("silence", Fault("silence")),
        ("lose_answer:DOWNLOAD,after=3,count=2", Fault("lose_answer", "DOWNLOAD", after=3, count=2)),
        ("freeze,after=5,count=all", Fault("freeze", None, after=5, count=None)),
        ("hold:velocity, at_s=1.5 ,for_s=2", Fault("hold", "velocity", at_s=1.5, for_s=2.0)),
        ("error:SET_CAL_PAGE,value=16", Fault("error", "SET_CAL_PAGE", value=16.0)),
    ],
)
def test_faults_in_words(text: str, expected: Fault) -> None:
    assert parse_fault(text) == expected


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("explode", "no kind 'explode'; known: lose_command"),
        ("delay:UPLAOD", "no XCP command 'UPLAOD'"),
        ("delay,often=3", "no key 'often'; known: after"),
        ("delay,value=long", "value='long' is no number"),
        ("", "no kind ''"),
    ],
)
def test_wrong_words_are_refused(text: str, match: str) -> None:
    with pytest.raises(TwinError, match=match):
        parse_fault(text)


def talk(vehicle: Vehicle, fault: str, packets: list[bytes]) -> tuple[list[list[bytes]], Vcu]:
    made = bench(vehicle)
    made.connect()
    made.unlock()
    made.say(0xEB, 2, 0, 1)
    made.at(MAP)
    faults = Faults([parse_fault(fault)])
    return [faults.answer(made.slave.handle, packet).packets for packet in packets], made.vcu


WRITE = bytes([0xF0, 4]) + b"\x00\x00\x00\x00"
STATUS = bytes([0xFD])


def test_lost_commands_are_not_done(truck: Vehicle) -> None:
    answers, vcu = talk(
        truck, "lose_command:DOWNLOAD,after=1,count=1", [STATUS, b"\xf0\x01a", b"\xf0\x01b", b"\xf0\x01c"]
    )
    assert [bool(answer) for answer in answers] == [True, True, False, True]
    assert vcu.read(1, 0, 2) == b"ac"


def test_lost_answers_are_done(truck: Vehicle) -> None:
    answers, vcu = talk(truck, "lose_answer:DOWNLOAD", [b"\xf0\x01a", b"\xf0\x01b"])
    assert answers == [[], [b"\xff"]]
    assert vcu.read(1, 0, 2) == b"ab"


def test_error_codes(truck: Vehicle) -> None:
    answers, vcu = talk(
        truck, "error:DOWNLOAD,value=16,count=2", [b"\xf0\x01a", STATUS, b"\xf0\x01b", b"\xf0\x01c"]
    )
    assert answers == [[b"\xfe\x10"], [b"\xff\x00\x00\x00\x00\x00"], [b"\xfe\x10"], [b"\xff"]]
    assert vcu.read(1, 0, 1) == b"c"


def test_freezing_ends_all_answers(truck: Vehicle) -> None:
    answers, vcu = talk(
        truck, "freeze:DOWNLOAD,after=1", [b"\xf0\x01a", STATUS, b"\xf0\x01b", STATUS, b"\xf0\x01c"]
    )
    assert [bool(answer) for answer in answers] == [True, True, False, False, False]
    assert vcu.read(1, 0, 1) == b"a"


def test_corrupted_cells(truck: Vehicle) -> None:
    answers, vcu = talk(
        truck, "corrupt:DOWNLOAD,after=1", [b"\xf0\x02ab", b"\xf0\x02ab", b"\xf0\x02ab", STATUS]
    )
    assert all(answers)
    assert vcu.read(1, 0, 6) == b"ab`bab"


def test_faults_in_their_time() -> None:
    clock = Clock(0)
    faults = Faults([parse_fault("silence:A,at_s=1,for_s=2")], lambda: clock.ns / 1e9)
    seen = []
    for _ in range(5):
        seen.append(faults.silent("A"))
        assert not faults.silent("B")
        clock.wait(1.0)
    assert seen == [False, True, True, False, False]
    faults.add(parse_fault("silence"))
    assert faults.silent("B")
    assert faults.silent(None)
    faults.clear()
    assert not faults.silent(None)


def test_late_answers_come_late_and_in_order(mule: Vehicle, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a bus: the answer of the delayed command arrives after that of the next one."""
    assert mule.xcp is not None
    now = [50.0]
    monkeypatch.setattr(live_bus, "time", SimpleNamespace(monotonic=lambda: now[0]))
    config = BusConfig(interface="virtual", channel=f"late-{uuid.uuid4()}")
    faults = Faults([parse_fault("delay:GET_STATUS,value=0.2")])
    clock = Clock()
    heard: list[int] = []
    at_once, late = threading.Event(), threading.Event()

    def hear(message: can.Message) -> None:
        heard.append(message.data[0] << 8 | message.data[1])
        if len(heard) == 2:
            at_once.set()
        if len(heard) == 3:
            late.set()

    with SharedBus(config) as bus, SharedBus(config) as master:
        node = XcpNode(bus, mule.xcp, XcpSlave(Vcu(mule), now_ns=clock), faults)
        master.subscribe(hear, [mule.xcp.response_id])
        for packet in (b"\xff\x00", b"\xfd", b"\xfc"):
            master.send(mule.xcp.request_id, packet)
        assert at_once.wait(PATIENCE_S)
        now[0] += 0.2  # not before: a thread that was held up would find the delay over
        assert late.wait(PATIENCE_S)
        node.close()
    assert heard == [0xFF01, 0xFE00, 0xFF00]
    assert node.failed_answers == 0
