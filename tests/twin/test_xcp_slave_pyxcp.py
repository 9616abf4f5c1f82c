"""pyxcp, a master by others, works with the simulated VCU over python-can."""

import functools
import logging
import time
import uuid
import warnings
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import can
import numpy as np
import pytest

from tspace_core.config import Vehicle
from tspace_core.config.link import BusConfig
from tspace_core.link.bus import SharedBus
from tspace_core.twin.live_bus import XcpNode
from tspace_core.twin.seed_and_key import key_of
from tspace_core.twin.vcu import Vcu
from tspace_core.twin.xcp_slave import XcpSlave

MAP, VIN, SOFTWARE = 0x80010000, 0x80000000, 0x80000020
Rig = tuple[Any, Vcu]


def no_exit(test: Callable[..., None]) -> Callable[..., None]:
    """pyxcp ends the process on a protocol error; a test that it ends has failed, the others go on."""

    @functools.wraps(test)
    def run(*args: object, **named: object) -> None:
        try:
            test(*args, **named)
        except SystemExit as error:
            pytest.fail(f"pyxcp gave up: {error!r}")

    return run


@pytest.fixture(params=["classic", "classic without blocks", "fd"])
def rig(request: pytest.FixtureRequest, mule: Vehicle) -> Iterator[Rig]:
    """A connected pyxcp master and the VCU that it talks to."""
    with warnings.catch_warnings():
        # Its dependencies warn when they are imported; that is theirs to mend.
        warnings.simplefilter("ignore")
        from pyxcp.config import create_application_from_config
        from pyxcp.master import Master
    fd = request.param == "fd"
    channel = f"pyxcp-{uuid.uuid4()}"
    vcu = Vcu(mule)
    assert mule.xcp is not None
    slave = XcpSlave(
        vcu,
        now_ns=time.monotonic_ns,
        max_cto=64 if fd else 8,
        block_mode="without" not in request.param,
        silence_s=30.0,
    )
    config = BusConfig(interface="virtual", channel=channel, fd=fd, data_bitrate=2_000_000 if fd else None)
    can_config = {"can_id_master": 0x6F0, "can_id_slave": 0x6F1, "fd": fd}
    application = create_application_from_config({"Transport": {"CAN": can_config}}, log_level=logging.ERROR)
    application.transport.timeout = 10.0
    protocol = can.CanProtocol.CAN_FD if fd else can.CanProtocol.CAN_20
    with SharedBus(config) as bus, can.Bus(interface="virtual", channel=channel, protocol=protocol) as other:
        node = XcpNode(bus, mule.xcp, slave)
        try:
            master = Master("can", config=application, transport_layer_interface=other)
            with master:
                master.connect()
                yield master, vcu
                master.disconnect()
        finally:
            node.close()


def unlock(master: Any, room: int) -> None:
    answer = master.getSeed(0, 1)
    length, seed = answer.length, bytes(answer.seed)
    while len(seed) < length:
        seed += bytes(master.getSeed(1, 1).seed)
    key = key_of(seed, 1)
    for first in range(0, len(key), room):
        protection = master.unlock(len(key) - first, key[first : first + room])
    assert not protection.calpag


@no_exit
def test_identity(rig: Rig) -> None:
    master, _ = rig
    assert master.getStatus().resourceProtectionStatus.calpag
    master.setMta(VIN)
    assert master.fetch(17) == b"TWNMULE0000000001"
    master.setMta(SOFTWARE)
    assert bytes(master.fetch(16)).rstrip(b"\0") == b"TSPACE-TWIN-1"
    assert master.identifier(0) == "TSPACE-TWIN-1"
    assert master.shortUpload(7, VIN) == b"TWNMULE"


@no_exit
def test_a_map_is_flashed_and_put_into_effect(rig: Rig) -> None:
    master, vcu = rig
    unlock(master, master.slaveProperties.maxCto - 2)
    # On classical CAN pyxcp splits a rest of 7 to 11 bytes wrongly; no part of this map has that length.
    wanted = vcu.reference.table - np.float32(20.0)
    data = wanted.astype("<f4").tobytes()
    master.setCalPage(0x02, 0, 1)
    master.getCommModeInfo()
    assert master.getCalPage(0x02, 0) == 1
    master.push(MAP, 0, data)
    assert vcu.active == vcu.reference
    master.setMta(MAP)
    assert bytes(master.fetch(len(data))) == data
    master.setMta(MAP)
    answer = master.buildChecksum(len(data))
    assert str(answer.checksumType) == "XCP_CRC_32"
    assert answer.checksum == zlib.crc32(data)
    master.setCalPage(0x01, 0, 1)
    assert master.getCalPage(0x01, 0) == 1
    np.testing.assert_array_equal(vcu.active.table, wanted)
    master.setCalPage(0x03, 0, 0)
    assert vcu.active == vcu.reference


@no_exit
def test_errors_reach_the_master_as_what_they_are(rig: Rig) -> None:
    from pyxcp.types import TryCommandResult, XcpError

    master, vcu = rig
    unlock(master, master.slaveProperties.maxCto - 2)
    master.setMta(MAP)
    for command, arguments, expected in (
        (master.setCalPage, (3, 0, 2), XcpError.ERR_PAGE_NOT_VALID),
        (master.setCalPage, (3, 5, 1), XcpError.ERR_SEGMENT_NOT_VALID),
        (master.getCalPage, (9, 0), XcpError.ERR_MODE_NOT_VALID),
        (master.download, (b"abcd",), XcpError.ERR_WRITE_PROTECTED),
        (master.shortUpload, (4, 0x1000), XcpError.ERR_OUT_OF_RANGE),
    ):
        result, error = master.try_command(command, *arguments)
        assert result == TryCommandResult.XCP_ERROR, (command, arguments, result, error)
        assert error.error_code == expected
    # For an unknown command pyxcp raises SystemExit, which try_command keeps.
    result, error = master.try_command(master.getDaqProcessorInfo)
    assert result == TryCommandResult.NOT_IMPLEMENTED
    assert error.error_code == XcpError.ERR_CMD_UNKNOWN
    assert vcu.active == vcu.reference
