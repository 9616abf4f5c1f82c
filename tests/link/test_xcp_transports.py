"""What every XCP transport promises; a class a transport inherits it. Real buses, real sockets."""

import random
import socket
import struct
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import can
import pytest

from tests.link.xcp_doubles import config_of, truck, virtual_bus
from tests.ports import free_port
from tspace_core.config.link import BusConfig
from tspace_core.errors import BusError, LinkError, XcpProtocolError, XcpTimeoutError
from tspace_core.link.bus import SharedBus
from tspace_core.link.xcp import XcpMaster
from tspace_core.link.xcp_can import XcpCan
from tspace_core.link.xcp_transport import XcpTransport
from tspace_core.link.xcp_udp import XcpUdp

PATIENCE_S = 10.0
Answer = Callable[[bytes], list[bytes]]
XCP = config_of(truck(timeout_s=PATIENCE_S))


class TransportContract(ABC):
    @abstractmethod
    def opened(self, answer: Answer) -> AbstractContextManager[XcpTransport]:
        """A transport whose slave answers so."""

    def test_packets_go_out_and_come_back_in_order(self) -> None:
        with self.opened(lambda packet: [packet[:4], b"\xff" + packet[:3]]) as link:
            for number in range(50):
                link.discard()
                link.send(bytes((0xF0, number, 7)))
                assert link.receive(PATIENCE_S)[:3] == bytes((0xF0, number, 7))
                assert link.receive(PATIENCE_S)[:4] == bytes((0xFF, 0xF0, number, 7))

    def test_silence_is_a_time_out(self) -> None:
        with (
            self.opened(lambda _: []) as link,
            pytest.raises(XcpTimeoutError, match=r"0\.010 s"),
        ):
            link.exchange(b"\xfd", 0.01)

    def test_what_waits_can_be_discarded(self) -> None:
        with self.opened(lambda packet: [packet] * 5) as link:
            link.send(b"\xff\x01")
            found = [link.receive(PATIENCE_S)]
            while len(found) < 5:
                found += link.discard() or [link.receive(PATIENCE_S)]
            assert {one[:2] for one in found} == {b"\xff\x01"}
            assert link.discard() == []

    def test_the_longest_packet_fits_and_a_longer_one_is_refused(self) -> None:
        with self.opened(lambda packet: [packet]) as link:
            packet = bytes(range(link.max_cto))
            assert link.exchange(packet, PATIENCE_S) == packet
            if link.max_cto <= 64:
                with pytest.raises(BusError, match="does not fit"):
                    link.send(bytes(link.max_cto + 1))

    def test_closing_twice_is_fine(self) -> None:
        with self.opened(lambda _: []) as link:
            link.close()
            link.close()


class CanContract(TransportContract):
    @abstractmethod
    def bus(self) -> BusConfig:
        """The bus it runs on."""

    @contextmanager
    def opened(self, answer: Answer) -> Iterator[XcpTransport]:
        config = self.bus()
        with SharedBus(config) as theirs, SharedBus(config) as ours:

            def answered(frame: can.Message) -> None:
                for one in answer(bytes(frame.data)):
                    size = next(size for size in (8, 12, 16, 20, 24, 32, 48, 64) if size >= len(one))
                    theirs.send(XCP.response_id, one.ljust(size, b"\0"))

            theirs.subscribe(answered, (XCP.request_id,))
            link = XcpCan(ours, XCP)
            yield link
            link.close()

    def test_a_second_master_is_seen(self) -> None:
        config = self.bus()
        with SharedBus(config) as ours, SharedBus(config) as other:
            link = XcpCan(ours, XCP)
            seen = threading.Event()
            ours.subscribe(lambda _: seen.set(), (XCP.response_id,))
            other.send(XCP.request_id, bytes.fromhex("fd cc cc cc cc cc cc cc"))
            other.send(XCP.response_id, bytes(8))
            assert seen.wait(PATIENCE_S)
            assert link.foreign_requests == 1

    def test_other_kinds_of_id_are_not_taken_for_answers(self) -> None:
        config = self.bus()
        with SharedBus(config) as ours, SharedBus(config) as other:
            link = XcpCan(ours, XCP)
            other.send(XCP.response_id, b"\xff" * 8, extended=True)
            other.send(XCP.response_id, b"\xfe" * 8)
            assert link.receive(PATIENCE_S) == b"\xfe" * 8

    def test_a_bus_that_is_lost_is_told_at_once(self) -> None:
        config = self.bus()
        with SharedBus(config) as ours:
            link = XcpCan(ours, XCP)
            threading.Timer(0.05, lambda: ours._lose(RuntimeError("the cable was pulled"))).start()
            with pytest.raises(BusError, match="the cable was pulled"):
                link.receive(PATIENCE_S)
            with pytest.raises(BusError, match="the cable was pulled"):
                link.receive(PATIENCE_S)

    def test_packets_that_nobody_receives_do_not_pile_up(self) -> None:
        config = self.bus()
        with SharedBus(config) as ours:
            link = XcpCan(ours, XCP)
            frame = can.Message(arbitration_id=XCP.response_id, data=bytes(8), is_extended_id=False)
            for _ in range(3000):
                link._take(frame)
            assert len(link.discard()) + link.dropped == 3000
            assert link.dropped > 0


class TestVirtual(CanContract):
    def bus(self) -> BusConfig:
        return virtual_bus()


class TestVirtualFd(CanContract):
    def bus(self) -> BusConfig:
        return virtual_bus(fd=True)


class TestMulticast(CanContract):
    def bus(self) -> BusConfig:
        return BusConfig(interface="udp_multicast", channel="239.74.163.78", port=free_port())


class TestUdp(TransportContract):
    @contextmanager
    def opened(self, answer: Answer) -> Iterator[XcpTransport]:
        with udp_slave(answer) as port:
            link = XcpUdp("127.0.0.1", port)
            yield link
            link.close()

    def test_the_header_is_length_and_counter_little_endian(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as slave:
            slave.bind(("127.0.0.1", 0))
            slave.settimeout(PATIENCE_S)
            link = XcpUdp("127.0.0.1", slave.getsockname()[1])
            link.send(b"\xff\x00")
            link.send(b"\xfd")
            assert slave.recv(100) == bytes.fromhex("02 00 00 00 ff 00")
            assert slave.recv(100) == bytes.fromhex("01 00 01 00 fd")
            link.close()

    def test_packets_twice_late_missing_or_broken(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as slave:
            slave.bind(("127.0.0.1", 0))
            slave.settimeout(PATIENCE_S)
            link = XcpUdp("127.0.0.1", slave.getsockname()[1])
            link.send(b"\xff\x00")
            _, master = slave.recvfrom(100)
            for counter in (65_534, 65_534, 65_535, 1, 0, 2):  # twice; 0 is late and was counted as missing
                slave.sendto(struct.pack("<HH", 1, counter) + bytes((counter & 0xFF,)), master)
            slave.sendto(b"\x01", master)
            slave.sendto(b"\x00\x00\x05\x00", master)
            slave.sendto(b"\x09\x00\x05\x00\xff", master)
            slave.sendto(struct.pack("<HHBHHB", 1, 3, 3, 1, 4, 4), master)  # two packets in one datagram
            found = [link.receive(PATIENCE_S)[0] for _ in range(6)]
            assert found == [254, 255, 1, 2, 3, 4]
            assert (link.late, link.missed, link.malformed) == (2, 1, 3)
            link.close()

    def test_garbage_is_survived(self) -> None:
        seed = random.randrange(2**32)
        print("seed", seed)
        chance = random.Random(seed)
        with udp_slave(lambda _: [], extra=lambda: chance.randbytes(chance.randrange(0, 300))) as port:
            link = XcpUdp("127.0.0.1", port)
            master = XcpMaster(link, XCP.model_copy(update={"timeout_s": 0.02}))
            for _ in range(30):
                with pytest.raises((XcpTimeoutError, XcpProtocolError, LinkError)):
                    master.connect()
            link.close()

    def test_nobody_listens(self) -> None:
        link = XcpUdp("127.0.0.1", free_port())
        with pytest.raises(LinkError, match="nothing listens"):
            for _ in range(3):
                link.exchange(b"\xff\x00", 0.2)
        link.close()

    def test_an_address_that_is_none(self) -> None:
        with pytest.raises(LinkError, match="check host and port"):
            XcpUdp("no.such.host.invalid", 5555)


@contextmanager
def udp_slave(answer: Answer, extra: Callable[[], bytes] | None = None) -> Iterator[int]:
    """A slave on UDP of its own: header, counter, and what ``answer`` says."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as slave:
        slave.bind(("127.0.0.1", 0))
        ended = False

        def serve() -> None:
            counter = 0
            while True:
                datagram, master = slave.recvfrom(65_535)
                if ended:
                    return
                for one in answer(datagram[4:]):
                    slave.sendto(struct.pack("<HH", len(one), counter) + one, master)
                    counter = (counter + 1) % 65_536
                if extra is not None:
                    slave.sendto(extra(), master)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        port = slave.getsockname()[1]
        try:
            yield port
        finally:
            ended = True
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waker:
                waker.sendto(b"", ("127.0.0.1", port))
            thread.join(PATIENCE_S)
