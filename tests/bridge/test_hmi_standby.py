"""The HMI between runs: what `begin`, `exit` and garbage do while no run listens."""

import json
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.ports import free_port
from tspace_core.bridge.hmi_standby import HmiStandby
from tspace_core.link.requests import Spool
from tspace_core.link.udp import udp_context

LIMIT_S = 20.0


class Standing:
    """A standby in a thread, and an HMI that speaks to it."""

    def __init__(self, root: Path) -> None:
        self.address = ("127.0.0.1", free_port())
        self.spool = Spool(root, "twin_truck")
        self.begun: queue.Queue[None] = queue.Queue()
        self.standby = HmiStandby(self.address, self.spool, lambda: self.begun.put(None))
        self.thread = threading.Thread(target=self.standby.run)
        self.hmi = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.hmi.settimeout(LIMIT_S)

    def start(self) -> None:
        self.thread.start()
        assert self.standby.listening.wait(LIMIT_S)

    def say(self, data: bytes) -> None:
        self.hmi.sendto(data, self.address)

    def status(self, status: str) -> None:
        self.say(json.dumps({"status": status}).encode())

    def settle(self) -> None:
        """All that was said before is heard: this one is answered."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.settimeout(LIMIT_S)
            other.sendto(b"?", self.address)
            assert b"refused" in other.recv(4096)

    def end(self) -> None:
        self.standby.end()
        if self.thread.is_alive():
            self.thread.join(LIMIT_S)
        assert not self.thread.is_alive()
        self.hmi.close()


@pytest.fixture
def standing(tmp_path: Path) -> Iterator[Standing]:
    standing = Standing(tmp_path)
    yield standing
    standing.end()


def until(done: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(int(LIMIT_S / 0.02)):
        if done():
            return
        pause.wait(0.02)
    assert done()


def test_begin_becomes_one_request_however_often_it_is_said(standing: Standing) -> None:
    standing.start()
    for _ in range(3):
        standing.status("begin")
    standing.settle()
    (request,) = standing.spool.pending()
    assert (request.vehicle_id, request.source, request.event) == ("twin_truck", "hmi", "begin")
    assert standing.standby.requested == 1
    assert standing.begun.qsize() == 3  # a person stands at the vehicle, each time


def test_a_begin_after_a_run_is_a_request_of_its_own(standing: Standing) -> None:
    """The request of that run is pending until all that it recorded is stored."""
    standing.start()
    standing.status("begin")
    standing.settle()
    (first,) = standing.spool.pending()
    assert standing.standby.release()
    standing.standby.resume()
    assert standing.standby.listening.wait(LIMIT_S)
    for _ in range(2):
        standing.status("begin")
    standing.settle()
    assert standing.standby.requested == 2
    assert standing.spool.pending()[0] == first


@pytest.mark.parametrize("status", ["exit", "end_valid", "end_invalid"])
def test_an_end_withdraws_what_no_run_has_begun(standing: Standing, status: str) -> None:
    standing.start()
    standing.status(status)  # nothing to withdraw: no harm
    standing.status("begin")
    standing.status(status)
    standing.settle()
    assert standing.spool.pending() == []
    assert [one.outcome for one in standing.spool.done()] == [
        f"withdrawn: the HMI said {status} before a run began"
    ]


@pytest.mark.parametrize(
    "garbage", [b"begin", b"", b"\xff\xff", b"[]", b'{"status": "start"}', b'{"status": 1}', b"x" * 10_000]
)
def test_garbage_is_answered_with_what_is_wrong_and_costs_nothing(standing: Standing, garbage: bytes) -> None:
    standing.start()
    standing.say(garbage)
    answer = json.loads(standing.hmi.recv(4096))
    assert set(answer) == {"refused", "value", "what_to_do"}
    standing.status("begin")
    standing.settle()
    assert len(standing.spool.pending()) == 1


def test_samples_of_another_bridge_mean_nothing_here(standing: Standing) -> None:
    standing.start()
    data = {"velocity": 1, "pedal": 2, "brake_pressure": 0, "A": 1, "V": 600}
    standing.say(json.dumps({"data": data}).encode())
    standing.settle()
    assert standing.spool.pending() == []


def test_the_address_is_free_when_release_returns_and_taken_back_after_the_run(standing: Standing) -> None:
    standing.start()
    for _ in range(20):
        assert standing.standby.release()
        with udp_context(*standing.address):
            pass
        standing.standby.resume()
        assert standing.standby.listening.wait(LIMIT_S)
    standing.status("begin")
    standing.settle()
    assert len(standing.spool.pending()) == 1


def test_an_address_that_a_run_still_holds_is_tried_again(
    standing: Standing, caplog: pytest.LogCaptureFixture
) -> None:
    with udp_context(*standing.address):
        standing.thread.start()
        until(lambda: "cannot be heard yet" in caplog.text)
    assert standing.standby.listening.wait(LIMIT_S)
    standing.status("begin")
    standing.settle()
    assert len(standing.spool.pending()) == 1


def test_a_spool_that_cannot_be_written_does_not_end_the_listening(
    standing: Standing, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "twin_truck").write_text("a file where the folder should be")
    standing.start()
    standing.status("begin")
    standing.settle()
    assert "begin could not be passed on" in caplog.text
    (tmp_path / "twin_truck").unlink()
    standing.status("begin")
    standing.settle()
    assert len(standing.spool.pending()) == 1
