"""How a vehicle is reached through its telematics box and the remote CAN service.

Hosts and credentials are settings of the installation (``TSPACE_REMOTE__*``, ``AWS_*``), never part of a
vehicle's file. Times are those of the wire contract.
"""

from typing import Literal

from pydantic import Field

from tspace_core.config.base import ConfigModel

UNIT_S = 1.0
"""Length of one unit of a telematics box's window, s."""
UNIT_SAMPLES = 50
"""Samples in a whole unit."""


class RemoteConfig(ConfigModel):
    """One vehicle's telematics box."""

    sign: dict[str, Literal[1, -1]] = Field(
        default_factory=dict, description="-1 for a signal that the box counts the other way round"
    )
    ab_switch: bool = Field(default=False, description="have the box switch between A and B torque as well")
    attempts: int = Field(default=3, ge=1, le=10, description="tries of a call in all")
    connect_attempts: int = Field(default=5, ge=1, le=20, description="tries to connect, of one call")
    backoff_s: float = Field(default=0.1, ge=0, le=10, description="first pause between tries; doubles, s")
    set_torque_s: float = Field(default=32.0, gt=0, description="longest set_torque, all tries together, s")
    get_signal_margin_s: float = Field(
        default=7.0, gt=0, description="longest get_signal beyond the window's duration, s"
    )
    answer_bytes: int = Field(
        default=4 << 20, ge=1 << 10, description="a larger answer or object is refused unread, bytes"
    )
    future_s: float = Field(
        default=5.0,
        ge=0,
        description="a sample stamped further ahead of our clock makes its window invalid, s",
    )
    past_s: float = Field(
        default=60.0, gt=0, description="a window that ended longer ago is stale and invalid, s"
    )
    signal_age_s: float = Field(
        default=12.0,
        gt=0,
        description="without a valid sample this young nothing is flashed; twice as long: reference map, s",
    )
    buckets: tuple[str, ...] = Field(default=(), description="buckets that links of the service may lead to")
    plain_http: bool = Field(default=False, description="allow http without TLS to a service beyond loopback")
