"""Run by test_kvaser.py in a process of its own, which finds the stub of libcanlib: the contract and more."""

import ctypes
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.link.bus_contract import LAST, BusContract, Ear, sent, without_modules
from tspace_core.cli import app
from tspace_core.config.link import BusConfig
from tspace_core.config.settings import settings
from tspace_core.errors import BusError
from tspace_core.link.bus import SharedBus
from tspace_core.link.kvaser import BusParameters, bus_parameters, find_channels


def stub() -> ctypes.CDLL:
    return ctypes.CDLL("libcanlib.so")


class TestKvaser(BusContract):
    def configs(self) -> tuple[BusConfig, BusConfig]:
        stub().stub_unplug(0, 0)
        left, right = (
            BusConfig.model_validate({"interface": "kvaser", "channel": channel, **self.rates()})
            for channel in ("0", "1")
        )
        return left, right

    def cut(self, bus: SharedBus) -> None:
        stub().stub_unplug(0, 1)

    def test_an_unplugged_device_is_named_as_its_library_does(
        self, buses: tuple[SharedBus, SharedBus]
    ) -> None:
        ear = Ear()
        buses[0].subscribe(ear, on_error=ear.on_error)
        self.cut(buses[0])
        assert "The card was removed or not inserted" in str(ear.wait_error())

    def test_a_device_that_is_back_can_be_opened_again(self, ends: tuple[BusConfig, BusConfig]) -> None:
        for _ in range(20):  # more often than the library has handles
            with SharedBus(ends[0]) as bus:
                ear = Ear()
                bus.subscribe(ear, on_error=ear.on_error)
                self.cut(bus)
                ear.wait_error()
            with pytest.raises(BusError, match="removed or not inserted"):
                SharedBus(ends[0])
            stub().stub_unplug(0, 0)

    def test_a_full_transmit_buffer_is_waited_for_but_not_for_ever(
        self, buses: tuple[SharedBus, SharedBus]
    ) -> None:
        left, right = buses
        ear = Ear()
        left.subscribe(ear)
        stub().stub_fill(5)
        right.send(0x30, b"late")
        assert sent(ear.wait(1)[0]) == (0x30, b"late", False)
        stub().stub_fill(10**9)
        with pytest.raises(BusError, match=r"Transmit buffer overflow.*check its cable"):
            right.send(0x31, b"never")
        stub().stub_fill(0)
        right.send(LAST, b"")
        assert ear.wait_last() == [(0x30, b"late", False)]
        assert right.counters.tx_failed == 1
        assert right.error is None

    def test_bus_parameters_are_those_of_the_open_bus(self, buses: tuple[SharedBus, SharedBus]) -> None:
        expected = BusParameters(500_000, 0.8, 2_000_000 if self.fd else None)
        assert bus_parameters(1, fd=self.fd) == expected
        assert buses[1].error is None

    def test_the_driver_filters_as_far_as_one_mask_can(self) -> None:
        config, other = self.configs()
        with SharedBus(config, ids={0x100, 0x101}) as left, SharedBus(other) as right:
            ear = Ear()
            left.subscribe(ear)
            for id in (0x0FF, 0x100, 0x101, 0x102, 0x200):
                right.send(id, b"")
            right.send(0x101, b"end")
            assert [one.arbitration_id for one in ear.wait(3)] == [0x100, 0x101, 0x101]
            assert left.counters.filtered == 0


class TestKvaserFd(TestKvaser):
    fd = True


def test_channels_are_found() -> None:
    assert [one.name for one in find_channels()] == [
        "0: Kvaser U100 stub, serial number 10243, channel 1",
        "1: Kvaser U100 stub, serial number 10243, channel 2",
        "2: Kvaser Virtual CAN, serial number 0, channel 1",
    ]
    assert [one.virtual for one in find_channels()] == [False, False, True]


@pytest.mark.parametrize("bitrate", [125_000, 250_000, 500_000, 1_000_000])
def test_the_configs_bit_rate_is_set(bitrate: int) -> None:
    with SharedBus(BusConfig(interface="kvaser", channel="0", bitrate=bitrate)):
        assert bus_parameters(0).bitrate == bitrate


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"channel": "can0"}, "'can0' is neither a number nor 'auto'.*channels found: 0: Kvaser U100 stub"),
        ({"channel": "7"}, "channel 7 cannot be opened: .*not found.*channels found: 0: Kvaser U100 stub"),
        ({"channel": "-1"}, "channel -1 cannot be opened"),
        ({"channel": "auto"}, "exactly one Kvaser channel, and there are 2.*1: Kvaser U100 stub"),
        ({"channel": "0", "bitrate": 123_456}, "123456 bit/s is no bit rate"),
        ({"channel": "0", "fd": True, "data_bitrate": 5_000_000}, "5000000 bit/s is no bit rate.*8000000"),
    ],
)
def test_what_cannot_be_opened_is_told_in_one_sentence(fields: dict[str, object], words: str) -> None:
    with pytest.raises(BusError, match=words) as refused:
        SharedBus(BusConfig.model_validate({"interface": "kvaser", **fields}))
    assert "\n" not in str(refused.value)


def test_a_channel_in_use_in_another_mode_is_refused() -> None:
    with (
        SharedBus(BusConfig(interface="kvaser", channel="0")),
        pytest.raises(BusError, match=r"No channels available.*close programs that hold it"),
    ):
        SharedBus(BusConfig(interface="kvaser", channel="0", fd=True, data_bitrate=2_000_000))


def test_bus_parameters_of_a_missing_channel_name_those_there_are() -> None:
    with pytest.raises(BusError, match=r"channel 9 cannot be read.*channels found: 0: "):
        bus_parameters(9)


def refusal(channel: str = "0") -> str:
    with pytest.raises(BusError) as refused:
        SharedBus(BusConfig(interface="kvaser", channel=channel))
    return str(refused.value)


def test_a_channel_that_another_program_holds_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANLIB_STUB_TAKEN", "0")
    told = refusal()
    assert told.startswith("Kvaser channel 0 cannot be opened: ")
    assert "No channels available" in told
    assert "close programs that hold it for themselves" in told


def test_a_bus_at_another_bit_rate_is_refused_and_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANLIB_STUB_BITRATE", "250000")
    assert refusal() == (
        "Kvaser channel 0 runs at 250000 bit/s and the vehicle's bus at 500000 bit/s: close the program that "
        "set it, or correct the vehicle's bus"
    )
    monkeypatch.delenv("CANLIB_STUB_BITRATE")
    SharedBus(BusConfig(interface="kvaser", channel="0")).close()


def test_auto_takes_the_only_real_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANLIB_STUB_CHANNELS", "1")
    with SharedBus(BusConfig(interface="kvaser", channel="auto")) as bus:
        assert bus._bus.channel_info == "Kvaser U100 stub, S/N 10243 (#1)"


def test_without_a_device_no_channel_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANLIB_STUB_CHANNELS", "0")
    assert find_channels() == []
    assert refusal("0").endswith("no Kvaser channel is connected")
    assert refusal("auto").endswith("no Kvaser channel is connected")


def test_without_the_package_canlib_a_bus_opens_but_channels_cannot_be_listed() -> None:
    with without_modules("canlib"):
        with pytest.raises(BusError, match="pip install canlib"):
            find_channels()
        SharedBus(BusConfig(interface="kvaser", channel="0")).close()
        assert "pip install canlib" in refusal("7")


def test_the_command_lists_the_channels_before_it_opens_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(Path(__file__).resolve().parents[2] / "conf", tmp_path / "conf")
    file = tmp_path / "conf" / "vehicles" / "twin_truck.yaml"
    lines = [line for line in file.read_text().splitlines() if not line.startswith("bus:")]
    file.write_text("\n".join([*lines, "bus: {interface: kvaser, channel: '1'}", ""]))
    monkeypatch.setenv("TSPACE_CONF_DIR", str(tmp_path / "conf"))
    settings.cache_clear()
    result = CliRunner().invoke(app, ["bus", "--vehicle", "twin_truck", "--seconds", "0.1"])
    assert result.output.splitlines()[:6] == [
        "twin_truck: CAN bus kvaser 1, 500000 bit/s",
        "Kvaser channels: ",
        *(f"  {one.name}{' (virtual)' if one.virtual else ''}" for one in find_channels()),
        "heard 0 frames in 0.1 s (0 frames/s) of 0 ids",
    ]
    assert "switch the ignition on" in result.output
    assert result.exit_code == 1
