"""SharedBus on the interfaces that need no hardware, and what a user is told where one cannot be opened."""

import errno
import os
import secrets
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import can
import msgpack  # type: ignore[import-untyped]
import pytest

from tests.link.bus_contract import LAST, PATIENCE_S, BusContract, Ear, sent, without_modules
from tests.ports import free_port
from tspace_core.config.link import BusConfig
from tspace_core.errors import BusError
from tspace_core.link import bus as bus_module
from tspace_core.link import socketcan, virtual
from tspace_core.link.bus import SharedBus
from tspace_core.link.opening import is_overflow, open_bus

GROUP = "239.74.163.77"


class TestVirtual(BusContract):
    def configs(self) -> tuple[BusConfig, BusConfig]:
        config = BusConfig.model_validate(
            {"interface": "virtual", "channel": secrets.token_hex(4), **self.rates()}
        )
        return config, config

    def cut(self, bus: SharedBus) -> None:
        bus._bus.shutdown()


class TestVirtualFd(TestVirtual):
    fd = True


class TestMulticast(BusContract):
    def configs(self) -> tuple[BusConfig, BusConfig]:
        config = BusConfig.model_validate(
            {"interface": "udp_multicast", "channel": GROUP, "port": free_port(), **self.rates()}
        )
        return config, config

    def cut(self, bus: SharedBus) -> None:
        os.close(bus._bus.fileno())  # as if the socket had gone
        bus._bus._multicast._socket.detach()  # type: ignore[attr-defined]

    def test_python_can_programs_take_part(self) -> None:
        config, _ = self.configs()
        with (
            SharedBus(config) as ours,
            can.Bus(
                interface="udp_multicast",
                channel=GROUP,
                port=config.port,
                fd=self.fd,
                ignore_config=True,
            ) as theirs,
        ):
            ear = Ear()
            ours.subscribe(ear)
            theirs.send(can.Message(arbitration_id=7, data=b"theirs", is_extended_id=False, is_fd=self.fd))
            assert sent(ear.wait(1)[0]) == (7, b"theirs", False)
            ours.send(8, b"ours")
            while (heard := theirs.recv(PATIENCE_S)) is not None and heard.arbitration_id != 8:
                pass
            assert heard is not None
            assert sent(heard) == (8, b"ours", False)

    def test_datagrams_that_are_no_frames_are_counted(self) -> None:
        frame: dict[str, Any] = {"arbitration_id": 1, "is_extended_id": False, "dlc": 1, "data": b"x"}
        bad: list[bytes] = [
            b"",
            b"\xc1",
            bytes(9000),
            secrets.token_bytes(60_000),
            b"\x91" * 3000,
            b"\xdd\xff\xff\xff\xff",
            *map(
                msgpack.packb,
                (
                    17,
                    [],
                    {},
                    {**frame, "arbitration_id": "1"},
                    {**frame, "arbitration_id": 0x800},
                    {**frame, "arbitration_id": -1},
                    {**frame, "arbitration_id": True},
                    {**frame, "data": 10**10},
                    {**frame, "data": "text"},
                    {**frame, "data": [1, 2]},
                    {**frame, "data": bytes(65)},
                    {**frame, "dlc": 5},
                    {**frame, "dlc": 9, "data": bytes(9)},
                    {**frame, "dlc": 9, "data": bytes(9), "is_fd": True},
                    {"data": b"x"},
                ),
            ),
        ]
        config, _ = self.configs()
        with SharedBus(config) as left, SharedBus(config) as right:
            ear = Ear()
            left.subscribe(ear)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                for one in bad:
                    sender.sendto(one, (GROUP, config.port))
            right.send(LAST, b"")
            assert ear.wait_last() == []
            assert left.counters.refused == len(bad)
            assert "refused" in left.counters.last_error
            assert left.error is None


class TestMulticastFd(TestMulticast):
    fd = True


def test_fd_frames_on_a_classic_bus_are_refused() -> None:
    for interface, channel in (("virtual", secrets.token_hex(4)), ("udp_multicast", GROUP)):
        place = {"interface": interface, "channel": channel, "port": free_port()}
        classic = BusConfig.model_validate(place)
        fd = BusConfig.model_validate({**place, "fd": True, "data_bitrate": 2_000_000})
        with SharedBus(classic) as left, SharedBus(fd) as right:
            ear = Ear()
            left.subscribe(ear)
            right.send(1, bytes(8))
            right.send(LAST, b"", fd=False)
            assert ear.wait_last() == []
            assert left.counters.refused == 1
            assert "FD frame on a bus configured as classic" in left.counters.last_error


def test_a_frame_whose_length_and_bytes_differ_is_refused() -> None:
    config = BusConfig(interface="virtual", channel=secrets.token_hex(4))
    raw = open_bus(config)
    with SharedBus(config) as bus:
        ear = Ear()
        bus.subscribe(ear)
        for frame in (
            can.Message(arbitration_id=1, dlc=8, data=b"short", is_extended_id=False),
            can.Message(arbitration_id=1, dlc=2, data=b"long!", is_extended_id=False),
            can.Message(arbitration_id=1, data=bytes(12), is_extended_id=False),
            can.Message(arbitration_id=LAST, is_extended_id=False),
        ):
            raw.send(frame)
        assert ear.wait_last() == []
        assert bus.counters.refused == 3
    raw.shutdown()


def test_behind_a_slow_subscriber_the_oldest_frames_are_lost_not_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(virtual, "QUEUED_FRAMES", 500)
    config = BusConfig(interface="virtual", channel=secrets.token_hex(4))
    stuck, go_on = threading.Event(), threading.Event()
    ear = Ear()

    def slow(frame: can.Message) -> None:
        stuck.set()
        assert go_on.wait(PATIENCE_S)
        ear(frame)

    with SharedBus(config) as left, SharedBus(config) as right:
        left.subscribe(slow)
        right.send(0, b"first")
        assert stuck.wait(PATIENCE_S)
        for number in range(3000):
            right.send(1, number.to_bytes(2, "big"))
        right.send(LAST, b"")
        go_on.set()
        heard = [int.from_bytes(data, "big") for id, data, _ in ear.wait_last() if id == 1]
        assert heard == list(range(2501, 3000))


def test_a_stuck_subscriber_does_not_hold_up_close(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bus_module, "_CLOSE_S", 0.1)
    config = BusConfig(interface="virtual", channel=secrets.token_hex(4))
    stuck, go_on = threading.Event(), threading.Event()

    def hang(frame: can.Message) -> None:
        stuck.set()
        go_on.wait(PATIENCE_S)

    bus = SharedBus(config)
    bus.subscribe(hang)
    with SharedBus(config) as other:
        other.send(1, b"")
        assert stuck.wait(PATIENCE_S)
        bus.close()
        with pytest.raises(BusError, match="closed"):
            bus.send(1, b"")
    go_on.set()
    bus._reader.join(PATIENCE_S)
    assert not bus._reader.is_alive()


def test_what_a_full_transmit_buffer_looks_like() -> None:
    assert is_overflow(can.CanOperationError("Failed to transmit", errno.ENOBUFS))
    assert is_overflow(can.CanOperationError("canERR_TXBUFOFL", -13))
    assert not is_overflow(can.CanOperationError("Failed to transmit", errno.ENETDOWN))
    assert not is_overflow(OSError(errno.ENOBUFS, "no"))


def refusal(**fields: Any) -> str:
    with pytest.raises(BusError) as refused:
        SharedBus(BusConfig(**fields))
    return str(refused.value)


def test_a_socketcan_device_that_is_missing_or_down_is_named_with_the_command_that_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socketcan, "_NETWORK_DEVICES", tmp_path)
    assert refusal(interface="socketcan", channel="can7", bitrate=250_000) == (
        "CAN bus socketcan can7 cannot be opened: there is no such network device, CAN devices found: none; "
        "connect the interface or correct the channel, then `ip link set can7 up type can bitrate 250000`"
    )
    (tmp_path / "can7").mkdir()
    (tmp_path / "can7" / "flags").write_text("0x40080\n")
    said = refusal(interface="socketcan", channel="can7", fd=True, data_bitrate=2_000_000)
    assert "the device is down; `ip link set can7 up" in said
    assert "dbitrate 2000000 fd on" in said
    (tmp_path / "can7" / "flags").write_text("0x40081\n")
    assert "the kernel needs SocketCAN" in refusal(interface="socketcan", channel="can7")


@pytest.mark.parametrize("channel", ["can0", "10.0.0.1", "", "239.74.163"])
def test_a_channel_that_is_no_multicast_group_is_refused(channel: str) -> None:
    assert f"channel {channel!r} is no multicast group" in refusal(interface="udp_multicast", channel=channel)


def test_a_port_held_by_another_program_is_named() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("", 0))
        port = other.getsockname()[1]
        said = refusal(interface="udp_multicast", channel=GROUP, port=port)
    assert f"{GROUP}:{port}" in said
    assert "another program may hold the port" in said


def test_without_msgpack_the_user_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "tspace_core.link.multicast", raising=False)
    with without_modules("msgpack"):
        said = refusal(interface="udp_multicast", channel=GROUP)
    assert "pip install 'python-can[multicast]'" in said


def test_python_cans_own_files_and_variables_do_not_reach_a_bus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".canrc").write_text("[default]\ninterface = socketcan\nchannel = can9\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CAN_INTERFACE", "socketcan")
    with SharedBus(BusConfig(interface="virtual", channel="x")) as bus:
        assert bus.name == "CAN bus virtual x"
