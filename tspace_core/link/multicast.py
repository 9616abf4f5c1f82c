"""python-can's udp_multicast bus, made fit for a full bus and for what else arrives at a UDP port.

It speaks python-can's datagrams (msgpack), so that any python-can program takes part. Three things differ:
frames stay on this machine (hop limit 0), the sender's own frames are dropped by a mark in the datagram's
``channel``, and a datagram that is no frame is counted instead of ending the bus.
"""

import contextlib
import ipaddress
import secrets
import socket
from typing import Any

import can
import msgpack  # type: ignore[import-untyped]
from can.interfaces.udp_multicast import UdpMulticastBus

from tspace_core.config.link import BusConfig
from tspace_core.errors import BusError
from tspace_core.link.opening import describe

HINT = (
    "another program may hold the port for itself (choose another one), or the machine has no route for "
    "multicast (as root: ip route add 224.0.0.0/4 dev lo)"
)

_RECEIVE_BYTES = 4 << 20
_STANDARD_IDS = 0x7FF
_EXTENDED_IDS = 0x1FFFFFFF
_MOST_BYTES = 64


class MulticastBus(UdpMulticastBus):
    """A CAN bus over UDP multicast within one machine.

    Attributes:
        own: own frames that came back.
        refused: datagrams that are no frame.
        last_refusal: what was wrong with the last of them.
    """

    def __init__(self, group: str, port: int, *, fd: bool) -> None:
        self.own = 0
        self.refused = 0
        self.last_refusal = ""
        self._mark = f"tspace-{secrets.token_hex(8)}"
        super().__init__(group, port=port, hop_limit=0, fd=fd)
        with contextlib.suppress(OSError):  # the kernel gives what it allows
            self._multicast._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)

    def send(self, msg: can.Message, timeout: float | None = None) -> None:
        """Send with this bus' mark."""
        msg.channel = self._mark
        super().send(msg, timeout)

    def _recv_internal(self, timeout: float | None) -> tuple[can.Message | None, bool]:
        received = self._multicast.recv(timeout)
        if not received:
            return None, True
        try:
            return self._frame(received[0], received[2]), True
        except (ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
            self.refused += 1
            self.last_refusal = f"datagram refused: {error or type(error).__name__}"
            return None, True

    def _frame(self, data: bytes, timestamp: float) -> can.Message | None:
        fields: Any = msgpack.unpackb(data, raw=False)
        if not isinstance(fields, dict):
            message = f"a {type(fields).__name__} is no CAN frame"
            raise TypeError(message)
        if fields.get("channel") == self._mark:
            self.own += 1
            return None
        id, payload, extended = fields["arbitration_id"], fields["data"], fields["is_extended_id"] is True
        if type(id) is not int or not 0 <= id <= (_EXTENDED_IDS if extended else _STANDARD_IDS):
            message = f"arbitration id {str(id)[:20]}"
            raise ValueError(message)
        if not isinstance(payload, bytes) or len(payload) > _MOST_BYTES:
            message = f"data of frame {id:#x} is not at most {_MOST_BYTES} bytes"
            raise ValueError(message)
        dlc = fields.get("dlc")
        return can.Message(
            timestamp=timestamp,
            arbitration_id=id,
            is_extended_id=extended,
            is_remote_frame=fields.get("is_remote_frame") is True,
            is_error_frame=fields.get("is_error_frame") is True,
            dlc=dlc if type(dlc) is int else len(payload),
            data=payload,
            is_fd=fields.get("is_fd") is True,
            bitrate_switch=fields.get("bitrate_switch") is True,
            error_state_indicator=fields.get("error_state_indicator") is True,
        )


def open_bus(config: BusConfig, ids: frozenset[int] | None) -> can.BusABC:
    """Join the group; nothing is filtered here.

    Raises:
        BusError: the channel is no multicast group.
    """
    del ids
    try:
        is_group = ipaddress.ip_address(config.channel).is_multicast
    except ValueError:
        is_group = False
    if not is_group:
        message = (
            f"{describe(config)} cannot be opened: channel {config.channel!r} is no multicast group; give "
            "one as 239.74.163.2"
        )
        raise BusError(message)
    return MulticastBus(config.channel, config.port, fd=config.fd)
