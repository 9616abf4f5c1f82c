"""Which bridge a vehicle has."""

from tspace_core.bridge.base import BridgeBase, BridgeOptions
from tspace_core.config.vehicle import Vehicle


def bridge_of(vehicle: Vehicle, options: BridgeOptions | None = None) -> BridgeBase:
    """The bridge of a vehicle, by its ``interface``: of its CAN bus, or of the remote CAN service.

    Raises:
        ConfigError: the vehicle lacks the section that its bridge needs.
    """
    # Late: each brings its own transport with it, and needs nothing of the other's.
    if vehicle.interface == "remote":
        from tspace_core.bridge.remote import RemoteBridge

        return RemoteBridge(vehicle, options)
    from tspace_core.bridge.bridge import Bridge

    return Bridge(vehicle, options)
