"""The datagram socket: bound alone, waited on without naps, woken from outside."""

import socket
import threading
import time

import pytest

from tspace_core.errors import LinkError
from tspace_core.link.udp import DatagramReceiver, udp_context

LONG_S = 30.0


def test_a_taken_address_is_told_with_what_to_do() -> None:
    with udp_context("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        with (
            pytest.raises(LinkError, match=rf"127\.0\.0\.1:{port} is taken.*ss -ulpn"),
            udp_context("127.0.0.1", port),
        ):
            pass
    with udp_context("127.0.0.1", port) as again:
        assert again.getsockname()[1] == port


@pytest.mark.parametrize(("host", "port"), [("192.0.2.1", 0), ("127.0.0.1", 70_000), ("no such host", 0)])
def test_an_address_that_cannot_be_bound_names_the_setting(host: str, port: int) -> None:
    with pytest.raises(LinkError, match=r"hmi\.udp_host"), udp_context(host, port):
        pass


def test_datagrams_come_whole_in_order_with_their_sender() -> None:
    with udp_context("127.0.0.1", 0) as bound, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        receiver = DatagramReceiver(bound)
        for size in (0, 1, 2048, 10_000):
            sender.sendto(b"x" * size, receiver.address)
        got = [receiver.receive(LONG_S) for _ in range(4)]
        assert [len(item[0]) for item in got if item is not None] == [0, 1, 2048, 10_000]
        first = got[0]
        assert first is not None
        assert receiver.answer(b"no", ("127.0.0.1", first[1][1]))
        receiver.close()
        sender.settimeout(LONG_S)
        assert sender.recv(10) == b"no"


def test_a_timeout_ends_the_wait() -> None:
    with udp_context("127.0.0.1", 0) as bound:
        receiver = DatagramReceiver(bound)
        assert receiver.receive(0.01) is None
        assert receiver.receive(0.0) is None
        receiver.close()


def test_a_wake_from_another_thread_ends_an_endless_wait_for_good() -> None:
    with udp_context("127.0.0.1", 0) as bound, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        receiver = DatagramReceiver(bound)
        got: list[object] = []
        thread = threading.Thread(target=lambda: got.append(receiver.receive()), daemon=True)
        thread.start()
        for _ in range(1000):
            receiver.wake()
        thread.join(LONG_S)
        assert got == [None]
        sender.sendto(b"late", receiver.address)
        assert receiver.receive() is None
        receiver.close()
        receiver.wake()


def test_waiting_takes_no_processor_time() -> None:
    """Field failure: busy waiting."""
    with udp_context("127.0.0.1", 0) as bound:
        receiver = DatagramReceiver(bound)
        began = time.thread_time()
        assert receiver.receive(0.3) is None
        assert time.thread_time() - began < 0.1
        receiver.close()


def test_what_waited_can_be_thrown_away() -> None:
    with udp_context("127.0.0.1", 0) as bound, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        receiver = DatagramReceiver(bound)
        for _ in range(5):
            sender.sendto(b"stale", receiver.address)
        assert receiver.drain() == 5
        assert receiver.drain() == 0
        receiver.close()


def test_an_answer_that_cannot_go_out_is_no_error() -> None:
    with udp_context("127.0.0.1", 0) as bound:
        receiver = DatagramReceiver(bound)
        assert not receiver.answer(b"x", ("127.0.0.1", 0))
        assert not receiver.answer(b"x" * 70_000, ("127.0.0.1", 9))
        receiver.close()
