"""A VCU that answers XCP on a udp_multicast bus and does nothing else, as a process of its own.

::

    python benchmarks/online_vcu.py GROUP PORT BLOCK_MODE

It says ``ready`` and ends when its standard input is closed.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tspace_core.config import Vehicle, load_vehicle
from tspace_core.config.link import BusConfig
from tspace_core.link.bus import SharedBus
from tspace_core.twin.live_bus import XcpNode
from tspace_core.twin.vcu import Vcu
from tspace_core.twin.vcu_memory import xcp_config
from tspace_core.twin.xcp_slave import XcpSlave

VEHICLE = "twin_truck"
SILENCE_S = 60.0
"""No session may fall back while a benchmark sets up another."""


@contextmanager
def answering_vcu(vehicle: Vehicle, bus: BusConfig, *, block_mode: bool) -> Iterator[None]:
    """A VCU on a bus of this process."""
    config = xcp_config(vehicle)
    slave = XcpSlave(Vcu(vehicle), now_ns=time.monotonic_ns, block_mode=block_mode, silence_s=SILENCE_S)
    with SharedBus(bus, ids=[config.request_id]) as shared:
        node = XcpNode(shared, config, slave)
        try:
            yield
        finally:
            node.close()


def main() -> None:
    group, port, block_mode = sys.argv[1:]
    bus = BusConfig(interface="udp_multicast", channel=group, port=int(port))
    with answering_vcu(load_vehicle(VEHICLE), bus, block_mode=block_mode == "True"):
        print("ready", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
