"""What must hold of a VCU before the first flash of a run."""

import numpy as np

from tspace_core.config.torque_map import TorqueMap
from tspace_core.config.vehicle import Vehicle
from tspace_core.errors import ConfigError
from tspace_core.guard.commands import Commands
from tspace_core.guard.envelope import Envelope
from tspace_core.guard.target import Identity
from tspace_core.guard.transaction import MismatchError, Session, check_identity

INSPECTION_LIMIT_S = 10.0
"""Longest time that arming may take: a whole map is read while the vehicle drives by its reference page."""


class Arming:
    """Looks at the VCU.

    Args:
        vehicle: with an xcp section.
        envelope: its limits.
        commands: the VCU.

    Raises:
        ConfigError: the vehicle has no xcp section.
    """

    def __init__(self, vehicle: Vehicle, envelope: Envelope, commands: Commands) -> None:
        if vehicle.xcp is None:
            message = (
                f"vehicle {vehicle.id} has no xcp section, so nothing can be flashed; add one to its file"
            )
            raise ConfigError(message)
        self._vehicle, self._xcp, self._envelope = vehicle, vehicle.xcp, envelope
        self._commands = commands
        self._reference = vehicle.default_map()

    def inspect(self, mark: int) -> Session:
        """Identity, reference page in effect, and on it the vehicle's default map, bit for bit.

        Raises:
            MismatchError: it is another VCU, or it holds another reference map.
            LinkError: it does not answer as it must.
        """
        commands, axes = self._commands, self._reference
        with commands.transaction(mark, INSPECTION_LIMIT_S):
            found = commands.identify()
            place = self._xcp.parameters.get(self._xcp.map_name)
            # Without an address in the vehicle's file the A2L gave it; then only that it stays is checked.
            address = found.map_address if place is None else place.address
            expected = Identity(self._vehicle.vin, self._xcp.software_id, address)
            check_identity(found, expected)
            commands.unlock()
            page = commands.reference_page
            commands.activate(page)
            in_effect = commands.active_page()
            if in_effect != page:
                message = f"page {in_effect} is in effect, the reference page {page} could not be switched to"
                raise MismatchError(message)
            cells = commands.read(page, 0, len(axes.table))
            if cells.shape != axes.table.shape or not np.isfinite(cells).all():
                message = f"the VCU's reference page is no map of {axes.table.shape} numbers in Nm"
                raise MismatchError(message)
            held = TorqueMap(axes.pedal_axis, axes.speed_axis_kmh, cells).sha256()
            if held != self._envelope.reference_sha256:
                message = (
                    f"the VCU's reference page has hash {held[:16]}, the default map of {self._vehicle.id} "
                    f"{self._envelope.reference_sha256[:16]}: correct the vehicle's file or the VCU"
                )
                raise MismatchError(message)
            if not commands.checksum_ok(page, axes.table):
                message = "the VCU's checksum over its reference page is not that of the default map"
                raise MismatchError(message)
        return Session(expected, page, self._reference, open=True)
